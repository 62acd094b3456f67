"""The engine's loops in the test's process, and the clock that they follow."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import ordinaut
from ordinaut import calls
from ordinaut.errors import LeaseLost
from ordinaut.scheduler import Scheduler, SchedulerConfig
from ordinaut.testing import Clock, Database, NoClock, SchedulerService, WorkRunner
from ordinaut.testing.environment import as_test
from ordinaut.tools.registry import TOOLS, Context

AT = datetime(2026, 11, 21, 8, tzinfo=UTC)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tool("name")(function): a tool for one test."""

    def register(name: str) -> Any:
        def keep(function: Any) -> Any:
            monkeypatch.setitem(TOOLS, name, function)
            return function

        return keep

    return register


def test_nothing_due_is_none_and_changes_nothing(ordinaut_db: Database) -> None:
    with WorkRunner(ordinaut_db) as worker:
        calls.enqueue(ordinaut_db.conn, "echo", delay="1 h")
        before = ordinaut_db.rows("select * from ordinaut.work")

        assert worker.lease_work() is None
        assert worker.run_once() is None
        assert worker.drain() == 0
        assert ordinaut_db.rows("select * from ordinaut.work") == before


def test_a_unit_is_leased_then_executed(ordinaut_db: Database, ordinaut_worker: WorkRunner) -> None:
    run_id = calls.enqueue(ordinaut_db.conn, "echo", {"a": 1}).run_id

    leased = ordinaut_worker.lease_work()

    assert leased is not None
    assert (leased["id"], leased["status"], leased["payload"]) == (run_id, "running", {"a": 1})
    assert ordinaut_db.one("select status from ordinaut.work") == "running"
    result = ordinaut_worker.execute_work(leased)
    assert (result["status"], result["output"]) == ("completed", {"a": 1})
    row = ordinaut_db.rows("select * from ordinaut.work where work_id = %s", run_id)[0]
    assert row.status == "completed" and row.finished_at is not None


def test_draining_counts_units_of_all_queues_and_priorities(
    ordinaut_db: Database, ordinaut_worker: WorkRunner
) -> None:
    for n in range(5):
        calls.enqueue(ordinaut_db.conn, "echo", n, queue=f"q{n % 2}", priority=1 + n)

    assert ordinaut_worker.lease_and_execute_work() == 5
    assert {r["status"] for r in ordinaut_worker.finished} == {"completed"}


def test_workers_given_one_connection_still_skip_what_others_hold(ordinaut_db: Database) -> None:
    for n in range(3):
        calls.enqueue(ordinaut_db.conn, "echo", n)
    workers = [WorkRunner(ordinaut_db.conn) for _ in range(3)]

    leased = [worker.lease_work() for worker in workers]

    assert len({unit["id"] for unit in leased if unit}) == 3
    for worker, unit in zip(workers, leased, strict=True):
        assert unit is not None
        assert worker.execute_work(unit)["status"] == "completed"
        worker.close()


def test_a_failed_attempt_comes_back_when_the_clock_gets_there(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, ordinaut_clock: Clock, tool: Any
) -> None:
    seen: list[int] = []

    @tool("unsteady")
    def unsteady(context: Context) -> int:
        seen.append(context.attempt)
        if context.attempt < 3:
            raise ordinaut.tools.registry.Retry("not yet", after=30)
        return context.attempt

    ordinaut_clock.travel_to(AT)
    run_id = calls.enqueue(ordinaut_db.conn, "unsteady").run_id

    assert [ordinaut_clock.advance_to_next_event() for _ in range(3)] == [
        AT + timedelta(seconds=30), AT + timedelta(seconds=60), None,
    ]  # fmt: skip
    assert seen == [1, 2, 3]
    assert [r["status"] for r in ordinaut_worker.finished] == ["pending", "pending", "completed"]
    assert calls.get_run(ordinaut_db.conn, run_id).output == 3


def test_async_tools_their_notes_and_their_own_transactions(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, tool: Any
) -> None:
    @tool("waits")
    async def waits(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    @tool("writes")
    def writes(context: Context) -> str:
        context.log("here", n=1)
        context.connection.execute("create table mine as select 1 as n")
        return "written"

    ids = [
        calls.enqueue(ordinaut_db.conn, "waits", {"n": 1}).run_id,
        calls.enqueue(ordinaut_db.conn, "writes").run_id,
    ]

    assert ordinaut_worker.drain() == 2
    assert [calls.get_run(ordinaut_db.conn, i).output for i in ids] == [2, "written"]
    assert ordinaut_db.one("select n from mine") == 1
    assert "log" in [e.event for e in calls.run_history(ordinaut_db.conn, ids[1])]


def test_the_transactions_of_tools_are_on_the_clock(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, ordinaut_clock: Clock, tool: Any
) -> None:
    @tool("asks")
    def asks(context: Context) -> str:
        [(now,)] = context.connection.execute("select ordinaut.now()").fetchall()
        return str(now.isoformat())

    for year in (2030, 2031):
        ordinaut_clock.travel_to(datetime(year, 1, 1, tzinfo=UTC))
        calls.enqueue(ordinaut_db.conn, "asks")
        ordinaut_worker.drain()

    [one, two] = ordinaut_db.rows("select r.output #>> '{}' as at from ordinaut.task_run as r")
    assert {one.at[:4], two.at[:4]} == {"2030", "2031"}


def test_a_unit_held_longer_than_its_worker_lives_is_lost(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, ordinaut_clock: Clock
) -> None:
    calls.enqueue(ordinaut_db.conn, "echo")
    leased = ordinaut_worker.lease_work()
    assert leased is not None
    ordinaut_clock.scheduler.run_once()  # from now on silence counts

    ordinaut_clock.advance("2 days")
    ordinaut_clock.scheduler.run_once()

    with pytest.raises(LeaseLost):
        ordinaut_worker.execute_work(leased)
    assert ordinaut_worker.drain() == 1


def test_a_due_task_becomes_exactly_one_unit(
    ordinaut_db: Database, ordinaut_scheduler: SchedulerService, ordinaut_clock: Clock
) -> None:
    ordinaut_clock.travel_to(AT)
    task_id = calls.create_task(
        ordinaut_db.conn, "once", "echo", schedule_kind="once", schedule_expr="2026-11-21T08:00:01Z"
    )

    assert ordinaut_scheduler.run_once() == 0
    ordinaut_clock.advance(2)
    assert [ordinaut_scheduler.run_once() for _ in range(2)] == [1, 0]

    [row] = ordinaut_db.rows("select * from ordinaut.work")
    assert (row.task_id, row.status) == (task_id, "pending")


def test_a_month_of_a_calendar_runs_in_its_own_time(
    ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    ordinaut_clock.travel_to(AT)
    calls.create_task(
        ordinaut_db.conn, "daily", "echo", schedule_kind="cron", schedule_expr="0 9 * * *"
    )
    calls.create_task(
        ordinaut_db.conn, "hourly", "echo", schedule_kind="interval", schedule_expr="1 h"
    )

    assert ordinaut_clock.run_until("2026-12-01T08:30:00Z") == 10 + 240
    late = "select max(r.started_at - r.scheduled_for) from ordinaut.task_run as r"
    assert ordinaut_db.one(late) == timedelta(0)
    assert ordinaut_clock.now == datetime(2026, 12, 1, 8, 30, tzinfo=UTC)


def test_a_task_runs_to_its_end_with_its_retries(
    ordinaut_db: Database, ordinaut_worker: WorkRunner
) -> None:
    task_id = calls.create_task(ordinaut_db.conn, "fails", "fail", {"times": 9}, max_attempts=3)

    run = ordinaut_worker.execute_task(task_id)

    assert (run.state, run.attempt) == ("failed", 3)


def test_a_task_that_waits_for_more_than_time_says_so(
    ordinaut_db: Database, ordinaut_worker: WorkRunner
) -> None:
    calls.set_queue(ordinaut_db.conn, "default", max_running=1)
    calls.pause_queue(ordinaut_db.conn, "default")
    task_id = calls.create_task(ordinaut_db.conn, "stuck", "echo")

    with pytest.raises(AssertionError, match="is pending, and nothing is due at any time"):
        ordinaut_worker.execute_task(task_id)


def test_all_sessions_travel_together_and_come_home(ordinaut_db: Database) -> None:
    real = ordinaut_db.now
    clock = Clock(ordinaut_db)
    early, client = ordinaut_db.connect(), ordinaut_db.client()
    assert clock.now - real < timedelta(minutes=1)

    clock.travel_to("2030-01-01")

    query = "select ordinaut.now()"
    with psycopg.connect(ordinaut_db.dsn) as foreign, ordinaut_db.connect() as late:
        for conn in (early, late, foreign):
            assert conn.execute(query).fetchone() == (datetime(2030, 1, 1, tzinfo=UTC),)
    run_id = client.enqueue("echo").run_id
    assert run_id is not None
    assert client.get_run(run_id).enqueued_at == datetime(2030, 1, 1, tzinfo=UTC)
    clock.close()
    assert ordinaut_db.now - real < timedelta(minutes=1)


def test_a_database_as_shipped_has_no_clock_to_turn(prod_dsn: str) -> None:
    database = Database(prod_dsn)
    with pytest.raises(NoClock, match="take the fixture ordinaut_db"):
        database.travel(AT)
    database.close()


def test_the_scheduler_of_tests_does_all_that_a_scheduler_does() -> None:
    # But prune: a test that jumps a year ahead wants to see what it did.
    chores = [chore.name for chore in Scheduler(SchedulerConfig(""))._chores]
    assert chores == ["plan", "pipelines", "conditions", "tick", "backfill", "reap", "prune"]


def test_the_log_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("ordinaut")
    before = logger.level
    monkeypatch.setenv("ORDINAUT_LOG_LEVEL", "debug")
    monkeypatch.delenv("ORDINAUT_ENV", raising=False)
    with as_test():
        assert logging.getLogger("ordinaut.testing.simulator").isEnabledFor(logging.DEBUG)
        assert os.environ["ORDINAUT_ENV"] == "test"
    assert logger.level == before
    assert "ORDINAUT_ENV" not in os.environ
