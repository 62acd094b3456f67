"""
Race: a person acts on a step while workers lease and settle.

    skip, lease       the lease finds no unit, and the step is skipped
    lease, skip       the skip waits for the lease, and is refused
    settle, complete  the person waits for the result, and is refused: what is complete stays
    complete, settle  of a sibling: the settle waits for the run, and the join is unlocked once
    retry, retry      a failed run is reopened once
    retry, skip       the second person acts on the run that goes on
    end, resolve      a run that is just failing is reopened when it has failed
"""

from __future__ import annotations

import pytest

from ordinaut.errors import WrongState
from tests.races.waits import DONE, lease, started, state, step

PAIR = [
    {"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []},
    {"id": "j", "uses": "echo", "needs": ["a", "b"]},
]  # fmt: skip
FAIL = "select outcome from ordinaut.fail_work(%s, %s, 'boom', false)"
RETRY = "select ordinaut.retry_failed_steps(%s)"


@pytest.fixture
def ann(at):
    return at("ann", "12:00:10")


@pytest.fixture
def bob(at):
    return at("bob", "12:00:10")


@pytest.fixture
def run_id(boss):
    return started(boss, PAIR)


def due(boss):
    """The steps that are in line, each once."""
    names = [r.step for r in boss.run("select step from ordinaut.due_work order by step")]
    boss.commit()
    return names


def test_skip_lease(run_id, ann, bob, boss):
    ann.run("select ordinaut.skip_step(%s)", step(boss, run_id, "a").step_id)
    [leased] = bob.run("select * from ordinaut.lease_work('w', p_limit => 5)")
    assert leased.step == "b"
    bob.commit()
    ann.commit()
    assert step(boss, run_id, "a").state == "skipped"
    assert boss.run(DONE, leased.lease_id, leased.work_id) == [("success",)]
    boss.commit()
    assert due(boss) == ["j"]


def test_lease_skip(run_id, ann, bob, boss):
    step_id = step(boss, run_id, "a").step_id
    bob.run("select ordinaut._lease_step(%s, 'w')", step_id)
    ann.start("select ordinaut.skip_step(%s)", step_id)
    ann.wait_blocked(by=bob)
    bob.commit()
    with pytest.raises(WrongState, match="is being run"):
        ann.result()
    ann.rollback()
    assert step(boss, run_id, "a").state == "in_progress"


def test_settle_complete(run_id, ann, bob, boss):
    held = lease(boss, run_id, "a")
    bob.run(DONE, *held)
    ann.start("select ordinaut.complete_step(%s, '1')", held[1])
    ann.wait_blocked(by=bob)
    bob.commit()
    with pytest.raises(WrongState, match="is complete"):
        ann.result()
    ann.rollback()
    assert (step(boss, run_id, "a").output, due(boss)) == (None, ["b"])


def test_complete_settle(run_id, ann, bob, boss):
    held = lease(boss, run_id, "a")
    ann.run("select ordinaut.complete_step(%s)", step(boss, run_id, "b").step_id)
    bob.start(DONE, *held)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("success",)]
    bob.commit()
    assert due(boss) == ["j"]


@pytest.fixture
def failed_id(run_id, boss):
    """A run that has failed, with a step that succeeded and one that did not."""
    boss.run(DONE, *lease(boss, run_id, "b"))
    boss.run(FAIL, *lease(boss, run_id, "a"))
    boss.commit()
    assert state(boss, run_id) == "failed"
    return run_id


def test_retry_retry(failed_id, ann, bob, boss):
    assert ann.run(RETRY, failed_id) == [(1,)]
    bob.start(RETRY, failed_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    with pytest.raises(WrongState, match="has not failed"):
        bob.result()
    bob.rollback()
    assert (state(boss, failed_id), due(boss)) == ("running", ["a"])


def test_retry_skip(failed_id, ann, bob, boss):
    ann.run(RETRY, failed_id)
    bob.start("select ordinaut.skip_step(%s)", step(boss, failed_id, "a").step_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("skipped",)]
    bob.commit()
    assert (state(boss, failed_id), due(boss)) == ("running", ["j"])


def test_end_resolve(run_id, ann, bob, boss):
    first, second = lease(boss, run_id, "a"), lease(boss, run_id, "b")
    boss.run(FAIL, *first)
    boss.commit()
    bob.run(DONE, *second)  # uncommitted: the run fails with this end
    ann.start("select ordinaut.resolve_step(%s)", first[1])
    ann.wait_blocked(by=bob)
    bob.commit()
    assert ann.result() == [("resolved_manually",)]
    ann.commit()
    assert (state(boss, run_id), due(boss)) == ("running", ["j"])
