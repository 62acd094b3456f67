"""Trouble: zombies, lost connections, a database that goes away, tools that do not stop."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import psycopg
import pytest

from ordinaut import calls, schema
from tests.loops.conftest import alive, wait_for


def test_a_zombie_stops_and_says_nothing(db, worker, enqueue, ended, witness):
    zombie = worker(ttl=1.5)
    parent = zombie.parent
    run_id = enqueue(seconds=60, again=3)
    witness.wait("start")

    os.kill(zombie.guard.pid, signal.SIGSTOP)
    os.kill(parent, signal.SIGSTOP)
    worker()
    second = witness.wait("start", 2)[1]
    os.kill(parent, signal.SIGCONT)
    os.kill(zombie.guard.pid, signal.SIGCONT)

    wait_for(lambda: "fenced" in zombie.log)
    run = ended(run_id)
    assert (run.state, run.attempt) == ("success", 2)
    assert [line.pid for line in witness.lines("end")] == [second.pid]


def test_a_terminated_connection_loses_nothing(db, worker, enqueue, ended, witness):
    running = worker()
    run_id = enqueue(seconds=1)
    witness.wait("start")

    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name like 'ordinaut %' and datname = current_database()"
    )

    run = ended(run_id)
    assert (run.state, run.attempt) == ("success", 1)
    assert len(witness.lines("start")) == 1
    assert running.guard.poll() is None
    assert running.log.count("database lost") == 1
    assert ended(enqueue()).state == "success"


def test_a_restart_under_load_loses_and_doubles_nothing(private_pg, worker, witness):
    with psycopg.connect(private_pg.dsn, autocommit=True) as conn:
        schema.install(conn)
    running = worker(private_pg.dsn, ttl=20, concurrency=2)
    total = 600
    with psycopg.connect(private_pg.dsn, autocommit=True) as conn:
        calls.enqueue_many(
            conn,
            [
                {"payload": {"witness": witness.path, "label": str(n), "seconds": 0.002}}
                for n in range(total)
            ],
            tool="python:tests.loops.hands.work",
        )
    witness.wait("end", 50)

    private_pg.crash()
    private_pg.start()

    with psycopg.connect(private_pg.dsn, autocommit=True) as conn:
        count = "select count(*), count(*) filter (where state = 'success') from ordinaut.task_run"
        wait_for(lambda: conn.execute(count).fetchone() == (total, total), 25)
    ends = sorted(int(line.label) for line in witness.lines("end"))
    assert ends == list(range(total))
    assert running.log.count("database lost") == 1


def test_without_a_database_the_tools_are_stopped_before_the_ttl(private_pg, worker, witness):
    with psycopg.connect(private_pg.dsn, autocommit=True) as conn:
        schema.install(conn)
        running = worker(private_pg.dsn, ttl=1.5)
        conn.execute(
            "select ordinaut.enqueue('python:tests.loops.hands.work', %s)",
            [psycopg.types.json.Jsonb({"witness": witness.path, "seconds": 60})],
        )
        [start] = witness.wait("start")

    private_pg.stop()
    stopped_at = time.monotonic()
    wait_for(lambda: not alive(start.pid))

    assert time.monotonic() - stopped_at < 1.5
    assert "fenced" in running.log
    private_pg.start()
    witness.wait("start", 2)
    assert running.guard.poll() is None


def test_a_timeout_kills_the_tool_and_what_it_started(worker, enqueue, ended, witness):
    worker(concurrency=2)

    run = ended(enqueue("deaf", timeout="200 ms", attempts=2))

    assert run.state == "timed_out"
    assert run.finished_at - run.started_at >= timedelta(milliseconds=200)
    starts = witness.lines()
    assert [line.event for line in starts] == ["start"] * 2
    assert not any(alive(line.pid) for line in starts)
    wait_for(lambda: not any(alive(int(line.label)) for line in starts))


def test_a_cancel_stops_what_runs(db, worker, enqueue, ended, witness):
    worker()
    run_id = enqueue(seconds=60)
    [start] = witness.wait("start")

    assert calls.cancel_run(db, run_id, "enough") == "requested"

    assert ended(run_id).state == "cancelled"
    assert not alive(start.pid)
    assert witness.lines("end") == []


def test_a_tool_that_holds_the_gil_starves_no_heartbeat(db, worker, enqueue, ended, witness):
    worker(ttl=1.2, heartbeat=0.3)

    run = ended(enqueue("hog", seconds=2.5))

    assert (run.state, run.attempt) == ("success", 1)


def test_poll_only_needs_no_session(db, worker, enqueue, ended):
    worker(notify=False, pooled=True)

    assert ended(enqueue()).state == "success"
    settings = db.execute(
        "select count(*) from pg_stat_activity where application_name like 'ordinaut worker%'"
        " and query ilike 'listen%' and datname = current_database()"
    ).fetchone()
    assert settings == (0,)


def test_sixteen_slow_jobs_and_two_workers_of_eight_slots_start_at_once(
    worker, enqueue, witness, db
):
    for _ in range(2):
        worker(concurrency=8, ttl=20, heartbeat=2)
    wait_for(lambda: "ready" and db.execute("select count(*) from ordinaut.worker").fetchone()[0])

    began = time.monotonic()
    with db.transaction():
        for _ in range(16):
            enqueue(seconds=2)

    starts = witness.wait("start", 16)
    assert max(line.at for line in starts) - began < 0.5


@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ({"queues": ["a", "a"]}, 1, "each named once"),
        ({"queues": ["no such\tname"]}, 78, "bad configuration"),
    ],
)
def test_a_wrong_configuration_is_refused(worker, config, code, says):
    running = worker(ready=False, **config)

    assert running.wait() == code
    assert says in running.log


def test_an_empty_database_is_refused(worker, clean_dsn):
    running = worker(clean_dsn, ready=False)

    assert running.wait() == 78
    assert "ordinaut install" in running.log


def test_another_api_ends_with_75(db, worker):
    db.execute("update ordinaut.loaded_code set api = api + 1")

    assert worker(ready=False).wait() == 75


def test_an_unreachable_database_is_waited_for_quietly(worker):
    running = worker("host=/nonexistent dbname=x", ready=False)
    wait_for(lambda: "no database" in running.log)

    time.sleep(1.5)

    assert running.log.count("no database") == 1
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
