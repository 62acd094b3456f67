"""
Race: a worker waits for a NOTIFY while work becomes due.

An idle worker of the queue is woken by whatever makes work due now, and by nothing else: each
NOTIFY costs its sender a lock.

    something due now      woken: enqueue, bulk, release, retry, tick, a key's end, a cancel
    nothing due now        not woken: a delay, a backoff, a snooze, a miss
    nobody of it is idle   not woken
"""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

ENQUEUE = "select * from ordinaut.enqueue('echo')"
LEASE = "select * from ordinaut.lease_work('w1')"
TASK = (
    "select ordinaut.create_task('t', 'echo', p_schedule_kind => 'interval',"
    " p_schedule_expr => '10 s', p_catchup => 'none', p_grace => %s)"
)


@pytest.fixture
def idle(boss):
    worker_id = uuid4()
    boss.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", worker_id)
    boss.run("update ordinaut.worker set is_idle = true")
    boss.commit()
    return worker_id


@pytest.fixture
def woken(dsn, boss):
    """Say whether a statement, once committed, sent a NOTIFY."""

    def after(statement, *args, by=boss):
        with psycopg.connect(dsn, autocommit=True) as listener:
            listener.execute("listen ordinaut")
            by.run(statement, *args)
            by.commit()
            by.run("select pg_notify('ordinaut', 'no more')")
            by.commit()
            return next(listener.notifies(timeout=10)).payload != "no more"

    return after


@pytest.mark.parametrize(
    ("arguments", "wakes"),
    [
        ("", True),
        (", p_run_at => '2026-03-29 11:59:00+00'", True),
        (", p_delay => '0 s'", True),
        (", p_delay => '1 s'", False),
        (", p_queue => 'other'", False),
    ],
)
def test_enqueue(idle, woken, arguments, wakes):
    assert woken(f"select * from ordinaut.enqueue('echo'{arguments})") is wakes


@pytest.mark.parametrize("items", ["[{}, {}]", '[{}, {"key": "k"}]'])
def test_many(idle, woken, items):
    assert woken("select * from ordinaut.enqueue_many(%s, 'echo')", items)


def test_nobody_is_idle(idle, woken, boss):
    boss.run("update ordinaut.worker set is_idle = false")
    boss.commit()

    assert not woken(ENQUEUE)


@pytest.mark.parametrize(
    ("settle", "wakes"),
    [
        ("release_work(%s)", True),
        ("snooze_work(%s, null, '0 s')", True),
        ("snooze_work(%s, null, '1 s')", False),
        ("fail_work(%s)", False),
        ("complete_work(%s)", False),
    ],
)
def test_settle(boss, idle, woken, settle, wakes):
    boss.run(ENQUEUE)
    [leased] = boss.run(LEASE)
    boss.commit()

    assert woken(f"select * from ordinaut.{settle}", leased.lease_id) is wakes


def test_the_end_of_a_key(boss, idle, woken):
    boss.run("select * from ordinaut.enqueue_many(%s, 'echo')", '[{"key": "k"}, {"key": "k"}]')
    [leased] = boss.run("select * from ordinaut.lease_work('w1', p_limit => 2)")
    boss.commit()

    assert woken("select * from ordinaut.complete_work(%s)", leased.lease_id)


def test_a_retry(boss, idle, woken):
    boss.run(ENQUEUE)
    [leased] = boss.run(LEASE)
    boss.run("select * from ordinaut.fail_work(%s, p_retryable => false)", leased.lease_id)
    boss.commit()

    assert woken("select * from ordinaut.retry_run(%s)", leased.run_id)


def test_a_cancel_of_what_runs(boss, woken):
    boss.run(ENQUEUE)
    [leased] = boss.run(LEASE)
    boss.commit()

    assert woken("select ordinaut.cancel_run(%s)", leased.run_id)


@pytest.mark.parametrize(("grace", "wakes"), [("1 min", True), ("1 s", False)])
def test_a_tick(boss, at, idle, woken, grace, wakes):
    boss.run(TASK, grace)
    boss.run("select ordinaut.create_task('u', 'echo', p_queue => 'other')")
    boss.commit()
    scheduler = at("scheduler", "12:00:15")

    assert woken("select * from ordinaut.tick()", by=scheduler) is wakes


def test_a_tick_of_another_queue(boss, at, idle, woken):
    boss.run(TASK.replace("'t', 'echo'", "'t', 'echo', p_queue => 'other'"), "1 min")
    boss.run("select ordinaut.create_task('u', 'echo')")
    boss.commit()
    scheduler = at("scheduler", "12:00:15")

    assert not woken("select * from ordinaut.tick()", by=scheduler)


def test_a_clock_that_stepped_back(boss, at, idle, woken):
    boss.run("select ordinaut.reap()")
    boss.run(ENQUEUE)
    boss.commit()
    reaper = at("reaper", "11:00:00")

    assert woken("select ordinaut.reap()", by=reaper)
