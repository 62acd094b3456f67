"""Conditions on a real scheduler: what is asked, with which rights, and that a bad one is alone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ordinaut import calls, db
from tests.unit.test_scheduler import fired, running, until

MANY = "cannot insert multiple commands into a prepared statement"


@pytest.fixture
def conn(prod_dsn: str) -> Iterator[db.Connection]:
    with db.connect(prod_dsn, name="test") as conn:
        conn.execute("create table invoice (n integer)")
        yield conn


@pytest.fixture
def role(conn: db.Connection) -> Iterator[str]:
    name = f"asker_{uuid4().hex[:8]}"
    conn.execute(f"create role {name} login")
    try:
        yield name
    finally:
        conn.execute(f"drop owned by {name}; drop role {name}")


def condition(conn: db.Connection, name: str, query: str, every: str = "1 s", **more: Any) -> None:
    calls.create_task(
        conn, name, "echo", schedule_kind="condition", schedule_expr=f"every {every}: {query}",
        **more,
    )  # fmt: skip


def why(conn: db.Connection, name: str) -> dict[str, str]:
    return {reason.reason: reason.detail for reason in calls.why(conn, name)}


@pytest.mark.parametrize(
    ("query", "is_true"),
    [
        ("select true", True), ("select false", False), ("select null::boolean", False),
        ("select true where false", False), ("values (true)", True), ("select true;", True),
        ("with t as (select 1 as n) select n = 1 from t -- a comment", True),
        ("select '100%' like '1%s' or '{}' = '{}'", True),
        ("select current_setting('transaction_read_only')::boolean", True),
    ],
)  # fmt: skip
def test_one_boolean(conn, query, is_true):
    assert calls.ask_condition(conn, query) == calls.Answer(is_true)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("select 1", "it must be one column of type boolean"),
        ("select true, false", "it must be one column of type boolean"),
        ("select", "it must be one column of type boolean"),
        ("select true from pg_class as a, pg_class as b, pg_class", "it has more than one row"),
        ("select true from invoise", 'relation "invoise" does not exist'),
        ("selec true", 'syntax error at or near "selec"'),
        ("select true; drop table invoice", MANY),
        ("select true; commit; drop table invoice", MANY),
        ("with t as (delete from invoice returning 1) select true from t", None),
        ("select true into invoices", None),
        ("select nextval('s') = 1", "cannot execute nextval() in a read-only transaction"),
        ("select true from invoice for update", None),
        ("commit", 'syntax error at or near "commit"'),
        ("copy invoice to program 'true'", 'syntax error at or near "copy"'),
    ],
)  # fmt: skip
def test_nothing_but_one_boolean_is_asked(conn, query, error):
    conn.execute("create sequence s")
    answer = calls.ask_condition(conn, query)
    assert answer.is_defect and not answer.is_true
    assert error is None or answer.error == error
    assert conn.execute("select to_regclass('invoice') is not null").fetchone() == (True,)


@pytest.mark.parametrize("query", ["select pg_sleep(60) is null", "select 1 / n = 1 from moment"])
def test_what_may_pass_is_no_defect(conn, query):
    conn.execute("create table moment as select 0 as n")
    answer = calls.ask_condition(conn, query, timeout=timedelta(milliseconds=50))
    assert answer.error and not answer.is_defect


def test_nothing_stays_in_the_session(conn):
    calls.ask_condition(conn, "select set_config('search_path', 'evil', false) = 'evil'")
    calls.ask_condition(conn, "select set_config('statement_timeout', '1', false) is null")
    assert conn.execute("show search_path").fetchone() == ('"$user", public',)
    assert conn.execute("show statement_timeout").fetchone() == ("1min",)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_it_is_asked_with_the_rights_of_its_role(conn, role):
    answer = calls.ask_condition(conn, "select exists (select from invoice)", role=role)
    assert answer == calls.Answer(error="permission denied for table invoice", is_defect=True)
    assert calls.ask_condition(conn, f"select current_user = '{role}'", role=role).is_true
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        calls.ask_condition(conn, "select true", role="nobody_of_that_name")


def test_it_fires_when_it_becomes_true(prod_dsn, conn, caplog):
    condition(conn, "unpaid", "select exists (select from invoice)")
    with running(prod_dsn):
        until(lambda: "condition_unmet" in why(conn, "unpaid"))
        conn.execute("insert into invoice values (1)")
        until(lambda: fired(conn) == 1)
        until(lambda: "condition_met" in why(conn, "unpaid"))
        conn.execute("delete from invoice")
        until(lambda: "condition_unmet" in why(conn, "unpaid"))
        assert fired(conn) == 1
    assert not caplog.records


def test_a_typo_makes_its_task_invalid_and_an_outage_does_not(prod_dsn, conn, caplog):
    condition(conn, "typo", "select exists (select from invoise)")
    condition(conn, "outage", "select exists (select from invoice)")
    with running(prod_dsn):
        until(lambda: calls.get_task(conn, "typo").status == "invalid")
        until(lambda: "condition_unmet" in why(conn, "outage"))
        conn.execute("alter table invoice rename to invoices")
        until(lambda: "condition_error" in why(conn, "outage"))
        conn.execute("alter table invoices rename to invoice")
        until(lambda: "condition_error" not in why(conn, "outage"))
    assert why(conn, "typo")["task_invalid"].endswith('relation "invoise" does not exist')
    assert calls.get_task(conn, "outage").status == "active"
    outage = calls.get_task(conn, "outage").task_id
    lines = [line for line in caplog.messages if str(outage) in line]
    assert len(lines) == 1  # a line per change


def test_the_scheduler_asks_as_the_role_of_its_settings(prod_dsn, conn, role):
    conn.execute(f"grant select on invoice to {role}")
    condition(conn, "mine", f"select current_user = '{role}' and not exists (select from invoice)")
    with running(prod_dsn, condition_role=role):
        until(lambda: fired(conn) == 1)


def test_a_role_that_is_none_stops_conditions_alone(prod_dsn, conn, caplog):
    condition(conn, "never", "select true")
    with running(prod_dsn, condition_role="nobody_of_that_name"):
        until(lambda: any("asking conditions fails" in line for line in caplog.messages))
        calls.create_task(conn, "plain", "echo", schedule_kind="interval", schedule_expr="1 s")
        until(lambda: fired(conn) >= 1)
    assert calls.get_task(conn, "never").status == "active"
    assert sum("asking conditions fails" in line for line in caplog.messages) == 1


def test_two_schedulers_fire_an_edge_once(prod_dsn, conn):
    for n in range(10):
        condition(conn, f"c{n}", "select exists (select from invoice)")
    with running(prod_dsn), running(prod_dsn):
        until(lambda: all("condition_unmet" in why(conn, f"c{n}") for n in range(10)))
        conn.execute("insert into invoice values (1)")
        until(lambda: all("condition_met" in why(conn, f"c{n}") for n in range(10)))
        until(lambda: fired(conn) >= 10)
    assert fired(conn) == 10


def test_twenty_that_hang_delay_nobody(prod_dsn, conn):
    condition(conn, "healthy", "select exists (select from invoice)")
    with running(prod_dsn, condition_timeout=1.0):
        until(lambda: "condition_unmet" in why(conn, "healthy"))
        for n in range(20):
            condition(conn, f"hung{n:02}", "select pg_sleep(60) is null")
        until(lambda: "condition_error" in why(conn, "hung00"))
        begun = time.monotonic()
        calls.create_task(
            conn, "cron", "echo", schedule_kind="cron", schedule_expr="* * * * * *", queue="cron"
        )
        until(lambda: calls.get_task(conn, "cron").next_run)
        assert time.monotonic() - begun < 1.0
        until(lambda: calls.list_runs(conn, task="cron"))
        assert time.monotonic() - begun < 3.0
        conn.execute("insert into invoice values (1)")
        begun = time.monotonic()
        until(lambda: calls.list_runs(conn, task="healthy"))
        # At most one that hangs is before it, and its own second.
        assert time.monotonic() - begun < 3.5


def test_a_query_that_hangs_does_not_hold_up_the_end(prod_dsn, conn):
    condition(conn, "hung", "select pg_sleep(60) is null")
    with running(prod_dsn, condition_timeout=60.0):
        until(
            lambda: (
                conn.execute(
                    "select from pg_stat_activity where application_name = 'ordinaut-conditions'"
                    " and datname = current_database() and wait_event = 'PgSleep'"
                ).fetchone()
                is not None
            )
        )
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    assert "condition_error" not in why(conn, "hung")


def test_its_own_connection_is_opened_again(prod_dsn, conn, caplog):
    condition(conn, "unpaid", "select exists (select from invoice)")
    with running(prod_dsn):
        until(lambda: "condition_unmet" in why(conn, "unpaid"))
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'ordinaut-conditions' and datname = current_database()"
        )
        conn.execute("insert into invoice values (1)")
        until(lambda: fired(conn) == 1)
    assert not any("database gone" in line for line in caplog.messages)


def test_a_poor_login_may_schedule_and_ask(prod_dsn, conn, role):
    conn.execute(f"grant ordinaut_worker to {role}; grant select on invoice to {role}")
    condition(conn, "unpaid", "select not exists (select from invoice)")
    with running(make_conninfo(prod_dsn, user=role)):
        until(lambda: fired(conn) == 1)


def test_after_the_end_is_on_time(prod_dsn, conn):
    """A second after the end, to the scheduler's poll, however often others tick."""
    stop = threading.Event()

    def work() -> None:
        with contextlib.closing(db.connect(prod_dsn, name="worker")) as own:
            while not stop.wait(0.02):
                for unit in calls.lease_work(own, "w"):
                    calls.complete_work(own, unit.lease_id)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        calls.create_task(
            conn, "t", "echo", schedule_kind="interval", schedule_expr="1 s after end"
        )
        with running(prod_dsn):
            until(lambda: fired(conn) >= 4)
    finally:
        stop.set()
        worker.join()
    runs = sorted(calls.list_runs(conn, task="t"), key=lambda run: run.scheduled_for)
    for before, after in pairwise(runs):
        assert after.scheduled_for - before.finished_at == timedelta(seconds=1)
        assert after.enqueued_at - after.scheduled_for < timedelta(seconds=0.25)
