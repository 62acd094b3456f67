"""
Race: a unit kills its worker, and its batch with it, against everybody who waits behind it.

A unit that crashed is a suspect: leased alone, it can harm only itself, and what happens then is
its own doing.

    crashed in a batch        every unit of it is charged, and leased alone from then on
    suspect at the head       alone, whatever the limit; the next lease takes what follows
    suspect behind others     it ends their batch and is the head of the next, floors or not
    two leases at once        the second does not wait for what the first puts back
    three crashes, all alone  abandoned
    crashed in a batch again  never abandoned, however often: the culprit may be another
    a suspect that succeeds   is like any other
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import events, exchange, kinds, places, run, unit

LEASE = "select * from ordinaut.lease_work(%s, p_limit => %s, p_floors => %s::timestamptz[])"


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:01")


@pytest.fixture
def worker(at):
    return at("worker", "12:00:50")


@pytest.fixture
def crash(lend, reaper):
    """Lease n units and let the lease run out."""

    def go(n):
        lend(n)
        assert reaper.one("select ordinaut.reap()") == n
        reaper.commit()

    return go


def lease(session, limit=10, floors=None):
    rows = session.run(LEASE, "w1", limit, floors)
    session.commit()
    return [row.work_id for row in rows]


def test_crashed_in_a_batch(work, crash, worker, boss):
    units = work(3)
    crash(3)

    assert [unit(boss, u).crashes for u in units] == [1, 1, 1]
    alone = [lease(worker) for _ in range(3)]
    assert sorted(alone) == sorted([u] for u in units)
    assert lease(worker) == []


def test_a_suspect_at_the_head(work, crash, boss, worker):
    [suspect] = work()
    crash(1)
    boss.at("2026-03-29 12:00:10+00")
    others = work(3)

    assert lease(worker) == [suspect]
    assert sorted(lease(worker)) == sorted(others)


def test_a_suspect_behind_others(work, crash, boss, worker, at):
    [suspect] = work()
    crash(1)
    urgent = work(2, priority=1)
    boss.at("2026-03-29 12:00:40+00")
    younger = work(2)

    first = lease(worker)
    # What a worker makes of its last batch: the highest run_at per priority, less a second.
    at_noon, later = "2026-03-29 11:59:59+00", "2026-03-29 12:00:39+00"
    floors = [at_noon, None, None, None, later if set(younger) & set(first) else None]
    second = lease(worker, floors=[*floors, None, None, None, None])

    assert sorted(first) == sorted(urgent)
    assert second == [suspect]
    assert sorted(lease(worker)) == sorted(younger)
    assert [unit(boss, u).attempt for u in [suspect, *younger]] == [2, 1, 1]


def test_two_leases_at_once(work, crash, boss, worker, at):
    suspects = work(2)
    crash(2)
    boss.at("2026-03-29 12:00:10+00")
    others = work(2)
    second = at("second", "12:00:50")

    one = worker.run(LEASE, "w1", 10, None)  # uncommitted: what it put back is not seen yet
    two = second.run(LEASE, "w2", 10, None)
    worker.commit()
    second.commit()

    assert [row.work_id in suspects for row in one] == [True]
    assert two == []
    assert lease(worker)[0] in suspects
    assert sorted(lease(worker)) == sorted(others)


def test_three_crashes_alone(work, crash, boss):
    [culprit] = work()
    for _ in range(3):
        crash(1)

    found = run(boss, culprit)
    assert (found.state, found.crashes, found.failures, found.attempt) == ("abandoned", 3, 0, 3)
    assert events(boss, culprit).count("crashed") == 3


def test_a_batch_is_never_abandoned(work, worker_id, boss):
    """A worker reports crashes of units that it ran in one child."""
    a, b = sorted(work(2))
    lease_id = uuid4()
    boss.run(*exchange(worker_id, lease_id, 2))
    boss.run("update ordinaut.lease set work[1].crashes = 2, work[2].crashes = 7")
    rows = boss.run(
        *exchange(worker_id, None, 0, [(lease_id, a, "crashed"), (lease_id, b, "crashed")])
    )
    boss.commit()

    assert [k for k in kinds(rows) if k[0] != "sweep"] == []
    assert set(places(boss).values()) == {"due_work"}


def test_a_suspect_that_succeeds(work, crash, worker, boss):
    [innocent] = work()
    crash(1)
    [leased] = worker.run(LEASE, "w1", 10, None)
    worker.run("select * from ordinaut.complete_work(%s, %s)", leased.lease_id, innocent)
    worker.commit()

    found = run(boss, innocent)
    assert (found.state, found.crashes, found.attempt) == ("success", 1, 2)
