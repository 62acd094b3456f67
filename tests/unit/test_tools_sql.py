"""The tools' own transaction: what they write and that the work is done commit together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ordinaut import calls
from tests.postgres import Databases
from tests.unit.child import HANDS, Child, leased, unit_of
from tests.unit.child import child as child


@pytest.fixture(scope="module")
def tools_dsn(databases: Databases, prod_template: str) -> Iterator[str]:
    """A database for all tests here: a new one for each would take longer than the tests."""
    with databases.fresh(prod_template) as dsn:
        yield dsn


@pytest.fixture
def db(tools_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(tools_dsn, autocommit=True) as conn:
        conn.execute("create table witness (label text)")
        yield conn
        conn.execute("drop table witness")
        conn.execute("truncate ordinaut.due_work, ordinaut.lease, ordinaut.cancel_request")


@pytest.fixture(scope="module")
def runner(tools_dsn: str) -> Iterator[Child]:
    child = Child(
        dsn=tools_dsn,
        tools={"sql": {"max_rows": 3}, "python": {"modules": [HANDS]}},
        idle_in_transaction_ms=7000,
    )
    child.ready()
    yield child
    child.end()


def lease(db: psycopg.Connection[Any], tool: str = "sql", payload: Any = None) -> calls.Work:
    calls.enqueue(db, tool, payload or {})
    (work,) = calls.lease_work(db, "test")
    return work


def run(
    runner: Child, db: psycopg.Connection[Any], statement: str, timeout: float = 0, **more: Any
) -> tuple[str, Any]:
    """Lease a unit and run it in the child; its outcome and its error or stored output."""
    work = lease(db)
    payload = {"statement": statement} | more
    outcome, error = runner.run("sql", payload, **leased(work, timeout))
    return outcome, error if outcome != "settled" else calls.get_run(db, work.run_id).output


def hand(
    runner: Child, db: psycopg.Connection[Any], name: str, payload: Any
) -> tuple[str, Any, calls.Work]:
    work = lease(db)
    return *runner.hand(name, payload, **leased(work)), work


def written(db: psycopg.Connection[Any]) -> list[str]:
    return [label for (label,) in db.execute("select label from witness order by label")]


def until_waiting(db: psycopg.Connection[Any]) -> None:
    """Wait until another session of this database waits for an advisory lock."""
    waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    while not db.execute(waits).fetchall()[0][0]:
        pass


def leases(db: psycopg.Connection[Any]) -> int:
    return int(db.execute("select count(*) from ordinaut.lease").fetchall()[0][0])


def test_rows_come_as_objects_with_bound_values(runner: Child, db: psycopg.Connection[Any]) -> None:
    named = run(
        runner,
        db,
        "select %(a)s::int + 1 as n, %(t)s::text as t, %(o)s::jsonb -> 'k' as k,"
        " now() > 'epoch' as b, 1.5::numeric as d, array_length(%(l)s::int[], 1) as l",
        params={"a": 1, "t": "'; drop table witness; --", "o": {"k": [1]}, "l": [1, 2, 3]},
    )
    placed = run(runner, db, "select %s as x", params=["y"])

    row = {"n": 2, "t": "'; drop table witness; --", "k": [1], "b": True, "d": "1.5", "l": 3}
    assert named == ("settled", {"rows": [row], "rowcount": 1})
    assert placed == ("settled", {"rows": [{"x": "y"}], "rowcount": 1})


def test_writes_and_completion_are_one(runner: Child, db: psycopg.Connection[Any]) -> None:
    outcome, output = run(runner, db, "insert into witness values ('100%')")

    assert (outcome, output) == ("settled", {"rows": [], "rowcount": 1})
    assert written(db) == ["100%"]
    assert leases(db) == 0


def test_more_rows_than_allowed_are_counted_and_left_out(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    many = run(runner, db, "select n from generate_series(1, 10) as n")[1]
    none = run(runner, db, "select n from generate_series(1, 10) as n", max_rows=0)[1]

    assert many == {"rows": [{"n": 1}, {"n": 2}, {"n": 3}], "rowcount": 10, "truncated": True}
    assert none == {"rows": [], "rowcount": 10, "truncated": True}


@pytest.mark.parametrize(
    ("statement", "more", "code", "retryable"),
    [
        ("insert into witness select 1 / 0", {}, "E2002", False),
        ("selec 1", {}, "E2001", False),
        ("select * from nowhere", {}, "E2001", False),
        ("insert into witness values ('a'); insert into witness values ('b')", {}, "E2001", False),
        ("do $$ begin raise sqlstate '40001'; end $$", {}, "E5003", True),
        ("select %s", {"params": []}, "E2002", False),
        ("select %(a)s", {"params": {}}, "E2002", False),
        ("select 1", {"params": "x"}, "E2002", False),
        ("select 1", {"max_rows": 4}, "E2002", False),
        ("select 1", {"colour": 1}, "E2002", False),
        ("select 1", {"query": "select 2"}, "E2003", False),
        ("  ", {}, "E2003", False),
        ("commit", {}, "E2002", False),
    ],
)
def test_a_statement_that_fails_leaves_nothing_and_its_sqlstate_decides(
    runner: Child,
    db: psycopg.Connection[Any],
    statement: str,
    more: dict[str, Any],
    code: str,
    retryable: bool,
) -> None:
    outcome, error = run(runner, db, statement, **more)

    assert (outcome, error["code"], error["retryable"]) == ("failed", code, retryable)
    assert written(db) == []
    assert leases(db) == 1  # the worker settles it
    assert run(runner, db, "select 1")[0] == "settled"


def test_a_statement_is_stopped_before_the_timeout_of_its_unit(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    outcome, error = run(runner, db, "select pg_sleep(60)", timeout=0.3)

    assert (outcome, error["code"]) == ("timed_out", "E6001")


def test_work_that_is_lost_or_cancelled_is_not_begun(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    lost, cancelled = lease(db), lease(db)
    calls.release_work(db, lost.lease_id)
    calls.cancel_run(db, cancelled.run_id)
    payload = {"statement": "insert into witness values ('x')"}

    lost_as = runner.run("sql", payload, **leased(lost))
    cancelled_as = runner.run("sql", payload, **leased(cancelled))

    assert (lost_as[0], lost_as[1]["type"]) == ("failed", "LeaseLost")
    assert (cancelled_as[0], cancelled_as[1]["type"]) == ("cancelled", "WorkCancelled")
    assert written(db) == []


@pytest.fixture
def role(db: psycopg.Connection[Any]) -> Iterator[str]:
    name = "ordinaut_test_tool"
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        db.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
    db.execute(sql.SQL("grant insert, select on witness to {}").format(sql.Identifier(name)))
    yield name
    db.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
    # Another test process may be using it, in a database of its own.
    with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
        db.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_tool_role_needs_no_right_on_ordinaut_to_complete(
    child: Callable[..., Child], db: psycopg.Connection[Any], tools_dsn: str, role: str
) -> None:
    runner = child(dsn=tools_dsn, tool_role=role, tools={"sql": {}})

    allowed = run(runner, db, "insert into witness values (current_user) returning label")
    refused = run(runner, db, "select * from ordinaut.lease")

    assert allowed == ("settled", {"rows": [{"label": role}], "rowcount": 1})
    assert (refused[0], refused[1]["code"]) == ("failed", "E8001")


def test_sql_may_have_a_login_of_its_own(
    child: Callable[..., Child], db: psycopg.Connection[Any], tools_dsn: str
) -> None:
    runner = child(dsn="host=/nowhere", tools={"sql": {"dsn": tools_dsn}})

    assert run(runner, db, "select 1 as n")[1]["rows"] == [{"n": 1}]


# context.connection


@pytest.mark.parametrize("name", ["write", "awrite"])
def test_a_python_tool_writes_and_completes_at_once(
    runner: Child, db: psycopg.Connection[Any], name: str
) -> None:
    outcome, _, work = hand(runner, db, name, {"text": "a"})

    finished = calls.get_run(db, work.run_id)
    assert (outcome, finished.state, finished.output) == ("settled", "success", "a")
    assert written(db) == ["a"]


@pytest.mark.parametrize(
    ("then", "outcome", "kind"),
    [
        ("raise", "failed", "RuntimeError"),
        ("commit", "failed", "ProgrammingError"),
        ("die", "failed", "AdminShutdown"),
        ("snooze", "snoozed", None),
    ],
)
def test_a_python_tool_that_fails_has_written_nothing(
    runner: Child, db: psycopg.Connection[Any], then: str, outcome: str, kind: str | None
) -> None:
    got, error, work = hand(runner, db, "write", {"text": "a", "then": then})

    assert (got, error.get("type")) == (outcome, kind)
    assert written(db) == []
    assert calls.get_run(db, work.run_id).state == "running"
    assert hand(runner, db, "write", {"text": "b"})[0] == "settled"


def test_a_savepoint_of_the_tool_is_its_own_business(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    outcome, _, work = hand(runner, db, "write", {"text": "a", "then": "savepoint"})

    assert (outcome, calls.get_run(db, work.run_id).output) == ("settled", "DivisionByZero")
    assert written(db) == ["a"]


def test_a_tool_that_ended_the_transaction_does_not_complete(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    outcome, error, _ = hand(runner, db, "write", {"text": "a", "then": "end"})

    assert (outcome, error["message"]) == (
        "failed",
        "a statement of the tool ended its transaction",
    )


def test_nobody_takes_the_lease_while_the_transaction_is_open(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    work = lease(db)
    db.execute("update ordinaut.lease set expires_at = now() - interval '1 day'")
    db.execute("select pg_advisory_lock(4711)")
    payload = {"statement": "select pg_advisory_xact_lock(4711)"}

    runner.tell("run", [unit_of("sql", payload, **leased(work))])
    until_waiting(db)
    reaped = calls.reap(db)
    db.execute("select pg_advisory_unlock(4711)")

    assert reaped == 0
    assert runner.results()[0][2] == "settled"
    assert calls.get_run(db, work.run_id).state == "success"


def test_one_connection_serves_many_units_and_remembers_nothing(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    rows = []
    for _ in range(2):
        outcome, _, work = hand(runner, db, "session", {})
        rows.append(calls.get_run(db, work.run_id).output["row"])
        assert outcome == "settled"

    assert rows[0] == rows[1]  # the same backend among them
    assert rows[0][1:5] == ["0", "7s", None, ""]


def test_a_connection_that_broke_meanwhile_is_replaced(
    runner: Child, db: psycopg.Connection[Any]
) -> None:
    assert hand(runner, db, "write", {"text": "a"})[0] == "settled"
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    assert hand(runner, db, "write", {"text": "b"})[0] == "settled"


def test_a_database_that_is_away_is_worth_another_try(
    child: Callable[..., Child], db: psycopg.Connection[Any]
) -> None:
    runner = child(dsn="host=/nowhere dbname=x", tools={"sql": {}})

    outcome, error = runner.run("sql", {"statement": "select 1"}, **leased(lease(db)))

    assert (outcome, error["code"], error["retryable"]) == ("failed", "E5001", True)
