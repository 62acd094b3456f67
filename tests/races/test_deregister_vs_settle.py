"""
Race: a worker is taken off the list while its last exchange is on its way.

deregister_worker() is what a worker says at its end, and what its guard says of a dead one.

    settle, deregister       it skips the lease that is being settled, and waits for nobody
    settle rolled back       the lease it skipped has no worker: the next reap takes it at once
    part, deregister         the same of what was not settled
    deregister, settle       the settle waits for the row, then has lost it
    deregistered, settle     the worker is unknown
    lease, deregister        the lease it could not see has no worker: the next reap takes it
    tool's own transaction   keeps the lease until it ends
    deregister, deregister   the second waits, and finds nothing; the guard repeats the worker
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from ordinaut.errors import WorkerUnknown
from tests.places import events, exchange, kinds, places, run

STOP = "select ordinaut.deregister_worker(%s)"
DEAD = "select ordinaut.deregister_worker(%s, 'dead')"
REAP = "select ordinaut.reap()"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


@pytest.fixture
def guard(at):
    return at("guard", "12:00:11")


@pytest.fixture
def units(work):
    return sorted(work(2))


@pytest.fixture
def held(units, worker_id, boss):
    lease_id = uuid4()
    boss.run(*exchange(worker_id, lease_id, 2))
    boss.commit()
    return lease_id


def all_done(held, units):
    return [(held, u, "success") for u in units]


@pytest.mark.parametrize(
    ("call", "event", "crashes"), [(STOP, "released", 0), (DEAD, "crashed", 1)]
)
def test_it_gives_back_what_is_held(held, units, worker_id, guard, boss, call, event, crashes):
    assert guard.one(call, worker_id) == 2
    guard.commit()

    assert set(places(boss).values()) == {"due_work"}
    assert [run(boss, u).crashes for u in units] == [crashes] * 2
    assert events(boss, units[0]) == ["enqueued", event]


def test_settle_deregister(held, units, worker_id, worker, guard, boss):
    worker.run(*exchange(worker_id, None, 0, all_done(held, units)))
    assert guard.one(DEAD, worker_id) == 0  # skips, does not wait
    worker.commit()
    guard.commit()

    assert set(places(boss).values()) == {"task_run"}
    assert boss.one(REAP) == 0


def test_settle_rolled_back(held, units, worker_id, worker, guard, boss):
    worker.run(*exchange(worker_id, None, 0, all_done(held, units)))
    assert guard.one(DEAD, worker_id) == 0
    guard.commit()
    worker.rollback()
    assert set(places(boss).values()) == {"lease"}

    assert guard.one(REAP) == 2
    guard.commit()
    assert set(places(boss).values()) == {"due_work"}


def test_part_deregister(held, units, worker_id, worker, guard, boss):
    a, b = units
    worker.run(*exchange(worker_id, None, 0, [(held, a, "success")]))
    assert guard.one(STOP, worker_id) == 0
    guard.commit()
    worker.commit()

    assert guard.one(REAP) == 1
    guard.commit()
    assert places(boss) == {a: "task_run", b: "due_work"}


def test_deregister_settle(held, units, worker_id, worker, guard, boss):
    assert guard.one(DEAD, worker_id) == 2
    worker.start(*exchange(worker_id, None, 0, all_done(held, units)))
    worker.wait_blocked(by=guard)
    guard.commit()

    assert ("lost", None) in kinds(worker.result())
    worker.commit()
    assert set(places(boss).values()) == {"due_work"}


def test_deregistered_settle(held, units, worker_id, worker, guard, boss):
    guard.run(DEAD, worker_id)
    guard.commit()

    with pytest.raises(WorkerUnknown):
        worker.run(*exchange(worker_id, None, 0, all_done(held, units)))
    assert set(places(boss).values()) == {"due_work"}


def test_lease_deregister(units, worker_id, worker, guard, boss):
    assert len(worker.run(*exchange(worker_id, uuid4(), 5))) == 2
    assert guard.one(DEAD, worker_id) == 0
    guard.commit()
    worker.commit()

    assert guard.one(REAP) == 2  # at once: there is no ttl to wait for
    guard.commit()
    assert set(places(boss).values()) == {"due_work"}


def test_tools_own_transaction(held, units, worker_id, guard, at, boss):
    a, b = units
    tool = at("tool", "12:00:10")
    tool.run("select ordinaut.assert_lease(%s, %s)", held, a)
    assert guard.one(DEAD, worker_id) == 0
    guard.commit()
    tool.run("select * from ordinaut.complete_work(%s, %s)", held, a)
    tool.commit()

    assert guard.one(REAP) == 1
    guard.commit()
    assert places(boss) == {a: "task_run", b: "due_work"}


def test_deregister_deregister(held, units, worker_id, worker, guard, boss):
    assert worker.one(STOP, worker_id) == 2
    guard.start(DEAD, worker_id)
    guard.wait_blocked(by=worker)
    worker.commit()

    assert guard.result() == [(0,)]
    guard.commit()
    assert [run(boss, u).crashes for u in units] == [0, 0]
