"""
Race: an exchange is committed, its answer is lost, and the worker sends it again.

It chose the id of the new lease, so the repeat is known by it:

    leased a batch         the same batch again; every settled unit is `already`
    leased nothing         history knows what the lost call settled, of every outcome
    leased after that      the repeat may lease, under the id that was never used
    lost a lease           what was good in the call is kept; the rest is `lost`
    some of the batch done the repeat leaves out what is settled
    then heartbeat         the new lease is held, for its id was in flight
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import events, exchange, kinds, places, run

OUTCOMES = ["success", "failed", "timed_out", "crashed", "released", "snoozed", "declined"]


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


@pytest.fixture
def held(work, worker_id, boss):
    """Lease n new units and return the lease and them."""

    def lease(n):
        units = sorted(work(n))
        lease_id = uuid4()
        rows = boss.run(*exchange(worker_id, lease_id, n))
        boss.commit()
        assert kinds(rows) == [("work", u) for u in units]
        return lease_id, units

    return lease


def test_the_same_batch_is_answered(held, work, worker_id, worker, boss):
    lease_id, (a, b) = held(2)
    work(3)
    done = [(lease_id, a, "success", "1"), (lease_id, b, "failed", '{"message": "no"}')]
    log = [{"lease_id": str(lease_id), "work_id": str(a), "event": "log", "data": {"line": 1}}]
    call = exchange(worker_id, uuid4(), 2, done, notes=log)

    batch = worker.run(*call)
    worker.commit()
    again = worker.run(*call)
    worker.commit()

    assert kinds(again)[:2] == [("already", a), ("already", b)]
    assert [row for row in again if row.kind == "work"] == batch
    assert events(boss, a) == ["enqueued", "started", "log", "finished"]
    assert events(boss, b) == ["enqueued", "failed"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_empty_answer_is_repeated(held, worker_id, worker, boss, outcome):
    lease_id, (a,) = held(1)
    call = exchange(worker_id, uuid4(), 0, [(lease_id, a, outcome)])

    assert [k for k, _ in kinds(worker.run(*call)) if k != "sweep"] == []
    worker.commit()
    place, told = places(boss), events(boss, a)
    again = worker.run(*call)
    worker.commit()

    assert [k for k in kinds(again) if k[0] != "sweep"] == [("already", a)]
    assert (places(boss), events(boss, a)) == (place, told)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_one_of_a_batch_is_repeated(held, worker_id, worker, boss, outcome):
    lease_id, (a, b) = held(2)
    call = exchange(worker_id, uuid4(), 0, [(lease_id, a, outcome)])

    worker.run(*call)
    worker.commit()
    told = events(boss, a)
    again = worker.run(*call)
    worker.commit()

    assert [k for k in kinds(again) if k[0] != "sweep"] == [("already", a)]
    assert events(boss, a) == told
    assert places(boss)[b] == "lease"


def test_the_repeat_leases_what_came_since(held, work, worker_id, worker, boss):
    lease_id, (a,) = held(1)
    new = uuid4()
    call = exchange(worker_id, new, 5, [(lease_id, a, "success")])
    assert worker.run(*call) == []
    worker.commit()
    [b] = work()

    assert kinds(worker.run(*call)) == [("already", a), ("work", b)]
    worker.commit()
    assert kinds(worker.run(*call)) == [("already", a), ("work", b)]
    assert run(boss, b).attempt == 1


def test_good_results_beside_a_lost_lease_are_kept(held, worker_id, worker, at, boss):
    kept, (a,) = held(1)
    gone, (b,) = held(1)
    for time in ("12:00:20", "12:00:30"):  # the second dissolves what the first did not name
        beating = at("beating", time)
        beating.run("select ordinaut.heartbeat(%s, p_lease_ids => array[%s])", worker_id, kept)
        beating.commit()
    worker.at("2026-03-29 12:00:40+00")
    call = exchange(worker_id, None, 0, [(kept, a, "success"), (gone, b, "success")])

    assert ("lost", None) in kinds(worker.run(*call))
    worker.commit()
    assert [k for k in kinds(worker.run(*call)) if k[0] != "sweep"] == [
        ("already", a),
        ("lost", None),
    ]
    assert places(boss) == {a: "task_run", b: "due_work"}


def test_what_is_settled_of_the_new_batch_is_left_out(work, worker_id, worker, boss):
    units = sorted(work(3))
    new = uuid4()
    call = exchange(worker_id, new, 3)
    assert len(worker.run(*call)) == 3
    worker.run("select * from ordinaut.complete_work(%s, %s)", new, units[0])
    worker.commit()

    assert kinds(worker.run(*call)) == [("work", u) for u in units[1:]]


def test_the_lease_of_a_lost_answer_is_held(unit, worker_id, worker, at, boss):
    new = uuid4()
    worker.run(*exchange(worker_id, new, 1))
    worker.commit()
    for time in ("12:00:20", "12:00:30", "12:00:40"):
        beating = at("beating", time)
        beat = "select * from ordinaut.heartbeat(%s, p_lease_ids => %s::uuid[])"
        assert beating.run(beat, worker_id, [new]) == []
        beating.commit()

    assert kinds(worker.run(*exchange(worker_id, new, 1))) == [("work", unit)]
