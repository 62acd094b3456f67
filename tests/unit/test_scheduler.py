"""The scheduler's loop: it fires, it survives what fails, it ends when told."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ordinaut import calls, db
from ordinaut.scheduler import Scheduler, SchedulerConfig


def until(fact: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the first true answer of `fact`; fail if there is none in time."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if answer := fact():
            return answer
        pause.wait(0.02)
    raise AssertionError("it never came true")


@contextmanager
def running(dsn: str, **config: Any) -> Iterator[Scheduler]:
    scheduler = Scheduler(SchedulerConfig(dsn, **config))
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        yield scheduler
    finally:
        scheduler.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def conn(prod_dsn: str) -> Iterator[db.Connection]:
    with db.connect(prod_dsn, name="test") as conn:
        yield conn


def due(conn: db.Connection, times: int = 1) -> None:
    """Create so many tasks that are due."""
    now = calls.server(conn).now.isoformat()
    for n in range(times):
        calls.create_task(conn, f"t{n}", "echo", schedule_kind="once", schedule_expr=now)


def fired(conn: db.Connection) -> int:
    return len(calls.list_runs(conn, limit=1000))


def test_it_fires_what_is_due(prod_dsn, conn):
    due(conn, 5)
    with running(prod_dsn):
        until(lambda: fired(conn) == 5)


def test_two_schedulers_fire_an_occurrence_once(prod_dsn, conn):
    due(conn, 50)
    with running(prod_dsn), running(prod_dsn):
        until(lambda: fired(conn) == 50)
    tasks = [run.task_id for run in calls.list_runs(conn, limit=1000)]
    assert len(tasks) == len(set(tasks)) == 50


def test_it_takes_back_what_an_expired_lease_holds(prod_dsn, conn):
    run_id = calls.enqueue(conn, "echo").run_id
    assert run_id is not None
    calls.lease_work(conn, "me", lasting=timedelta(milliseconds=50))
    with running(prod_dsn, reap=0.05):
        until(lambda: calls.get_run(conn, run_id).state == "pending")


def test_it_reconnects_and_says_so_once(prod_dsn, conn, caplog):
    caplog.set_level(logging.INFO, "ordinaut.scheduler")
    with running(prod_dsn):
        until(lambda: "scheduler started" in caplog.messages)
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'ordinaut-scheduler' and datname = current_database()"
        )
        until(lambda: "scheduler connected again" in caplog.messages)
        due(conn)
        until(lambda: fired(conn))
    assert sum("database gone" in line for line in caplog.messages) == 1


def test_a_chore_that_fails_does_not_stop_the_others(prod_dsn, conn, caplog):
    caplog.set_level(logging.INFO, "ordinaut.scheduler")
    conn.execute("alter function ordinaut.reap(integer) rename to reap_gone")
    with running(prod_dsn, reap=0.05):
        until(lambda: any("reap fails" in line for line in caplog.messages))
        due(conn)
        until(lambda: fired(conn))
        conn.execute("alter function ordinaut.reap_gone(integer) rename to reap")
        until(lambda: "reap works again" in caplog.messages)
    assert sum("reap fails" in line for line in caplog.messages) == 1


def test_a_transaction_left_open_on_a_due_task_keeps_nobody_busy(prod_dsn, conn):
    def calls_of(name: str) -> int:
        found = conn.execute(
            "select coalesce(sum(calls), 0)::integer from pg_stat_user_functions"
            " where funcname = %s",
            [name],
        ).fetchone()
        assert found
        return int(found[0])

    conn.execute("alter database " + conn.info.dbname + " set track_functions = 'pl'")
    due(conn)
    with (
        psycopg.connect(prod_dsn) as owner,
        running(prod_dsn, reap=0.1),
    ):
        owner.execute("""select ordinaut.update_task('t0', '{"priority": 1}')""")
        begun = calls_of("reap"), calls_of("tick")
        until(lambda: calls_of("reap") >= begun[0] + 10, 30)  # a second or so
        assert calls_of("tick") - begun[1] < 150


def test_sigterm_ends_the_process_with_0(prod_dsn, conn):
    command = [sys.executable, "-m", "ordinaut", "scheduler", "--dsn", prod_dsn]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "scheduler started" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_an_empty_database_is_a_configuration_error(clean_dsn, capfd):
    from ordinaut.cli.main import invoke

    assert invoke(["scheduler", "--dsn", clean_dsn]) == 78
    assert "ordinaut install" in capfd.readouterr().err


def test_a_role_that_may_not_tick_is_a_configuration_error(prod_dsn, conn, capfd):
    from ordinaut.cli.main import invoke

    role = f"poor_{uuid4().hex[:8]}"
    conn.execute(f"create role {role} login password 'poor'")  # a container asks for it
    dsn = make_conninfo(prod_dsn, user=role, password="poor")
    try:
        assert invoke(["scheduler", "--dsn", dsn]) == 78
        assert invoke(["task", "list", "--dsn", dsn]) == 78
    finally:
        conn.execute(f"drop role {role}")
    assert "grant ordinaut_" in capfd.readouterr().err


def test_a_database_that_is_not_there_yet_is_waited_for(prod_dsn, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ordinaut.scheduler")
    real, refusals = db.connect, iter(range(3))

    def connect(*args: Any, **kwargs: Any) -> db.Connection:
        if next(refusals, None) is not None:
            raise psycopg.OperationalError("connection refused")
        return real(*args, **kwargs)

    monkeypatch.setattr(db, "connect", connect)
    with running(prod_dsn):
        until(lambda: "scheduler started" in caplog.messages)
    assert caplog.messages.count("no database, trying again: connection refused") == 1


def test_a_task_that_psql_creates_is_planned_within_a_second(prod_dsn, conn):
    with running(prod_dsn):
        until(lambda: calls.tick(conn) and True)
        conn.execute(
            "select ordinaut.create_task('t', 'echo', p_schedule_kind => 'cron',"
            " p_schedule_expr => '* * * * * *')"
        )
        until(lambda: calls.get_task(conn, "t").next_run, seconds=1.0)
        until(lambda: fired(conn) >= 2, seconds=4.0)
        calls.update_task(conn, "t", {"schedule_expr": "0 0 1 1 *"})
        until(lambda: calls.get_task(conn, "t").next_run, seconds=1.0)


def test_it_works_off_backfills_and_ticks_meanwhile(prod_dsn, conn):
    now = calls.server(conn).now
    calls.create_task(conn, "past", "echo", schedule_kind="cron", schedule_expr="* * * * *")
    for _ in range(3):
        calls.backfill(conn, "past", now - timedelta(days=7), now, limit=10_000)
        calls.backfill(conn, "past", now - timedelta(hours=1), now)
    with running(prod_dsn):
        due(conn)
        until(lambda: calls.get_task(conn, "t0").fired_count == 1)
        until(lambda: all(b.state != "pending" for b in calls.list_backfills(conn)))

    made = sum(b.fired or 0 for b in calls.list_backfills(conn))
    assert 60 <= made <= 61
    assert sorted(b.state for b in calls.list_backfills(conn)) == ["done"] * 3 + ["failed"] * 3
