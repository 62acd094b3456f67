"""
Race: a bulk of work commits after workers have passed its place in line.

A worker passes, per priority, a floor below which it rarely looks.  Work that was stamped before
and committed late lies below it, and must only be late, never lost:

    bulk, lease, commit     below the floor: not found with it, found by the sweep without it
    floors in the future    are clamped to 50 ms ago: nothing that commits by then is passed over
    floors of infinity      the same
    floors of one priority  say nothing about the others
    released below          its return asks for a sweep, and exchange and heartbeat tell of it
    reaped below            the same
    parked below            returns with the present as its place: above every floor
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.places import places

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
LEASE = "select * from ordinaut.lease_work('w', p_limit => 100, p_floors => %s::timestamptz[])"
EXCHANGE = "select * from ordinaut.exchange(%s, 'default', %s, 100, p_floors => %s::timestamptz[])"


def floors(after=0.0, priority=None):
    """Floors for all priorities, or one, so many seconds after noon."""
    floor = NOON + timedelta(seconds=after)
    return [floor if priority in (None, p) else None for p in range(1, 10)]


def lease(session, floor=None):
    rows = session.run(LEASE, floor)
    session.commit()
    return [row.work_id for row in rows]


@pytest.fixture
def producer(at):
    return at("producer", "12:00:00")


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


def test_bulk_lease_commit(producer, worker, boss):
    bulk = producer.run("select * from ordinaut.enqueue_many('[{}, {}, {}]', 'echo')")  # open
    young = worker.one("select e.run_id from ordinaut.enqueue('echo') as e")
    worker.commit()
    assert lease(worker, floors(-1)) == [young]
    producer.commit()

    assert lease(worker, floors(9)) == []  # below the floor of the last batch: not looked at
    assert set(lease(worker)) == {row.run_id for row in bulk}
    assert set(places(boss).values()) == {"lease"}


@pytest.mark.parametrize("seconds", [10.0, 3600.0, 1e9])
def test_floors_in_the_future(at, worker, seconds):
    stamped = at("stamped", "12:00:09.96")  # within 50 ms of the lease
    work_id = stamped.one("select e.run_id from ordinaut.enqueue('echo') as e")
    stamped.commit()
    assert lease(worker, floors(seconds)) == [work_id]


def test_floors_of_infinity(worker):
    work_id = worker.one("select e.run_id from ordinaut.enqueue('echo') as e")
    worker.commit()
    assert lease(worker, ["infinity"] * 9) == [work_id]


def test_floors_of_one_priority(producer, worker):
    ids = {
        p: producer.one("select e.run_id from ordinaut.enqueue('echo', p_priority => %s) as e", p)
        for p in (1, 5, 9)
    }
    producer.commit()
    assert lease(worker, floors(5, priority=5)) == [ids[1], ids[9]]
    assert lease(worker, floors()) == [ids[5]]


@pytest.mark.parametrize("by", ["release", "reap"])
def test_returned_below(work, worker_id, worker, at, boss, by):
    [old] = work()
    boss.run("select * from ordinaut.heartbeat(%s)", worker_id)
    [held] = boss.run("select * from ordinaut.lease_work('gone', p_for => '1 s')")
    boss.commit()
    assert boss.run(EXCHANGE, worker_id, uuid4(), floors(5)) == []
    boss.commit()

    if by == "release":
        worker.run("select * from ordinaut.release_work(%s)", held.lease_id)
    else:
        assert worker.one("select ordinaut.reap()") == 1
    worker.commit()
    [told] = worker.run(EXCHANGE, worker_id, uuid4(), floors(9))
    assert (told.kind, told.extra["at"][:19]) == ("sweep", "2026-03-29T12:00:10")
    beat = worker.run("select * from ordinaut.heartbeat(%s)", worker_id)
    assert [row.kind for row in beat] == ["sweep"]
    rows = worker.run(EXCHANGE, worker_id, uuid4(), None)
    worker.commit()
    assert [row.work_id for row in rows if row.kind == "work"] == [old]


def test_parked_below(work, worker, at, boss):
    _, waiting = work(2, key="k")
    [held] = boss.run("select * from ordinaut.lease_work('w')")
    boss.run("select * from ordinaut.lease_work('w')")
    boss.commit()
    assert places(boss)[waiting] == "parked"
    worker.run("select * from ordinaut.complete_work(%s)", held.lease_id)
    worker.commit()

    assert lease(at("later", "12:00:10.01"), floors(3600)) == [waiting]
