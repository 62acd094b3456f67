"""
Race: a run is ended as stuck while its worker settles it, or while somebody holds it.

    settle, time out     the lease is being settled: it is not stuck
    time out, settle     the worker waits for the lease, and comes too late
    assert, time out     a tool that writes keeps its lease: its unit is left; its run of steps ends
                         with what it says
    hold, time out       a run of steps that an open transaction holds is left for the next time
    time out, time out   one of them does it
"""

from __future__ import annotations

import pytest

from ordinaut.errors import LeaseLost

LEASE = "select * from ordinaut.lease_work('w', p_for => '1 day')"
DONE = "select * from ordinaut.complete_work(%s, %s)"
ASSERT = "select ordinaut.assert_lease(%s, %s)"
END = "select * from ordinaut.timeout_stuck()"
FLOW = """select run_id from ordinaut.enqueue('pipeline',
  p_pipeline => '[{"id": "one", "uses": "echo"}]')"""


@pytest.fixture
def held(work, boss):
    work()
    [row] = boss.run(LEASE)
    boss.commit()
    return row


@pytest.fixture
def flow(boss):
    [row] = boss.run(FLOW)
    [unit] = boss.run(LEASE)
    boss.commit()
    assert unit.run_id == row.run_id
    return unit


@pytest.fixture
def worker(at):
    return at("worker", "13:01:00")


@pytest.fixture
def sweeper(at):
    return at("sweeper", "13:01:00")


def outcomes(rows):
    return [row.outcome for row in rows]


def state(session, run_id):
    return session.one("select r.state from ordinaut.get_run(%s) as r", run_id)


def test_settle_time_out(held, worker, sweeper, boss):
    worker.run(DONE, held.lease_id, held.work_id)
    assert outcomes(sweeper.run(END)) == ["busy"]  # does not wait
    sweeper.commit()
    worker.commit()
    assert state(boss, held.run_id) == "success"


def test_time_out_settle(held, worker, sweeper, boss):
    assert outcomes(sweeper.run(END)) == ["timed_out"]
    worker.start(DONE, held.lease_id, held.work_id)
    worker.wait_blocked(by=sweeper)
    sweeper.commit()
    with pytest.raises(LeaseLost):
        worker.result()
    worker.rollback()
    assert state(boss, held.run_id) == "timed_out"


def test_assert_time_out(held, worker, sweeper, boss):
    worker.run(ASSERT, held.lease_id, held.work_id)
    assert outcomes(sweeper.run(END)) == ["busy"]  # does not wait
    sweeper.commit()
    worker.run(DONE, held.lease_id, held.work_id)
    worker.commit()
    assert state(boss, held.run_id) == "success"


def test_assert_time_out_steps(flow, worker, sweeper, boss):
    worker.run(ASSERT, flow.lease_id, flow.work_id)
    assert outcomes(sweeper.run(END)) == ["timed_out"]  # does not wait
    sweeper.commit()
    assert state(boss, flow.run_id) == "running"
    boss.commit()
    assert worker.run(DONE, flow.lease_id, flow.work_id) == [(flow.work_id, "success")]
    worker.commit()
    assert state(boss, flow.run_id) == "timed_out"


def test_hold_time_out(flow, worker, sweeper, boss):
    worker.run(DONE, flow.lease_id, flow.work_id)  # uncommitted: holds the run
    assert outcomes(sweeper.run(END)) == ["busy"]
    sweeper.commit()
    worker.rollback()

    assert outcomes(sweeper.run(END)) == ["timed_out"]
    sweeper.commit()
    assert state(boss, flow.run_id) == "timed_out"


def test_time_out_time_out(held, flow, worker, sweeper, boss):
    assert outcomes(sweeper.run(END)) == ["timed_out", "timed_out"]
    assert outcomes(worker.run(END)) == ["busy", "busy"]
    sweeper.commit()
    worker.commit()
    assert worker.run(END) == []
    worker.commit()
    boss.run("delete from ordinaut.task_run where run_id = %s", flow.run_id)
    boss.commit()
