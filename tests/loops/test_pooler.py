"""
A worker behind PgBouncer in transaction mode that nobody told of it: it finds out, it survives
whatever the pooler does, and with `listen_dsn` it is woken all the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import psycopg
import pytest

from ordinaut import Ordinaut, calls, schema
from ordinaut import db as database
from ordinaut.scheduler import Scheduler, SchedulerConfig
from tests.loops.conftest import ROOT, wait_for
from tests.pooler import Pooler, find
from tests.postgres import find_bindir


@pytest.fixture
def make_pooler(server):
    if find() is None and "CI" not in os.environ:
        pytest.skip("no pgbouncer: apt-get install pgbouncer")
    with ExitStack() as keep:

        def make(mode="transaction", **options):
            between = Pooler(server.dsn, server.bindir or find_bindir(), mode, **options)
            keep.callback(between.close)
            return between

        yield make


@pytest.fixture
def pooler(make_pooler):
    return make_pooler(size=6, more="application_name_add_host = 1")


@pytest.fixture
def direct(databases, db):
    """The DSN that leads around every pooler."""
    return databases.dsn_of(db.info.dbname)


@pytest.fixture
def through(pooler, db):
    return pooler.dsn_of(db.info.dbname)


@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_a_pooler_is_found_out(make_pooler, direct, db, mode):
    between = make_pooler(mode).dsn_of(db.info.dbname)

    with database.connect(between, name="test") as conn:
        assert database.is_pooled(conn)
        assert conn.prepare_threshold is None
    with database.connect(direct, name="test") as conn:
        assert not database.is_pooled(conn)
        assert conn.prepare_threshold == 2


def test_a_pooler_that_drops_our_options_is_found_out(make_pooler, db):
    between = make_pooler(more="ignore_startup_parameters = options").dsn_of(db.info.dbname)

    with database.connect(between, name="test") as conn:
        assert database.is_pooled(conn)


def test_worker_scheduler_and_client_work_and_leave_no_trace(worker, through, witness, db):
    running = [worker(through, concurrency=2) for _ in range(2)]
    scheduler = Scheduler(SchedulerConfig(through, poll=0.05, reap=0.1))
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    with ExitStack() as keep, Ordinaut(through) as client:
        keep.callback(scheduler.stop)
        runs = [
            client.enqueue(
                "python:tests.loops.hands.work", {"witness": witness.path, "label": str(n)}
            ).run_id
            for n in range(40)
        ]
        client.create_task("now", tool="echo", schedule_kind="interval", schedule_expr="1 second")
        assert [client.wait(run_id, timeout=30) for run_id in runs] == [str(n) for n in range(40)]
        fired = "select from ordinaut.task_run where task_id is not null and state = 'success'"
        wait_for(lambda: db.execute(fired).fetchone() is not None)
    thread.join(10)

    assert not thread.is_alive()
    assert sorted(int(line.label) for line in witness.lines("end")) == list(range(40))
    for one in running:
        assert one.guard.poll() is None
        assert "database lost" not in one.log
        one.signal(signal.SIGTERM)
        assert one.wait() == 0
    with Ordinaut(through) as client, client._on(None) as conn:
        for _ in range(6):  # each session that the pooler has
            left = conn.execute(
                "select (select count(*) from pg_prepared_statements),"
                " (select count(*) from pg_listening_channels()),"
                " (select count(*) from pg_locks as l join pg_database as d on d.oid = l.database"
                "   where l.locktype = 'advisory' and d.datname = current_database()),"
                " (select count(*) from pg_class where relpersistence = 't'),"
                " (select count(*) from pg_settings where source = 'session'"
                "   and name not in ('application_name', 'client_encoding', 'DateStyle',"
                "   'TimeZone', 'standard_conforming_strings'))"
            ).fetchone()
            assert left == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("trouble", ["restart", "kill", "pause", "backends", "wait"])
def test_a_worker_outlives_what_a_pooler_does(
    worker, make_pooler, db, direct, witness, trouble, tmp_path
):
    # Short of sessions, too: an exchange may wait for longer than the pooler lets it.
    pooler = make_pooler(
        size=2 if trouble == "wait" else 6,
        more="query_wait_timeout = 1\nserver_idle_timeout = 1\nserver_lifetime = 1",
    )
    name, total = db.info.dbname, 60
    running = worker(pooler.dsn_of(name), ttl=20, heartbeat=0.5, concurrency=2)
    with psycopg.connect(direct, autocommit=True) as admin:
        items = [
            {"payload": {"witness": witness.path, "label": str(n), "seconds": 0.02}}
            for n in range(total)
        ]
        calls.enqueue_many(admin, items, tool="python:tests.loops.hands.work")
        witness.wait("end", 5)

        if trouble == "restart":
            pooler.stop()
            (pooler.folder / ".s.PGSQL.6432").unlink(missing_ok=True)
            pooler.start()
        elif trouble == "kill":
            pooler.admin(f"kill {name}")
            pooler.admin(f"resume {name}")
        elif trouble == "pause":
            pooler.admin(f"pause {name}")
            settled = "select count(*) from ordinaut.task_run where finished_at is not null"
            n = admin.execute(settled).fetchone()
            assert admin.execute(settled).fetchone() == n
            pooler.admin(f"resume {name}")
        elif trouble == "backends":
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        else:
            with ExitStack() as held:
                for _ in range(2):
                    hog = held.enter_context(psycopg.connect(pooler.dsn_of(name)))
                    hog.execute("select 1")
                wait_for(lambda: "database lost" in running.log)

        count = "select count(*) from ordinaut.task_run where state = 'success'"
        wait_for(lambda: admin.execute(count).fetchone() == (total,), 30)
    assert sorted(int(line.label) for line in witness.lines("end")) == list(range(total))
    assert running.guard.poll() is None
    assert running.log.count("database lost") <= 3


def test_with_a_dsn_around_the_pooler_it_is_woken(worker, through, direct, db, enqueue, witness):
    running = worker(through, listen_dsn=direct, poll=30.0, ttl=60.0, heartbeat=5.0)
    idle = "select bool_and(w.is_idle) from ordinaut.worker as w"
    wait_for(lambda: db.execute(idle).fetchone() == (True,))

    began = time.time()
    enqueue()
    [start] = witness.wait("start")
    assert start.at - began < 5
    witness.wait("end")

    # Of a lost listener nothing is lost either.
    with psycopg.connect(direct, autocommit=True) as admin:
        listening = "select pid from pg_stat_activity where application_name like '%% listener%%'"
        [(first,)] = admin.execute(listening + " and datname = current_database()").fetchall()
        admin.execute("select pg_terminate_backend(%s)", [first])
        wait_for(lambda: "cannot listen" in running.log and "listening again" in running.log)
    wait_for(lambda: db.execute(idle).fetchone() == (True,))
    enqueue()
    witness.wait("start", 2)


def test_a_dsn_that_leads_to_the_pooler_too_is_named(worker, through, enqueue, ended):
    running = worker(through, listen_dsn=through)

    assert ended(enqueue()).state == "success"
    wait_for(lambda: "listen_dsn leads to a pooler too" in running.log)


def test_install_and_upgrade_through_it(pooler, clean_dsn, tmp_path):
    with psycopg.connect(clean_dsn) as conn:
        through = pooler.dsn_of(conn.info.dbname)
    command = [sys.executable, "-m", "ordinaut", "--dsn", through, "install"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    for folder in ("sql", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "migrations" / "0900_alone.sql").write_text(
        "-- ordinaut: no transaction\ncreate index concurrently x on ordinaut.worker (name);\n"
    )
    with (
        database.connect(through, name="install") as conn,
        pytest.raises(schema.SchemaError, match="a pooler stands between"),
    ):
        schema.install(conn, tmp_path)
    with psycopg.connect(clean_dsn) as conn:
        assert conn.execute("select to_regclass('ordinaut.x')").fetchone() == (None,)
        held = (
            "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database"
            " where l.locktype = 'advisory' and d.datname = current_database()"
        )
        assert conn.execute(held).fetchone() == (0,)
