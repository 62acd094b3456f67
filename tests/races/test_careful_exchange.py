"""
Race: one result that the database cannot store against the batch that it came with.

A normal call refuses the whole, stores nothing, and may be sent again carefully: unit by unit,
where the bad one ends failed, and all others as they ended.

    one bad output            the others succeed; it fails for good, and a preview is kept
    sent twice                settled once
    a bad error               the same of a failure that cannot be stored
    not a unit of the lease   answered lost; the others are kept
    another settles           a careful call waits for no other lease
    with the next batch       a careful call leases too
"""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.places import events, exchange, kinds, places, run

BAD = '{"line": "a\\u0000b"}'  # JSON, and no jsonb: it has a NUL


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


@pytest.fixture
def units(work):
    return sorted(work(5))


@pytest.fixture
def held(units, worker_id, boss):
    lease_id = uuid4()
    boss.run(*exchange(worker_id, lease_id, 5))
    boss.commit()
    return lease_id


def results(lease_id, units, bad=BAD, outcome="success"):
    done = [(lease_id, u, "success", f"{n}") for n, u in enumerate(units)]
    return [*done[:2], (lease_id, units[2], outcome, bad), *done[3:]]


def test_a_normal_call_stores_nothing(held, units, worker_id, worker, boss):
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        worker.run(*exchange(worker_id, None, 0, results(held, units)))
    worker.rollback()

    assert set(places(boss).values()) == {"lease"}


@pytest.mark.parametrize("bad", [BAD, "{", '"\\ud800"'])
def test_a_careful_call_fails_the_bad_one(held, units, worker_id, worker, boss, bad):
    call = exchange(worker_id, None, 0, results(held, units, bad), careful=True)
    assert worker.run(*call) == []
    worker.commit()

    assert set(places(boss).values()) == {"task_run"}
    good = [*units[:2], *units[3:]]
    assert [(run(boss, u).state, run(boss, u).output) for u in good] == [
        ("success", n) for n in (0, 1, 3, 4)
    ]
    failed = run(boss, units[2])
    assert (failed.state, failed.failures, failed.output) == ("failed", 1, None)
    assert failed.error["output_lost"] is True
    assert failed.error["preview"] == bad

    assert kinds(worker.run(*call)) == [("already", u) for u in units]
    worker.commit()
    assert events(boss, units[2]).count("failed") == 1


def test_a_bad_error(held, units, worker_id, worker, boss):
    done = results(held, units, outcome="failed")
    worker.run(*exchange(worker_id, None, 0, done, careful=True))
    worker.commit()

    assert run(boss, units[2]).state == "failed"
    assert [run(boss, u).state for u in units].count("success") == 4


def test_not_a_unit_of_the_lease(held, units, work, worker_id, worker, boss):
    [stranger] = work()
    done = [(held, u, "success") for u in [*units[:2], stranger, *units[3:]]]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        worker.run(*exchange(worker_id, None, 0, done))
    worker.rollback()
    rows = worker.run(*exchange(worker_id, None, 0, done, careful=True))
    worker.commit()

    assert kinds(rows) == [("lost", stranger)]
    assert places(boss) == {
        **dict.fromkeys(units, "task_run"),
        units[2]: "lease",
        stranger: "due_work",
    }


def test_with_the_next_batch(held, units, work, worker_id, worker, boss):
    [new] = work()
    rows = worker.run(*exchange(worker_id, uuid4(), 3, results(held, units), careful=True))
    worker.commit()

    assert kinds(rows) == [("work", new)]
    assert places(boss)[new] == "lease"


def test_it_does_not_wait_for_other_leases(held, units, work, lend, worker_id, worker, at, boss):
    [theirs] = work()
    lease_id = lend(1)
    other = at("other", "12:00:11")
    other.run("select * from ordinaut.complete_work(%s, %s)", lease_id, theirs)

    worker.run(*exchange(worker_id, None, 0, results(held, units), careful=True))
    worker.commit()
    other.commit()
    assert set(places(boss).values()) == {"task_run"}
