"""
Race: an operator cancels a run while its attempt fails.

Neither waits.  The request stands whatever the order, and the next lease at the latest reads it:

    cancel committed, fail   cancelled
    cancel, fail             the failure does not see the open request: one more wait, no attempt
    fail, cancel             the cancel does not see where the unit goes: the same
    fail committed, cancel   it waits in due_work: cancelled at once
    the last attempt         failed came first, and no request is left
    fail rolled back         the request stands for the next settle
"""

from __future__ import annotations

import pytest

from tests.places import events, places, run

CANCEL = "select ordinaut.cancel_run(%s)"
FAIL = "select * from ordinaut.fail_work(%s, %s, 'broken')"
LEASE = "select * from ordinaut.lease_work('w2')"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:30")


@pytest.fixture
def operator(at):
    return at("operator", "12:00:31")


def test_cancel_committed_fail(lease, unit, worker, operator, boss):
    operator.run(CANCEL, unit)
    operator.commit()

    assert worker.run(FAIL, lease, unit) == [(unit, "cancelled")]
    worker.commit()
    assert run(boss, unit).state == "cancelled"


def test_cancel_fail(lease, unit, worker, operator, at, boss):
    assert operator.one(CANCEL, unit) == "requested"
    assert worker.run(FAIL, lease, unit) == [(unit, "retry")]
    worker.commit()
    operator.commit()
    assert places(boss) == {unit: "due_work"}

    next_worker = at("next", "12:02:00")
    assert next_worker.run(LEASE) == []
    next_worker.commit()
    assert (run(boss, unit).state, run(boss, unit).attempt) == ("cancelled", 1)


def test_fail_cancel(lease, unit, worker, operator, at, boss):
    worker.run(FAIL, lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()
    worker.commit()

    next_worker = at("next", "12:02:00")
    assert next_worker.run(LEASE) == []
    next_worker.commit()
    assert run(boss, unit).state == "cancelled"
    assert events(boss, unit).count("failed") == 1


def test_fail_committed_cancel(lease, unit, worker, operator, boss):
    worker.run(FAIL, lease, unit)
    worker.commit()

    assert operator.one(CANCEL, unit) == "cancelled"
    operator.commit()
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_the_last_attempt(work, lend, worker, operator, boss):
    [unit] = work(max_attempts=1)
    lease = lend(1)
    worker.run(FAIL, lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    worker.commit()
    operator.commit()

    assert run(boss, unit).state == "failed"
    boss.run("select ordinaut.reap()")
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_fail_rolled_back(lease, unit, worker, operator, boss):
    worker.run(FAIL, lease, unit)
    operator.run(CANCEL, unit)
    operator.commit()
    worker.rollback()

    assert worker.run(FAIL, lease, unit) == [(unit, "cancelled")]
    worker.commit()
    assert run(boss, unit).state == "cancelled"
