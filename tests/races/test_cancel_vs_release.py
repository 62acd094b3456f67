"""
Race: an operator cancels a run while its worker gives it back.

Neither waits, and whoever leases the unit next ends it:

    cancel committed, release   cancelled
    cancel, release             released; the next lease drops it
    release, cancel             the same
    release committed, cancel   cancelled at once
    snoozed for a day           the request waits as long as the unit does
"""

from __future__ import annotations

import pytest

from tests.places import places, run

CANCEL = "select ordinaut.cancel_run(%s)"
RELEASE = "select * from ordinaut.release_work(%s, %s)"
LEASE = "select * from ordinaut.lease_work('w2')"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:30")


@pytest.fixture
def operator(at):
    return at("operator", "12:00:31")


def test_cancel_committed_release(lease, unit, worker, operator, boss):
    operator.run(CANCEL, unit)
    operator.commit()

    assert worker.run(RELEASE, lease, unit) == [(unit, "cancelled")]
    worker.commit()
    assert run(boss, unit).state == "cancelled"


def test_cancel_release(lease, unit, worker, operator, boss):
    assert operator.one(CANCEL, unit) == "requested"
    assert worker.run(RELEASE, lease, unit) == [(unit, "released")]
    worker.commit()
    operator.commit()
    assert places(boss) == {unit: "due_work"}

    assert worker.run(LEASE) == []
    worker.commit()
    assert (run(boss, unit).state, run(boss, unit).attempt) == ("cancelled", 1)


def test_release_cancel(lease, unit, worker, operator, boss):
    worker.run(RELEASE, lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()
    worker.commit()

    assert worker.run(LEASE) == []
    worker.commit()
    assert run(boss, unit).state == "cancelled"


def test_release_committed_cancel(lease, unit, worker, operator, boss):
    worker.run(RELEASE, lease, unit)
    worker.commit()

    assert operator.one(CANCEL, unit) == "cancelled"
    operator.commit()
    assert run(boss, unit).state == "cancelled"


def test_snoozed_for_a_day(lease, unit, worker, operator, at, boss):
    worker.run("select * from ordinaut.snooze_work(%s, %s, '1 day')", lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()
    worker.commit()
    boss.run("select ordinaut.reap()")  # clears requests of ended runs only
    boss.commit()

    tomorrow = at("tomorrow", "23:59:59").at("2026-03-30 12:01:00+00")
    assert tomorrow.run(LEASE) == []
    tomorrow.commit()
    assert run(boss, unit).state == "cancelled"
