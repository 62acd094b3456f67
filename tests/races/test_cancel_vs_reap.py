"""
Race: an operator cancels a run whose lease the reaper takes back.

Neither waits, the run is not leased again, and it is not charged when the request came first:

    cancel committed, reap   cancelled by the reaper
    cancel, reap             the reaper gives it back; the next lease drops it
    reap, cancel             the same
    reap committed, cancel   cancelled at once
    reap rolled back         the request stands; the next reap carries it out
    three crashes            abandoned came first, and no request is left
"""

from __future__ import annotations

import pytest

from tests.places import events, places, run

CANCEL = "select ordinaut.cancel_run(%s)"
REAP = "select ordinaut.reap()"
LEASE = "select * from ordinaut.lease_work('w2')"


@pytest.fixture
def operator(at):
    return at("operator", "12:01:00")


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:01")


def test_cancel_committed_reap(lease, unit, operator, reaper, boss):
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()

    assert reaper.one(REAP) == 1
    reaper.commit()
    assert (run(boss, unit).state, run(boss, unit).crashes) == ("cancelled", 0)


def test_cancel_reap(lease, unit, operator, reaper, boss):
    assert operator.one(CANCEL, unit) == "requested"
    assert reaper.one(REAP) == 1
    reaper.commit()
    operator.commit()
    assert places(boss) == {unit: "due_work"}

    assert reaper.run(LEASE) == []
    reaper.commit()
    assert (run(boss, unit).state, run(boss, unit).attempt) == ("cancelled", 1)


def test_reap_cancel(lease, unit, operator, reaper, boss):
    reaper.run(REAP)
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()
    reaper.commit()

    assert reaper.run(LEASE) == []
    reaper.commit()
    assert run(boss, unit).state == "cancelled"
    assert events(boss, unit).count("crashed") == 1


def test_reap_committed_cancel(lease, unit, operator, reaper, boss):
    reaper.run(REAP)
    reaper.commit()

    assert operator.one(CANCEL, unit) == "cancelled"
    operator.commit()
    assert run(boss, unit).state == "cancelled"


def test_reap_rolled_back(lease, unit, operator, reaper, boss):
    reaper.run(REAP)
    operator.run(CANCEL, unit)
    operator.commit()
    reaper.rollback()

    assert reaper.one(REAP) == 1
    reaper.commit()
    assert run(boss, unit).state == "cancelled"


def test_three_crashes(unit, lend, operator, reaper, boss):
    for _ in range(2):
        lend(1)
        reaper.run(REAP)
        reaper.commit()
    lend(1)
    reaper.run(REAP)
    assert operator.one(CANCEL, unit) == "requested"
    reaper.commit()
    operator.commit()

    assert run(boss, unit).state == "abandoned"
    reaper.run(REAP)
    reaper.commit()
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0
