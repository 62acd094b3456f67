"""
Race: workers lease and settle the steps of a run at once.

What happens while somebody holds the run is in test_held_runs.py.

    branch, branch          the join is due once, and counts both
    branch, branch undone   an end that never was is not counted
    end, end                the last two steps end the run once
    failure, end            the run fails once, with what the other branch did
    failure, failure        so it does with two failures, and the first is its error
    lease, cancel           the run starts: the cancel waits, then takes what was not leased
    lease undone, cancel    the run is cancelled where it was
    start, cancel           so it is with the start by hand
    cancel, lease           the lease passes the run by
    cancel, start           the start waits, and finds nothing to start
    lease, failure          a sibling that is being leased is let run; the run ends after it
    lease undone, failure   it is leased once more, and the run ends after it
    failure, lease          the lease passes the sibling by
    failure undone, lease   it can be leased as ever
    unpark, failure         a sibling whose tool comes just now is left in line; nobody waits
    cancel, end             what ends late unlocks nothing
    end, cancel             the cancel waits, and is too late
    resolve, cancel         the cancel waits, then takes what the resolve made ready
    cancel, resolve         the resolve waits, and reopens the run: it came later
"""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from ordinaut.errors import WrongState
from tests.places import run
from tests.races.waits import CANCEL, DONE, JOIN, LEASE, PAIR, due, lease, started, states

FAIL = "select outcome from ordinaut.fail_work(%s, %s, 'boom', false)"
LATER = "select outcome from ordinaut.fail_work(%s, %s, 'boom', p_retry_after => '1 min')"
START = "select ordinaut.start_run(%s)"
RESOLVE = "select ordinaut.resolve_step(%s)"


@pytest.fixture
def ann(at):
    return at("ann", "12:00:10")


@pytest.fixture
def bob(at):
    return at("bob", "12:00:10")


@pytest.fixture
def run_id(boss):
    return started(boss, JOIN)


@pytest.fixture
def pair_id(boss):
    return started(boss, PAIR)


def ends(boss, run_id):
    """How the run has ended, by its row and by its journal."""
    said = boss.run(
        "select event from ordinaut.run_log where run_id = %s and step is null order by log_id",
        run_id,
    )
    return run(boss, run_id).state, [row.event for row in said]


# Joins and ends


def test_branch_branch(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    ann.run(DONE, *first)
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("success",)]
    bob.commit()
    assert states(boss, run_id) == ("running", "complete", "complete", "ready")
    assert due(boss) == ["j"]


def test_branch_branch_undone(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    ann.run(DONE, *first)
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.rollback()
    bob.result()
    bob.commit()
    assert states(boss, run_id) == ("running", "in_progress", "complete", "pending")
    ann.run(DONE, *first)
    ann.commit()
    assert due(boss) == ["j"]


def test_end_end(pair_id, ann, bob, boss):
    first, second = lease(boss, pair_id, "a"), lease(boss, pair_id, "b")
    ann.run(DONE, *first)
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.commit()
    bob.result()
    bob.commit()
    assert states(boss, pair_id) == ("success", "complete", "complete")
    assert ends(boss, pair_id) == ("success", [])


def test_failure_end(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    assert ann.run(FAIL, *first) == [("failed",)]
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("success",)]
    bob.commit()
    assert states(boss, run_id) == ("failed", "error", "complete", "cancelled")
    assert ends(boss, run_id) == ("failed", ["failed"])


def test_failure_failure(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    bob.run(FAIL, *second)
    ann.start(FAIL, *first)
    ann.wait_blocked(by=bob)
    bob.commit()
    assert ann.result() == [("failed",)]
    ann.commit()
    assert states(boss, run_id) == ("failed", "error", "error", "cancelled")
    assert ends(boss, run_id) == ("failed", ["failed"])
    assert run(boss, run_id).error["message"] == "step b: boom"


# A run that starts, and a cancel


@pytest.fixture
def queued_id(boss):
    run_id = boss.one("select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(JOIN))
    boss.commit()
    return run_id


def test_lease_cancel(queued_id, ann, bob, boss):
    [unit] = ann.run("select * from ordinaut.lease_work('w', p_limit => 1)")
    bob.start(CANCEL, queued_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("requested",)]
    bob.commit()
    assert states(boss, queued_id) == ("running", "in_progress", "cancelled", "cancelled")
    assert ann.run(DONE, unit.lease_id, unit.work_id) == [("success",)]
    ann.commit()
    assert states(boss, queued_id) == ("cancelled", "complete", "cancelled", "cancelled")
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_lease_undone_cancel(queued_id, ann, bob, boss):
    ann.run(LEASE)
    bob.start(CANCEL, queued_id)
    bob.wait_blocked(by=ann)
    ann.rollback()
    assert bob.result() == [("cancelled",)]
    bob.commit()
    assert states(boss, queued_id) == ("cancelled",)


def test_start_cancel(queued_id, ann, bob, boss):
    ann.run(START, queued_id)
    bob.start(CANCEL, queued_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("cancelled",)]
    bob.commit()
    assert states(boss, queued_id) == ("cancelled",) * 4


def test_cancel_lease(queued_id, ann, bob, boss):
    assert bob.run(CANCEL, queued_id) == [("cancelled",)]
    assert ann.run(LEASE) == []
    ann.commit()
    bob.commit()
    assert (ann.run(LEASE), states(boss, queued_id)) == ([], ("cancelled",))


def test_cancel_start(queued_id, ann, bob, boss):
    bob.run(CANCEL, queued_id)
    ann.start(START, queued_id)
    ann.wait_blocked(by=bob)
    bob.commit()
    with pytest.raises(WrongState, match="waits to start"):
        ann.result()
    ann.rollback()
    assert states(boss, queued_id) == ("cancelled",)


# A branch fails, and its sibling is leased


def test_lease_failure(run_id, ann, bob, boss):
    first = lease(boss, run_id, "a")
    [sibling] = bob.run(LEASE)
    assert ann.run(FAIL, *first) == [("failed",)]  # does not wait for the lease
    ann.commit()
    bob.commit()
    assert states(boss, run_id) == ("running", "error", "in_progress", "cancelled")
    assert bob.run(DONE, sibling.lease_id, sibling.work_id) == [("success",)]
    bob.commit()
    assert states(boss, run_id) == ("failed", "error", "complete", "cancelled")


def test_lease_undone_failure(run_id, ann, bob, boss):
    first = lease(boss, run_id, "a")
    bob.run(LEASE)
    ann.run(FAIL, *first)
    ann.commit()
    bob.rollback()
    assert states(boss, run_id) == ("running", "error", "ready", "cancelled")
    [sibling] = bob.run(LEASE)
    assert bob.run(
        "select outcome from ordinaut.release_work(%s, %s)", sibling.lease_id, sibling.work_id
    ) == [("cancelled",)]
    bob.commit()
    assert states(boss, run_id) == ("failed", "error", "cancelled", "cancelled")


def test_failure_lease(run_id, ann, bob, boss):
    ann.run(FAIL, *lease(boss, run_id, "a"))
    assert bob.run(LEASE) == []
    ann.commit()
    assert states(boss, run_id) == ("failed", "error", "cancelled", "cancelled")
    assert bob.run(LEASE) == []


def test_failure_undone_lease(run_id, ann, bob, boss):
    ann.run(FAIL, *lease(boss, run_id, "a"))
    ann.rollback()
    assert [row.step for row in bob.run(LEASE)] == ["b"]
    bob.commit()
    assert states(boss, run_id) == ("running", "in_progress", "in_progress", "pending")


def test_unpark_failure(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    boss.run("select ordinaut._settle_alone(%s, %s, 'declined', null, null)", *second)
    boss.commit()
    assert boss.one("select reason from ordinaut.parked where work_id = %s", second[1]) == "tool"
    boss.commit()
    bob.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", uuid4())
    assert ann.run(FAIL, *first) == [("failed",)]
    ann.commit()
    bob.commit()
    assert states(boss, run_id) == ("running", "error", "ready", "cancelled")
    assert due(boss) == ["b"]


# A cancel beside an end, and beside a person


def test_cancel_end(run_id, ann, bob, boss):
    held = lease(boss, run_id, "a")
    assert bob.run(CANCEL, run_id) == [("requested",)]
    ann.start(DONE, *held)
    ann.wait_blocked(by=bob)
    bob.commit()
    assert ann.result() == [("success",)]
    ann.commit()
    assert states(boss, run_id) == ("cancelled", "complete", "cancelled", "cancelled")
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_end_cancel(boss, ann, bob):
    run_id = started(boss, [{"id": "a", "uses": "echo"}])
    ann.run(DONE, *lease(boss, run_id, "a"))
    bob.start(CANCEL, run_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("too_late",)]
    bob.commit()
    assert (states(boss, run_id), ends(boss, run_id)) == (("success", "complete"), ("success", []))


@pytest.fixture
def failing(boss):
    """A run of two steps in sequence; the first is to be tried again."""
    run_id = started(boss, [{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}])
    held = lease(boss, run_id, "a")
    assert boss.run(LATER, *held) == [("retry",)]
    boss.commit()
    return run_id, held[1]


def test_resolve_cancel(failing, ann, bob, boss):
    run_id, step_id = failing
    ann.run(RESOLVE, step_id)
    bob.start(CANCEL, run_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("cancelled",)]
    bob.commit()
    assert states(boss, run_id) == ("cancelled", "resolved_manually", "cancelled")


def test_cancel_resolve(failing, ann, bob, boss):
    run_id, step_id = failing
    bob.run(CANCEL, run_id)
    ann.start(RESOLVE, step_id)
    ann.wait_blocked(by=bob)
    bob.commit()
    assert ann.result() == [("resolved_manually",)]
    ann.commit()
    assert states(boss, run_id) == ("running", "resolved_manually", "ready")
    assert (due(boss), boss.one("select count(*) from ordinaut.cancel_request")) == (["b"], 0)
