"""
Race: the database lent a batch that its worker never heard of.

The heartbeat carries the leases that the worker knows; what it does not know goes back, uncharged:

    older than the last heartbeat     dissolved: that one's answer came, and still it is unknown
    younger than the last heartbeat   kept: the list may have been made before the answer came
    named                             kept, and one that is not here is answered `lost`
    settle in flight, heartbeat       the heartbeat skips the lease
    heartbeat in flight, settle       the settle waits, then has lost it
    no list                           nothing is dissolved
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import events, exchange, kinds, places, unit

HEARTBEAT = "select * from ordinaut.heartbeat(%s, p_lease_ids => %s::uuid[])"


@pytest.fixture
def units(work):
    return sorted(work(2))


@pytest.fixture
def held(units, worker_id, at):
    """The worker's lease of two units, taken at 12:00:05; its answer is lost."""
    lease_id = uuid4()
    worker = at("worker", "12:00:05")
    worker.run(*exchange(worker_id, lease_id, 2))
    worker.commit()
    return lease_id


@pytest.fixture
def beat(at, worker_id):
    """Send one heartbeat at a time, with the leases known."""

    def send(time, known):
        beating = at(f"beat {time}", time)
        rows = beating.run(HEARTBEAT, worker_id, known)
        beating.commit()
        return [(row.kind, row.lease_id) for row in rows if row.kind != "sweep"]

    return send


def test_an_older_one_goes_back_uncharged(held, units, beat, boss):
    assert beat("12:00:10", []) == []
    assert beat("12:00:20", []) == []

    assert set(places(boss).values()) == {"due_work"}
    for u in units:
        found = unit(boss, u)
        assert (found.attempt, found.failures, found.crashes) == (1, 0, 0)
        assert events(boss, u) == ["enqueued", "released"]


def test_a_younger_one_is_kept(held, beat, boss):
    assert beat("12:00:10", []) == []

    assert set(places(boss).values()) == {"lease"}


def test_a_known_one_is_kept_and_a_strange_one_is_lost(held, beat, boss):
    strange = uuid4()

    assert beat("12:00:10", [held]) == []
    assert beat("12:00:20", [held, strange]) == [("lost", strange)]
    assert beat("12:00:30", None) == []
    assert set(places(boss).values()) == {"lease"}


def test_a_settle_after_it_is_lost(held, units, worker_id, beat, at, boss):
    beat("12:00:10", [])
    beat("12:00:20", [])
    worker = at("worker", "12:00:30")
    rows = worker.run(*exchange(worker_id, None, 0, [(held, u, "success") for u in units]))
    worker.commit()

    assert [k for k, _ in kinds(rows) if k != "sweep"] == ["lost"]
    assert set(places(boss).values()) == {"due_work"}


def test_settle_heartbeat(held, units, worker_id, beat, at, boss):
    a, b = units
    worker = at("worker", "12:00:15")
    beat("12:00:10", [])
    worker.run(*exchange(worker_id, None, 0, [(held, a, "success")]))
    assert beat("12:00:20", []) == []  # skips, does not wait
    worker.commit()

    assert places(boss) == {a: "task_run", b: "lease"}
    beat("12:00:30", [])
    assert places(boss) == {a: "task_run", b: "due_work"}


def test_heartbeat_settle(held, units, worker_id, beat, at, boss):
    worker, beating = at("worker", "12:00:19"), at("beating", "12:00:20")
    beat("12:00:10", [])
    beating.run(HEARTBEAT, worker_id, [])
    worker.start(*exchange(worker_id, None, 0, [(held, u, "success") for u in units]))
    worker.wait_blocked(by=beating)
    beating.commit()

    assert ("lost", None) in kinds(worker.result())
    worker.commit()
    assert set(places(boss).values()) == {"due_work"}
