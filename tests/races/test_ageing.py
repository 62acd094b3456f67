"""
Race: work ages, one priority per minute, while it is leased, cancelled, or aged by another reaper.

    age, lease      the lease does not wait, and takes other work
    lease, age      the ageing skips what is being leased
    age, age        the second skips: a unit climbs once a minute, whoever reaps
    age, cancel     the cancel waits, and cancels the unit at its new place
    a stream        urgent work that never ends cannot starve what waits
    paused, age     a paused queue ages nothing
    to the top      nothing climbs above 1
"""

from __future__ import annotations

import pytest

from tests.places import places, run, unit

LEASE = "select * from ordinaut.lease_work('w', p_for => '1 hour')"
REAP = "select ordinaut.reap()"


@pytest.fixture(autouse=True)
def ageing(boss):
    boss.run("select ordinaut.set_queue('default', p_ageing => '1 min')")
    boss.commit()


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:00")


@pytest.fixture
def worker(at):
    return at("worker", "12:01:00")


def priority(boss, work_id):
    found = unit(boss, work_id).priority
    boss.commit()
    return found


def lease(session):
    rows = session.run(LEASE)
    session.commit()
    return [row.work_id for row in rows]


def test_age_lease(work, reaper, worker, boss):
    [old] = work(1, priority=5)
    reaper.run(REAP)
    assert lease(worker) == []  # does not wait
    reaper.commit()
    assert priority(boss, old) == 4
    assert lease(worker) == [old]


def test_lease_age(work, reaper, worker, boss):
    [old] = work(1, priority=5)
    worker.run(LEASE)
    reaper.run(REAP)
    reaper.commit()
    worker.commit()
    assert (places(boss), priority(boss, old)) == ({old: "lease"}, 5)


def test_age_age(work, reaper, at, boss):
    [old] = work(1, priority=5)
    twin = at("twin", "12:01:30")
    reaper.run(REAP)
    twin.run(REAP)  # does not wait
    twin.commit()
    reaper.commit()
    assert priority(boss, old) == 4

    twin.run(REAP)
    twin.commit()
    assert priority(boss, old) == 4
    twin.at("2026-03-29 12:02:00+00").run(REAP)
    twin.commit()
    assert priority(boss, old) == 3


def test_age_cancel(work, reaper, worker, boss):
    [old] = work(1, priority=5)
    reaper.run(REAP)
    worker.start("select ordinaut.cancel_run(%s)", old)
    worker.wait_blocked(by=reaper)
    reaper.commit()
    # The delete that waited does not see the new row; the request does, at the next lease.
    assert worker.result() in ([("cancelled",)], [("requested",)])
    worker.commit()
    lease(worker)
    assert run(boss, old).state == "cancelled"


def test_a_stream(at, boss):
    old = boss.one("select e.run_id from ordinaut.enqueue('echo', p_priority => 9) as e")
    boss.commit()
    taken = []
    for minute in range(1, 20):
        stream = at(f"minute {minute}", f"12:{minute:02}:00")
        stream.run("select ordinaut.enqueue('echo', p_priority => 1) from generate_series(1, 2)")
        stream.run(REAP)
        stream.commit()
        taken += lease(stream)
    # After eight minutes it is as urgent as the stream, and has its turn among those of 12:08.
    assert taken.index(old) in (14, 15, 16)


def test_paused_age(work, reaper, boss):
    [old] = work(1, priority=5)
    boss.run("select ordinaut.pause_queue('default')")
    boss.commit()
    reaper.run(REAP)
    reaper.commit()
    assert priority(boss, old) == 5


def test_to_the_top(work, at, boss):
    [old] = work(1, priority=2)
    reaper = at("an hour later", "13:00:00")
    for _ in range(3):
        reaper.run(REAP)
        reaper.commit()
    assert priority(boss, old) == 1
