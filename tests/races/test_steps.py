"""
Race: steps of one run settle, start and are cancelled at the same moment.

    branch, branch         the second waits for the run; the join is due once, and the run ends once
    held run, exchange     `busy` for its unit, which stays leased; the others are settled meanwhile
    held run, reap         its unit is taken back by the next reap
    failure, lease         a sibling that is being leased is let run, and nothing after it begins
    cancel, lease of a run what is cancelled first never starts; what started first is told
"""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.places import exchange

DIAMOND = [
    {"id": "s", "uses": "echo"},
    {"id": "l", "uses": "echo", "needs": "s"},
    {"id": "r", "uses": "echo", "needs": "s"},
    {"id": "r2", "uses": "echo", "needs": "r"},
    {"id": "j", "uses": "echo", "needs": ["l", "r2"]},
]
COMPLETE = "select * from ordinaut.complete_work(%s, %s)"
FAIL = "select * from ordinaut.fail_work(%s, %s, 'no', false)"
STATE = "select state from ordinaut.step where run_id = %s and name = %s"
HOLD = "select ordinaut._lock_run(%s)"


@pytest.fixture
def start(boss):
    def begin(pipeline=DIAMOND):
        run_id = boss.one(
            "select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(pipeline)
        )
        boss.run("select ordinaut.start_run(%s)", run_id)
        boss.commit()
        return run_id

    return begin


@pytest.fixture
def lease(boss):
    def take(run_id, name):
        step_id = boss.one("select step_id from ordinaut.step where run_id = %s and name = %s",
                           run_id, name)  # fmt: skip
        lease_id = boss.one("select ordinaut._lease_step(%s, 'w', '30 s')", step_id)
        boss.commit()
        return lease_id, step_id

    return take


@pytest.fixture
def done(boss, lease):
    def complete(run_id, *names):
        for name in names:
            boss.run(COMPLETE, *lease(run_id, name))
            boss.commit()

    return complete


@pytest.fixture
def first(at):
    return at("first", "12:00:10")


@pytest.fixture
def second(at):
    return at("second", "12:00:11")


def test_branch_branch(start, lease, done, first, second, boss):
    run_id = start()
    done(run_id, "s", "r")
    left, right = lease(run_id, "l"), lease(run_id, "r2")
    first.run(COMPLETE, *left)
    second.start(COMPLETE, *right)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(right[1], "success")]
    second.commit()
    assert boss.one("select count(*) from ordinaut.due_work") == 1
    done(run_id, "j")
    assert boss.one("select state from ordinaut.task_run where run_id = %s", run_id) == "success"


def test_held_run_exchange(start, worker_id, first, second, boss):
    run_id = start([{"id": "a", "uses": "echo"}])
    other = boss.one("select run_id from ordinaut.enqueue('echo')")
    lease_id = uuid4()
    rows = boss.run(*exchange(worker_id, lease_id, 5))
    boss.commit()
    step_id = next(row.work_id for row in rows if row.work_id != other)
    first.run(HOLD, run_id)

    def settle(*ids):
        return exchange(worker_id, uuid4(), 0, [(lease_id, i, "success") for i in ids])

    answer = {(row.kind, row.work_id) for row in second.run(*settle(step_id, other))}
    second.commit()
    assert ("busy", step_id) in answer
    assert boss.one(
        "select finished_at is not null from ordinaut.task_run where run_id = %s", other
    )
    assert boss.one(STATE, run_id, "a") == "in_progress"
    first.rollback()
    assert "busy" not in {row.kind for row in second.run(*settle(step_id))}
    second.commit()
    assert boss.one(STATE, run_id, "a") == "complete"
    assert boss.one("select count(*) from ordinaut.lease") == 0


def test_held_run_reap(start, lease, at, first, boss):
    run_id = start([{"id": "a", "uses": "echo"}])
    lease(run_id, "a")
    first.run(HOLD, run_id)
    reaper = at("reaper", "12:02:00")

    reaper.run("select ordinaut.reap()")
    reaper.commit()
    assert boss.one(STATE, run_id, "a") == "in_progress"
    first.rollback()
    assert reaper.one("select ordinaut.reap()") == 1
    reaper.commit()
    assert boss.one(STATE, run_id, "a") == "waiting_for_retry"


def test_failure_lease(start, lease, done, first, second, boss):
    run_id = start()
    done(run_id, "s")
    left = lease(run_id, "l")
    second.run("select * from ordinaut.lease_work('w2')")  # r, and not committed
    first.run(FAIL, *left)
    first.commit()
    second.commit()

    assert [boss.one(STATE, run_id, name) for name in ("r", "r2", "j")] == [
        "in_progress", "cancelled", "cancelled",
    ]  # fmt: skip
    lease_id = boss.one("select lease_id from ordinaut.lease")
    boss.run("select * from ordinaut.complete_work(%s)", lease_id)
    boss.commit()
    assert boss.one("select state from ordinaut.task_run where run_id = %s", run_id) == "failed"


def test_cancel_first(first, second, boss):
    run_id = boss.one("select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(DIAMOND))
    boss.commit()
    assert first.one("select ordinaut.cancel_run(%s)", run_id) == "cancelled"
    assert second.run("select * from ordinaut.lease_work('w')") == []
    first.commit()
    second.commit()
    assert boss.one("select count(*) from ordinaut.step") == 0


def test_lease_first(first, second, boss):
    run_id = boss.one("select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(DIAMOND))
    boss.commit()
    first.run("select * from ordinaut.lease_work('w')")
    second.start("select ordinaut.cancel_run(%s)", run_id)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [("requested",)]
    second.commit()
    lease_id = boss.one("select lease_id from ordinaut.lease")
    boss.run("select * from ordinaut.release_work(%s)", lease_id)
    boss.commit()
    assert boss.one("select state from ordinaut.run where run_id = %s", run_id) == "cancelled"
