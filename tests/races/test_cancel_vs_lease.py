"""
Race: an operator cancels a run while it moves between its places.

The cancel may wait for the short transaction that moves the unit; a lease never waits:

    lease, cancel            the cancel waits, and leaves its request for the worker
    lease rolled back        the cancel waits, and cancels
    cancel, lease            the lease skips the locked row
    cancel rolled back       it can be leased as ever
    parking, cancel          the cancel waits, and finds the unit where it was parked
    unparking, cancel        the cancel waits; the next lease reads its request
    lease, cancel, cancel    the lessee cancels in its own transaction: nobody waits in a circle
    cancel, cancel           the second waits, and is too late: nobody will read its request
"""

from __future__ import annotations

import pytest

from tests.places import kinds, places, run

CANCEL = "select ordinaut.cancel_run(%s)"
LEASE = "select * from ordinaut.lease_work('w2', p_limit => 5)"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:30")


@pytest.fixture
def operator(at):
    return at("operator", "12:00:31")


def requests(boss):
    return boss.one("select count(*) from ordinaut.cancel_request")


def test_lease_cancel(unit, worker, operator, boss):
    [leased] = worker.run(LEASE)
    operator.start(CANCEL, unit)
    operator.wait_blocked(by=worker)
    worker.commit()
    assert operator.result() == [("requested",)]
    operator.commit()

    beat = worker.run("select * from ordinaut.heartbeat(%s)", leased.lease_id)
    assert kinds(beat) == [("cancel", unit)]
    worker.run("select * from ordinaut.fail_work(%s, %s, 'stopped')", leased.lease_id, unit)
    worker.commit()
    assert run(boss, unit).state == "cancelled"


def test_lease_cancel_cancel(unit, worker, operator, boss):
    worker.run(LEASE)
    operator.start(CANCEL, unit)
    operator.wait_blocked(by=worker)
    assert worker.run(CANCEL, unit) == [("requested",)]
    worker.commit()
    assert operator.result() == [("requested",)]
    operator.commit()
    assert requests(boss) == 1


def test_lease_rolled_back(unit, worker, operator, boss):
    worker.run(LEASE)
    operator.start(CANCEL, unit)
    operator.wait_blocked(by=worker)
    worker.rollback()

    assert operator.result() == [("cancelled",)]
    operator.commit()
    assert run(boss, unit).attempt == 0


def test_cancel_lease(unit, worker, operator, boss):
    assert operator.one(CANCEL, unit) == "cancelled"
    assert worker.run(LEASE) == []  # skips, does not wait
    operator.commit()

    assert worker.run(LEASE) == []
    assert run(boss, unit).state == "cancelled"
    assert requests(boss) == 0


def test_cancel_rolled_back(unit, worker, operator):
    operator.run(CANCEL, unit)
    operator.rollback()

    assert [row.attempt for row in worker.run(LEASE)] == [1]
    worker.commit()


def test_parking_cancel(work, lend, worker, operator, boss):
    work(key="k")
    lend(1)
    [second] = work(key="k")
    assert worker.run(LEASE) == []  # parks it: the key is busy
    operator.start(CANCEL, second)
    operator.wait_blocked(by=worker)
    worker.commit()

    assert operator.result() == [("cancelled",)]
    operator.commit()
    assert run(boss, second).state == "cancelled"


def test_unparking_cancel(work, lend, worker, operator, boss):
    [first] = work(key="k")
    lease = lend(1)
    [second] = work(key="k")
    worker.run(LEASE)
    worker.commit()
    assert places(boss)[second] == "parked"

    worker.run("select * from ordinaut.complete_work(%s, %s)", lease, first)  # unparks it
    operator.start(CANCEL, second)
    operator.wait_blocked(by=worker)
    worker.commit()
    assert operator.result() == [("requested",)]
    operator.commit()

    assert worker.run(LEASE) == []
    worker.commit()
    assert run(boss, second).state == "cancelled"
    assert boss.one("select count(*) from ordinaut.hold where slot >= 1") == 0


def test_cancel_cancel(unit, operator, at, boss):
    other = at("other", "12:00:32")
    assert operator.one(CANCEL, unit) == "cancelled"
    other.start(CANCEL, unit)
    other.wait_blocked(by=operator)
    operator.commit()

    assert other.result() == [("too_late",)]
    other.commit()
    assert requests(boss) == 0
