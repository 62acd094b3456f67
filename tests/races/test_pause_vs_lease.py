"""
Race: an operator pauses a queue while a worker leases from it.

After the pause is committed nothing more is leased; what is leased goes on:

    lease, pause           the pause does not wait; the lease stands, and it is the last
    pause, lease           the lease does not wait, and comes before the pause
    pause, lease, limited  a lease of a limited queue waits for the row, and finds it paused
    lease, pause, limited  the pause waits for the lease
    paused, settle         what is leased is settled, and the exchange leases nothing
    resume, lease          as before, and the workers are asked to look below their floors
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import exchange, kinds, places, run

LEASE = "select * from ordinaut.lease_work('w1', p_limit => 5)"
PAUSE = "select ordinaut.pause_queue('default', 'deploying')"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


@pytest.fixture
def operator(at):
    return at("operator", "12:00:11")


@pytest.fixture
def limited(boss):
    boss.run("select ordinaut.set_queue('default', p_max_running => 3)")
    boss.commit()


def test_lease_pause(unit, work, worker, operator, boss):
    assert len(worker.run(LEASE)) == 1
    operator.run(PAUSE)  # does not wait
    operator.commit()
    worker.commit()
    [later] = work()

    assert worker.run(LEASE) == []
    assert places(boss) == {unit: "lease", later: "due_work"}


def test_pause_lease(unit, work, worker, operator, boss):
    operator.run(PAUSE)
    assert len(worker.run(LEASE)) == 1  # does not wait, and comes first
    worker.commit()
    operator.commit()
    work()

    assert worker.run(LEASE) == []


def test_pause_lease_limited(limited, unit, worker, operator, boss):
    operator.run(PAUSE)
    worker.start(LEASE)
    worker.wait_blocked(by=operator)
    operator.commit()

    assert worker.result() == []
    worker.commit()
    assert places(boss) == {unit: "due_work"}


def test_lease_pause_limited(limited, unit, worker, operator, boss):
    assert len(worker.run(LEASE)) == 1
    operator.start(PAUSE)
    operator.wait_blocked(by=worker)
    worker.commit()

    operator.result()
    operator.commit()
    assert places(boss) == {unit: "lease"}


def test_paused_settle(unit, work, worker_id, worker, operator, boss):
    lease_id = uuid4()
    worker.run(*exchange(worker_id, lease_id, 1))
    worker.commit()
    operator.run(PAUSE)
    operator.commit()
    [waiting] = work()

    assert worker.run(*exchange(worker_id, uuid4(), 5, [(lease_id, unit, "success")])) == []
    worker.commit()
    assert run(boss, unit).state == "success"
    assert places(boss)[waiting] == "due_work"


def test_resume_lease(unit, worker_id, worker, operator):
    operator.run(PAUSE)
    operator.commit()
    operator.run("select ordinaut.resume_queue('default')")
    assert worker.run(LEASE) == []  # does not wait
    operator.commit()

    rows = worker.run(*exchange(worker_id, uuid4(), 5))
    worker.commit()
    assert [k for k, _ in kinds(rows)] == ["sweep", "work"]
