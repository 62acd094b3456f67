"""
diagnose() names the culprit: each one is a real session, process or server that does the harm.

The server is the module's own, set up as people do it: what the suite's server lacks (autovacuum,
durability) is itself a problem that diagnose() tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ordinaut import Ordinaut, calls
from ordinaut.calls import Problem
from ordinaut.cli.main import invoke
from ordinaut.embedded import EmbeddedPostgres
from tests import postgres
from tests.loops.conftest import ROOT, Running, wait_for
from tests.pooler import Pooler

SOON = "100 ms"
OPTIONS = {
    "wal_level": "logical",
    "max_prepared_transactions": "5",
    "max_connections": "40",
    "max_wal_size": "2GB",
    "fsync": "on",
}


@pytest.fixture(scope="module")
def pg(server: postgres.Server) -> Iterator[EmbeddedPostgres]:
    bindir = server.bindir or postgres.find_bindir()
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with EmbeddedPostgres(None, bindir, OPTIONS, scratch=memory) as pg:
        postgres.install(pg.dsn)
        yield pg


@pytest.fixture
def admin(pg: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pg.dsn, autocommit=True, application_name="admin") as conn:
        yield conn


@pytest.fixture
def open_(pg: EmbeddedPostgres) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """open_("analytics"): a session of that name, closed in the end."""
    with contextlib.ExitStack() as opened:

        def make(name: str, dsn: str = pg.dsn, **given: Any) -> psycopg.Connection[Any]:
            # A test that fails must not wait for what it blocks.
            given["options"] = "-c statement_timeout=15s"
            conn = psycopg.connect(dsn, application_name=name, **given)
            opened.callback(conn.close)
            return conn

        yield make


def start(call: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    return thread


def found(conn: psycopg.Connection[Any], problem: str, patience: str = SOON) -> list[Problem]:
    return [p for p in calls.diagnose(conn, patience) if p.problem == problem]


def soon(conn: psycopg.Connection[Any], problem: str, patience: str = SOON) -> Problem:
    """Return the one such problem, once it lasts long enough."""
    [one] = wait_for(lambda: found(conn, problem, patience))
    return one  # type: ignore[no-any-return]


def names(conn: psycopg.Connection[Any], patience: str = "60 s") -> set[str]:
    return {p.problem for p in calls.diagnose(conn, patience)}


def test_a_forgotten_transaction_that_holds_the_horizon(pg, admin, open_):
    culprit = open_("analytics")
    culprit.execute("set transaction isolation level repeatable read")
    culprit.execute("select 'secret', 1")
    for _ in range(20):
        calls.pause_queue(admin, "q", "so that something dies")
    admin.execute("select pg_stat_force_next_flush()")

    told = soon(admin, "xmin_held")

    assert told.subject == f"pid {culprit.info.backend_pid}"
    assert "analytics, local, idle in transaction" in told.detail
    assert told.evidence["statement"] == "select 'secret', 1"
    assert told.evidence["dead_rows"] >= 10
    assert f"pg_terminate_backend({culprit.info.backend_pid})" in told.act
    assert not found(admin, "xmin_held", "60 s")
    admin.execute("create role looker login in role ordinaut_viewer")
    with psycopg.connect(pg.dsn, user="looker", autocommit=True) as viewer:
        seen = soon(viewer, "xmin_held")
        assert "statement" not in seen.evidence and seen.detail[:30] == told.detail[:30]
    admin.execute("set role ordinaut_viewer")
    assert "statement" not in soon(admin, "xmin_held").evidence
    admin.execute("reset role")
    culprit.rollback()
    assert not found(admin, "xmin_held")


def test_a_writer_in_another_database_holds_it_too_and_a_reader_does_not(pg, admin, open_):
    reader = open_("reader", pg.dsn_of("template1"))
    reader.execute("select 1")
    writer = open_("writer", pg.dsn_of("template1"))
    writer.execute("create temp table t ()")

    assert soon(admin, "xmin_held").evidence["application_name"] == "writer"


def test_a_prepared_transaction(admin, open_):
    calls.pause_queue(admin, "q")
    culprit = open_("two phases")
    culprit.execute("select ordinaut.pause_queue('q', 'again')")
    culprit.execute("prepare transaction 'orphan'")

    told = soon(admin, "xmin_prepared")

    assert told.subject == "prepared transaction orphan" and told.severity == "critical"
    assert "rollback prepared 'orphan'" in told.act
    waiter = open_("operator")
    thread = start(calls.resume_queue, waiter, "q")
    try:
        lock = soon(admin, "lock_held")
        assert "prepared transaction orphan" in lock.detail and "1 wait for it" in lock.detail
        assert lock.evidence["waiters"][0]["table"] == "queue"
    finally:
        admin.execute("rollback prepared 'orphan'")
    thread.join()


def test_who_locks_a_table_and_who_waits(admin, open_):
    culprit = open_("migration")
    culprit.execute("lock table ordinaut.due_work in access exclusive mode")

    told = soon(admin, "lock_held")
    assert told.subject == f"pid {culprit.info.backend_pid}" and told.severity == "critical"
    assert "AccessExclusive on due_work; nobody waits" in told.detail
    waiter = open_("producer")
    thread = start(calls.enqueue, waiter, "echo")
    wait_for(lambda: "1 wait for it" in soon(admin, "lock_held").detail)
    [told] = soon(admin, "lock_held").evidence["waiters"]
    assert told["application_name"] == "producer" and told["table"] == "due_work"
    # What needs that table says so, and the other checks answer.
    [blind] = found(admin, "not_looked_at")
    assert blind.subject == "queues" and "lock_held" in blind.act
    culprit.rollback()
    thread.join()
    assert "lock_held" not in names(admin, SOON)


def test_a_listener_that_does_not_read(admin, open_):
    culprit = open_("listener")
    culprit.execute("listen x")
    culprit.commit()
    culprit.execute("select 1")
    admin.execute(
        "do $$ begin for i in 1..7000 loop"
        " perform pg_notify('x', i || repeat('x', 7900)); end loop; end $$"
    )

    told = soon(admin, "notify_queue")

    assert told.subject == f"pid {culprit.info.backend_pid}" and "listener" in told.detail
    culprit.rollback()
    culprit.execute("select 1")
    culprit.commit()
    admin.execute("notify x")
    assert "notify_queue" not in names(admin)


def test_dead_rows_that_no_vacuum_removes(admin):
    admin.execute("alter table ordinaut.worker set (autovacuum_enabled = off)")
    admin.execute(
        "insert into ordinaut.worker (worker_id, name, queues, tools, version, concurrency, ttl,"
        " is_idle, started_at, seen_at, login) select gen_random_uuid(), 'w', '{q}', '{}', null, 1,"
        " '1 s', false, now(), now(), current_user from generate_series(1, 6000)"
    )
    admin.execute("delete from ordinaut.worker")
    admin.execute("select pg_stat_force_next_flush()")

    told = soon(admin, "not_vacuumed")

    assert told.subject == "worker" and "autovacuum is off for this table" in told.detail
    assert told.evidence["dead_rows"] == 6000
    assert found(admin, "autovacuum_off")[0].subject == "worker"
    admin.execute("vacuum ordinaut.worker")
    admin.execute("alter table ordinaut.worker reset (autovacuum_enabled)")
    assert not names(admin, SOON) & {"not_vacuumed", "autovacuum_off"}


def test_connections_that_run_out(admin, open_):
    for _ in range(33):
        open_("greedy")

    [told] = found(admin, "connections")

    assert told.subject == "greedy" and "33 by greedy" in told.detail


def test_commits_that_wait_for_a_standby_that_is_not_there(admin, open_):
    admin.execute("alter system set synchronous_standby_names = 'nowhere'")
    admin.execute("select pg_reload_conf()")
    try:
        wait_for(lambda: "no_sync_standby" in names(admin))
        stuck = open_("committer", autocommit=True)
        thread = start(calls.pause_queue, stuck, "q")
        told = soon(admin, "commits_hang")
        assert told.evidence["pids"] == [stuck.info.backend_pid]
    finally:
        admin.execute("alter system reset synchronous_standby_names")
        admin.execute("select pg_reload_conf()")
    thread.join()
    wait_for(lambda: "no_sync_standby" not in names(admin))


def test_durability_that_was_turned_off(admin, open_):
    admin.execute("alter role postgres in database postgres set synchronous_commit = off")
    told = {p.subject for p in found(admin, "not_durable")}
    assert told == {"role postgres in database postgres"}
    told = {p.subject for p in found(open_("new"), "not_durable")}
    assert told == {"role postgres in database postgres", "synchronous_commit"}
    admin.execute("alter role postgres in database postgres reset synchronous_commit")


def test_a_standby_that_was_reached_and_its_slot(pg, admin, tmp_path, capsys, monkeypatch):
    home = pg.data_dir.parent / f"{pg.data_dir.name}-standby"
    copy = [
        pg.bindir / "pg_basebackup",
        "-d",
        pg.dsn,
        "-D",
        home / "pg",
        "-c",
        "fast",
        "-X",
        "stream",
    ]
    home.mkdir(mode=0o700)
    try:
        subprocess.run([*copy, "-R", "-C", "-S", "far"], check=True, capture_output=True)
        options = OPTIONS | {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1"}
        with EmbeddedPostgres(home, pg.bindir, options, fsync=False) as standby:
            with psycopg.connect(standby.dsn) as reader:
                reader.execute("set transaction isolation level repeatable read")
                reader.execute("select 1")
                wait_for(
                    lambda: admin.execute(
                        "select xmin from pg_replication_slots where xmin is not null"
                    ).fetchall()
                )
                told = {p.problem for p in calls.diagnose(reader)}
                assert "standby" in told and "not_looked_at" not in told
                for _ in range(150):
                    admin.execute("select pg_current_xact_id()")
                held = soon(admin, "xmin_slot")
                assert held.subject == "replication slot far"
                assert "a query on its standby" in held.detail
            monkeypatch.chdir(tmp_path)
            assert invoke(["doctor", "--json", "--dsn", standby.dsn]) == 1
            [database] = json.loads(capsys.readouterr().out)["findings"]
            assert "this is a standby" in database["act"]
        told = wait_for(
            lambda: [p for p in found(admin, "xmin_slot") if "not connected" in p.detail]
        )
        assert "pg_drop_replication_slot('far')" in told[0].act
    finally:
        shutil.rmtree(home, ignore_errors=True)
        wait_for(
            lambda: not admin.execute("select from pg_replication_slots where active").fetchall()
        )
        admin.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    assert "xmin_slot" not in names(admin, SOON)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("transaction", "another client got our server process"),
        ("session", "leaves us our session"),
    ],
)
def test_doctor_proves_what_a_pooler_does_to_sessions(
    pg, mode, says, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pooler = Pooler(pg.dsn, pg.bindir, mode, size=4)

    def told(**environ: str) -> tuple[str, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        invoke(["doctor", "--json", "--dsn", pooler.dsn_of("postgres")])
        findings = json.loads(capsys.readouterr().out)["findings"]
        [(verdict, detail)] = [
            (f["verdict"], f["detail"]) for f in findings if f["check"] == "pooler"
        ]
        assert says in detail
        return verdict, detail.rpartition("; ")[2]

    try:
        assert told() == ("warn", "workers do not listen through one, and poll")
        around = told(ORDINAUT_LISTEN_DSN=pg.dsn)
        assert around == ("ok", "listen_dsn leads around it")
        again = told(ORDINAUT_LISTEN_DSN=pooler.dsn_of("postgres"))
        assert again == ("warn", "listen_dsn leads to a pooler too")
    finally:
        pooler.close()


def test_an_owner_without_rights_says_what_it_cannot_see(pg, admin, open_):
    admin.execute("create role modest login createrole")
    admin.execute("create database modest owner modest")
    owner = open_("owner", make_conninfo(pg.dsn_of("modest"), user="modest"), autocommit=True)
    postgres.install(make_conninfo(pg.dsn_of("modest"), user="modest"))
    culprit = open_("hidden", pg.dsn_of("modest"))
    culprit.execute("select pg_current_xact_id()")

    [blind] = found(owner, "blind")
    assert blind.severity == "info" and blind.act == "grant pg_read_all_stats to modest"
    for _ in range(150):
        admin.execute("select pg_current_xact_id()")
    told = soon(owner, "xmin_held")  # by the age of its transaction id, which all may see
    assert told.subject == f"pid {culprit.info.backend_pid}"
    assert told.since is None and "statement" not in told.evidence
    admin.execute("grant pg_read_all_stats to modest")
    assert soon(owner, "xmin_held").evidence["statement"].startswith("select pg_current")
    assert not found(owner, "blind")


def test_a_worker_that_was_killed_with_all_its_processes(db, worker, enqueue, witness):
    running = worker(name="alpha")
    enqueue(seconds=60)
    witness.wait("start")
    everybody = [running.guard.pid, running.parent, *running.children]
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)

    told = soon(db, "worker_silent")

    assert told.subject == "alpha" and told.severity == "critical"
    assert told.evidence["units"] == 1
    assert told.evidence["worker_id"] in told.act
    wait_for(lambda: "not_reaped" in names(db, SOON))
    with Ordinaut(db.info.dsn) as client:
        assert "not_reaped" in {p.problem for p in client.diagnose(SOON)}
    calls.reap(db)
    assert not names(db, SOON) & {"worker_silent", "not_reaped"}


@pytest.fixture
def scheduler(pg: EmbeddedPostgres) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "ordinaut", "scheduler", "--dsn", pg.dsn], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def test_a_busy_system_is_well_and_a_scheduler_that_hangs_is_named(
    pg, admin, scheduler, worker, tmp_path
):
    running: Running = worker(pg.dsn, concurrency=2)
    for n in range(20):
        calls.create_task(
            admin, f"t{n}", "echo", schedule_kind="interval", schedule_expr="1 s", key=f"k{n}"
        )
    calls.create_task(admin, "c", "echo", schedule_kind="cron", schedule_expr="* * * * * *")

    def ended(at_least: int) -> bool:
        return admin.execute("select count(*) > %s from ordinaut.task_run", [at_least]).fetchone()[
            0
        ]

    for n in range(5):
        calls.enqueue_many(admin, [{"tool": "echo"}] * 500)
        assert calls.diagnose(admin, "10 s") == []
        wait_for(lambda n=n: ended(n * 500 + 500))
        assert calls.diagnose(admin, "10 s") == []
    assert running.guard.poll() is None

    scheduler.send_signal(signal.SIGSTOP)
    told = soon(admin, "not_ticked")
    assert "ordinaut-scheduler" in told.detail and "is connected, and late" in told.detail
    scheduler.kill()
    scheduler.wait()
    wait_for(lambda: "no scheduler is connected" in soon(admin, "not_ticked").detail)
    assert invoke(["diagnose", "--dsn", pg.dsn, "--patience", SOON]) == 1
