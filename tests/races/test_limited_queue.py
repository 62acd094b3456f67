"""
Race: two workers lease from a queue that may run two units at once.

Leases of a limited queue take turns on its row, so that it is never above its limit:

    lease, lease             the second waits, and takes only what room the first left
    lease rolled back        the second waits, and has all the room
    full, lease              nothing
    settle, lease            an open settle makes no room; a committed one does
    settle and lease in one  the exchange's own results make room for its next batch
    reap, lease              what is taken back makes room
    another queue            waits for nobody
    a limit of 0             lends nothing
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import exchange, kinds, places

LEASE = "select * from ordinaut.lease_work(%s, p_limit => %s)"
COMPLETE = "select * from ordinaut.complete_work(%s, %s)"


@pytest.fixture
def units(work, boss):
    boss.run("select ordinaut.set_queue('default', p_max_running => 2)")
    boss.commit()
    return work(5)


@pytest.fixture
def first(at):
    return at("first", "12:00:10")


@pytest.fixture
def second(at):
    return at("second", "12:00:10")


def running(boss):
    return list(places(boss).values()).count("lease")


def test_lease_lease(units, first, second, boss):
    assert len(first.run(LEASE, "w1", 1)) == 1
    second.start(LEASE, "w2", 5)
    second.wait_blocked(by=first)
    first.commit()

    assert len(second.result()) == 1
    second.commit()
    assert running(boss) == 2


def test_lease_rolled_back(units, first, second, boss):
    assert len(first.run(LEASE, "w1", 5)) == 2
    second.start(LEASE, "w2", 5)
    second.wait_blocked(by=first)
    first.rollback()

    assert len(second.result()) == 2
    second.commit()
    assert running(boss) == 2


def test_settle_lease(units, first, second, boss):
    a, b = first.run(LEASE, "w1", 5)
    first.commit()
    assert second.run(LEASE, "w2", 5) == []
    second.commit()

    first.run(COMPLETE, a.lease_id, a.work_id)
    assert second.run(LEASE, "w2", 5) == []  # does not wait for a settle either
    first.commit()
    assert len(second.run(LEASE, "w2", 5)) == 1
    second.commit()
    assert running(boss) == 2
    first.run(COMPLETE, b.lease_id, b.work_id)
    first.commit()


def test_settle_and_lease_in_one(units, worker_id, first, boss):
    lease_id = uuid4()
    batch = first.run(*exchange(worker_id, lease_id, 5))
    first.commit()
    done = [(lease_id, row.work_id, "success") for row in batch]
    rows = first.run(*exchange(worker_id, uuid4(), 5, done))
    first.commit()

    assert (len(batch), [k for k, _ in kinds(rows)]) == (2, ["work", "work"])
    assert running(boss) == 2


def test_reap_lease(units, first, at, boss):
    first.run(LEASE, "w1", 5)
    first.commit()
    reaper = at("reaper", "12:01:11")
    assert reaper.one("select ordinaut.reap()") == 2
    assert len(reaper.run(LEASE, "w2", 5)) == 1  # a suspect, alone
    reaper.commit()

    assert running(boss) == 1


def test_another_queue(units, work, first, second):
    [elsewhere] = work(queue="other")
    first.run(LEASE, "w1", 5)

    rows = second.run("select * from ordinaut.lease_work('w2', 'other')")
    assert [row.work_id for row in rows] == [elsewhere]
    first.commit()
    second.commit()


def test_a_limit_of_none_lends_none(units, first, boss):
    boss.run("select ordinaut.set_queue('default', p_max_running => 0)")
    boss.commit()

    assert first.run(LEASE, "w1", 5) == []
