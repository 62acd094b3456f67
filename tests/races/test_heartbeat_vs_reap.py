"""
Race: a worker says that it lives while the reaper declares it dead.

Seen at 12:00:00 with a ttl of 60 s: at 12:00:59 by its own clock it is in time, at 12:01:01 by the
reaper's it is not.

    heartbeat, reap          the reaper skips the worker, and then sees it alive
    reap, heartbeat          the worker waits, then learns that it was declared dead
    reap rolled back         the worker waits, and lives
    reap, exchange           the worker is unknown, and nothing of its call is stored
    reap, exchange at once   it passes the worker's row, waits for its lease, and has lost it
    heartbeat, exchange      neither waits for the other

and the same of an ad-hoc lease, which heartbeat() extends:

    extend, reap             the reaper skips the lease, and then finds it extended
    reap, extend             the lessee waits, then learns that the lease is lost
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from ordinaut.errors import LeaseLost, WorkerUnknown
from tests.places import exchange, kinds, places, run

REAP = "select ordinaut.reap()"
HEARTBEAT = "select * from ordinaut.heartbeat(%s, p_lease_ids => %s::uuid[])"
EXTEND = "select * from ordinaut.heartbeat(%s, '60 s')"


@pytest.fixture
def held(unit, worker_id, boss):
    """The worker's lease of the unit."""
    lease_id = uuid4()
    rows = boss.run(*exchange(worker_id, lease_id, 1))
    boss.commit()
    assert kinds(rows) == [("work", unit)]
    return lease_id


@pytest.fixture
def worker(at):
    return at("worker", "12:00:59")


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:01")


def test_heartbeat_reap(held, unit, worker_id, worker, reaper, boss):
    assert worker.run(HEARTBEAT, worker_id, [held]) == []
    assert reaper.one(REAP) == 0  # skips, does not wait
    worker.commit()

    assert reaper.one(REAP) == 0
    assert places(boss) == {unit: "lease"}


def test_reap_heartbeat(held, unit, worker_id, worker, reaper, boss):
    assert reaper.one(REAP) == 1
    worker.start(HEARTBEAT, worker_id, [held])
    worker.wait_blocked(by=reaper)
    reaper.commit()

    with pytest.raises(WorkerUnknown):
        worker.result()
    assert places(boss) == {unit: "due_work"}
    assert run(boss, unit).crashes == 1


def test_reap_rolled_back(held, unit, worker_id, worker, reaper, boss):
    reaper.run(REAP)
    worker.start(HEARTBEAT, worker_id, [held])
    worker.wait_blocked(by=reaper)
    reaper.rollback()

    assert worker.result() == []
    worker.commit()
    assert places(boss) == {unit: "lease"}


def test_reap_exchange(held, unit, worker_id, worker, reaper, boss):
    reaper.run(REAP)
    reaper.commit()

    with pytest.raises(WorkerUnknown):
        worker.run(*exchange(worker_id, uuid4(), 1, [(held, unit, "success")]))
    assert places(boss) == {unit: "due_work"}


def test_reap_exchange_at_once(held, unit, worker_id, worker, reaper, boss):
    reaper.run(REAP)
    worker.start(*exchange(worker_id, None, 0, [(held, unit, "success")]))
    worker.wait_blocked(by=reaper)
    reaper.commit()

    assert ("lost", held) in [(row.kind, row.lease_id) for row in worker.result()]
    assert places(boss) == {unit: "due_work"}


def test_heartbeat_exchange(held, unit, worker_id, worker, at, boss):
    beating = at("beating", "12:00:50")
    beating.run(HEARTBEAT, worker_id, [held])

    assert worker.run(*exchange(worker_id, uuid4(), 1, [(held, unit, "success")])) == []
    worker.commit()
    beating.commit()
    assert run(boss, unit).state == "success"


def test_extend_reap(lease, unit, worker, reaper, at, boss):
    assert worker.run(EXTEND, lease) == []
    assert reaper.one(REAP) == 0  # skips, does not wait
    worker.commit()

    assert reaper.one(REAP) == 0
    reaper.commit()
    assert at("late", "12:02:00").one(REAP) == 1


def test_reap_extend(lease, unit, worker, reaper, boss):
    assert reaper.one(REAP) == 1
    worker.start(EXTEND, lease)
    worker.wait_blocked(by=reaper)
    reaper.commit()

    with pytest.raises(LeaseLost):
        worker.result()
    assert places(boss) == {unit: "due_work"}
