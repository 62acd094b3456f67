"""
Race: an operator cancels a run while its worker completes it.

Neither waits for the other.  A completion that comes first wins, and leaves no request behind:

    complete, cancel       asked while the completion is open: requested, and success
    cancel, complete       the completion does not see the open request: success
    cancel committed       success all the same: what is done is done
    complete rolled back   the request stands, and the next beat tells the worker
    complete committed     too late
    part of a batch        the worker is told of what it still holds only
    cancelled by exchange  the unit ends cancelled; without a request it is only released
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import events, exchange, kinds, places, run

CANCEL = "select ordinaut.cancel_run(%s, 'wrong customer')"
COMPLETE = "select * from ordinaut.complete_work(%s, %s, '1')"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:30")


@pytest.fixture
def operator(at):
    return at("operator", "12:00:31")


def requests(boss):
    boss.run("select ordinaut.reap()")  # clears what a lost race left
    boss.commit()
    return boss.one("select count(*) from ordinaut.cancel_request")


def test_complete_cancel(lease, unit, worker, operator, boss):
    worker.run(COMPLETE, lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    worker.commit()
    operator.commit()

    assert run(boss, unit).state == "success"
    assert requests(boss) == 0


def test_cancel_complete(lease, unit, worker, operator, boss):
    assert operator.one(CANCEL, unit) == "requested"
    assert worker.run(COMPLETE, lease, unit) == [(unit, "success")]
    worker.commit()
    operator.commit()

    assert run(boss, unit).state == "success"
    assert requests(boss) == 0


def test_cancel_committed(lease, unit, worker, operator, boss):
    operator.run(CANCEL, unit)
    operator.commit()
    assert worker.run(COMPLETE, lease, unit) == [(unit, "success")]
    worker.commit()

    assert run(boss, unit).state == "success"
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_complete_rolled_back(lease, unit, worker, operator, boss):
    worker.run(COMPLETE, lease, unit)
    assert operator.one(CANCEL, unit) == "requested"
    operator.commit()
    worker.rollback()

    beat = worker.run("select * from ordinaut.heartbeat(%s)", lease)
    assert kinds(beat) == [("cancel", unit)]
    assert places(boss) == {unit: "lease"}


def test_complete_committed(lease, unit, worker, operator, boss):
    worker.run(COMPLETE, lease, unit)
    worker.commit()

    assert operator.one(CANCEL, unit) == "too_late"


def test_part_of_a_batch(work, worker_id, worker, operator):
    a, b = sorted(work(2))
    lease_id = uuid4()
    worker.run(*exchange(worker_id, lease_id, 2))
    worker.commit()
    worker.run(COMPLETE, lease_id, a)
    assert [operator.one(CANCEL, u) for u in (a, b)] == ["requested", "requested"]
    operator.commit()
    worker.commit()

    beat = "select * from ordinaut.heartbeat(%s, p_lease_ids => array[%s])"
    assert kinds(worker.run(*exchange(worker_id, None, 0))) == [("cancel", b)]
    assert kinds(worker.run(beat, worker_id, lease_id)) == [("cancel", b)]


@pytest.mark.parametrize(("asked", "state"), [(True, "cancelled"), (False, "pending")])
def test_cancelled_by_exchange(unit, worker_id, worker, operator, boss, asked, state):
    lease_id = uuid4()
    worker.run(*exchange(worker_id, lease_id, 1))
    worker.commit()
    if asked:
        operator.run(CANCEL, unit)
        operator.commit()
        told = worker.run(*exchange(worker_id, None, 0))
        assert kinds(told) == [("cancel", unit)]

    worker.run(*exchange(worker_id, None, 0, [(lease_id, unit, "cancelled")]))
    worker.commit()
    assert run(boss, unit).state == state
    assert ("released" in events(boss, unit)) != asked
    assert requests(boss) == 0
