"""
Race: workers lease and settle the steps of a run at once, or while somebody holds the run.

    branch, branch          the join is due once, and counts both
    branch, branch undone   an end that never was is not counted
    end, end                the last two steps end the run once
    failure, end            the run fails once, with what the other branch did
    failure, failure        so it does with two failures, and the first is its error
    hold, exchange          what cannot be settled now is busy, stays leased, and is settled later;
                            a lost answer says so again
    hold, part              so it is with a part of a lease; the rest stays leased
    hold, reap              the lease of a dead worker stays until its run can be had
    hold, lease             a step that is ready is leased all the same, once
    hold, wake              a step that slept is put off, and woken later
    wake, cancel            one that is being woken is left to be, and the run ends after it
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
import time
from uuid import uuid4

import pytest

from ordinaut.errors import WrongState
from tests.places import assert_steps, exchange, kinds, run
from tests.races.waits import DONE, lease, parked, started, state, step

PAIR = [{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}]
JOIN = [*PAIR, {"id": "j", "uses": "echo", "needs": ["a", "b"]}]
FAIL = "select outcome from ordinaut.fail_work(%s, %s, 'boom', false)"
LATER = "select outcome from ordinaut.fail_work(%s, %s, 'boom', p_retry_after => '1 min')"
LEASE = "select * from ordinaut.lease_work('w2', p_limit => 5)"
CANCEL = "select ordinaut.cancel_run(%s)"
START = "select ordinaut.start_run(%s)"
RESOLVE = "select ordinaut.resolve_step(%s)"
HOLD = "select ordinaut._lock_run(%s)"


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


def due(boss):
    """The steps that are in line."""
    names = [r.step for r in boss.run("select step from ordinaut.due_work order by step")]
    boss.commit()
    return names


def states(boss, run_id):
    """The states of the run and of its steps, all of them where they belong."""
    assert_steps(boss)
    found = boss.run("select state from ordinaut.step where run_id = %s order by position", run_id)
    return state(boss, run_id), *(row.state for row in found)


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


# Somebody's open transaction holds the run


@pytest.fixture
def batch(boss, worker_id):
    """A lease of a registered worker: a step of each of two runs, and a unit of its own."""
    runs = [started(boss, [{"id": name, "uses": "echo"}]) for name in ("one", "two")]
    boss.run("select ordinaut.enqueue('echo')")
    held = uuid4()
    found = {row.step: row for row in boss.run(*exchange(worker_id, held, 3)) if row.kind == "work"}
    boss.commit()
    return held, [found[name] for name in ("one", "two", None)], runs


def test_hold_exchange(batch, worker_id, ann, bob, boss):
    held, (one, two, alone), (held_id, other_id) = batch
    beside, _ = lease(boss, started(boss, [{"id": "beside", "uses": "echo"}]), "beside")
    ann.run(HOLD, held_id)
    call = exchange(
        worker_id, uuid4(), 3, [(held, u.work_id, "success") for u in (one, two, alone)]
    )
    since = time.monotonic()
    assert kinds(bob.run(*call)) == [("busy", one.work_id)]
    assert time.monotonic() - since < 1, "it waited for the run"
    bob.commit()
    assert (state(boss, other_id), run(boss, alone.run_id).state) == ("success", "success")
    assert states(boss, held_id) == ("running", "in_progress")

    # The answer was lost; then the run is free.
    already = sorted((("already", u.work_id) for u in (two, alone)), key=str)
    assert kinds(bob.run(*call)) == [*already, ("busy", one.work_id)]
    bob.commit()
    ann.commit()
    assert bob.run(*exchange(worker_id, uuid4(), 3, [(held, one.work_id, "success")])) == []
    bob.commit()
    assert states(boss, held_id) == ("success", "complete")
    assert boss.run("select lease_id, settled from ordinaut.lease") == [(beside, [])]


def test_hold_part(batch, worker_id, ann, bob, boss):
    held, (one, two, alone), (held_id, other_id) = batch
    ann.run(HOLD, held_id)
    part = [(held, u.work_id, "success") for u in (one, two)]
    assert kinds(bob.run(*exchange(worker_id, uuid4(), 3, part))) == [("busy", one.work_id)]
    bob.commit()
    ann.commit()
    assert (state(boss, other_id), state(boss, held_id)) == ("success", "running")
    settled = boss.one("select settled from ordinaut.lease where lease_id = %s", held)
    assert settled == [two.work_id]
    boss.commit()
    rest = [(held, u.work_id, "success") for u in (one, alone)]
    assert bob.run(*exchange(worker_id, uuid4(), 3, rest)) == []
    bob.commit()
    assert (states(boss, held_id), run(boss, alone.run_id).state) == (
        ("success", "complete"),
        "success",
    )


def test_hold_reap(run_id, ann, at, boss):
    reaper = at("reaper", "12:02:00")
    _, step_id = lease(boss, run_id, "a")
    ann.run(HOLD, run_id)
    assert reaper.one("select ordinaut.reap()") == 0
    reaper.commit()
    assert states(boss, run_id) == ("running", "in_progress", "ready", "pending")
    ann.commit()
    assert reaper.one("select ordinaut.reap()") == 1
    reaper.commit()
    assert states(boss, run_id) == ("running", "waiting_for_retry", "ready", "pending")
    assert boss.one("select crashes from ordinaut.step where step_id = %s", step_id) == 1


def test_hold_lease(run_id, pair_id, ann, at, boss):
    late = at("late", "12:02:00")
    parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, pair_id)
    assert sorted(row.step for row in late.run(LEASE)) == ["a", "b", "b"]  # and wakes who slept
    late.commit()
    ann.commit()
    assert states(boss, pair_id) == ("running", "in_progress", "in_progress")
    assert states(boss, run_id) == ("running", "complete", "in_progress", "pending")
    assert due(boss) == []


def test_hold_wake(run_id, ann, at, boss):
    late = at("late", "12:02:00")
    boss.run("select ordinaut.skip_step(%s)", step(boss, run_id, "b").step_id)
    slept = parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, run_id)
    assert late.run(LEASE) == []
    late.commit()
    assert states(boss, run_id)[1] == "in_progress"
    assert boss.one("select attempt from ordinaut.due_work where work_id = %s", slept) == 1
    ann.commit()
    late.at("2026-03-29 12:02:01+00")
    assert [row.step for row in late.run(LEASE)] == ["j"]
    late.commit()
    assert states(boss, run_id) == ("running", "complete", "skipped", "in_progress")


def test_wake_cancel(run_id, ann, at, boss):
    late = at("late", "12:02:00")
    boss.run("select ordinaut.skip_step(%s)", step(boss, run_id, "b").step_id)
    parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, run_id)
    assert late.run(LEASE) == []  # uncommitted: it has the unit, and puts it off
    assert ann.run(CANCEL, run_id) == [("requested",)]
    ann.commit()
    late.commit()
    assert states(boss, run_id) == ("running", "in_progress", "skipped", "cancelled")
    late.at("2026-03-29 12:02:01+00")
    assert late.run(LEASE) == []
    late.commit()
    assert states(boss, run_id) == ("cancelled", "complete", "skipped", "cancelled")


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
