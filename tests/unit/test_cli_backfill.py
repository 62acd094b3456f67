"""ordinaut task backfill, backfills, cancel-backfill."""

from __future__ import annotations

import pytest

from ordinaut import calls, db
from ordinaut.backfill import Backfills
from tests.unit.test_cli_db import cli as cli  # a fixture


@pytest.fixture
def conn(dsn):
    with db.connect(dsn, name="test") as conn:
        calls.create_task(conn, "cron", "echo", schedule_kind="cron", schedule_expr="0 * * * *")
        calls.create_task(conn, "every", "echo", schedule_kind="interval", schedule_expr="1 h",
                          start_at="2026-01-01 00:00+00")  # fmt: skip
        calls.create_task(conn, "hand", "echo")
        yield conn


RANGE = ("--from", "2026-01-02T00:00Z", "--to", "2026-01-02T05:00Z")


def runs(conn):
    return conn.execute("select count(*) from ordinaut.due_work").fetchone()[0]


@pytest.mark.parametrize("task", ["cron", "every"])
def test_a_dry_run_says_what_would_run_and_starts_nothing(cli, conn, task):
    code, said = cli("task", "backfill", task, *RANGE, "--dry-run")
    assert code == 0
    assert said.startswith(f"5 runs of default/{task}, for 2026-01-0")
    assert said.endswith("dry run: nothing was started\n")

    code, found = cli("task", "backfill", task, *RANGE, "--dry-run", "--json")
    assert (code, found["state"], found["fired"], found["left_alone"]) == (0, "done", 5, 0)
    assert found["first_at"] == "2026-01-02T00:00:00+00:00"
    assert found["last_at"] == "2026-01-02T04:00:00+00:00"
    assert (runs(conn), calls.list_backfills(conn)) == (0, [])


@pytest.mark.parametrize("task", ["cron", "every"])
def test_a_dry_run_refuses_what_would_fail(cli, conn, task):
    code, said = cli("task", "backfill", task, *RANGE, "--limit", "4", "--dry-run")
    assert code != 0
    assert said.startswith("error: the range holds 5 occurrences, the limit is 4\n")
    assert calls.list_backfills(conn) == []


def test_what_sql_knows_runs_at_once(cli, conn):
    code, said = cli("task", "backfill", "every", *RANGE, "--rate", "6", "--note", "outage")
    assert code == 0
    assert ": 5 runs of default/every, for " in said
    assert runs(conn) == 5

    code, said = cli("task", "backfill", "every", *RANGE)
    assert ": 0 runs of default/every; 5 have run already" in said
    code, rows = cli("task", "backfills", "every", "--json")
    assert [(r["fired"], r["left_alone"], r["rate"], r["note"]) for r in rows] == [
        (0, 5, None, None), (5, 0, 6, "outage")
    ]  # fmt: skip


def test_a_calendar_waits_for_a_scheduler_and_can_be_cancelled(cli, conn):
    code, said = cli("task", "backfill", "cron", *RANGE)
    assert code == 0
    assert "of default/cron waits for a scheduler" in said
    code, said = cli("task", "backfills")
    assert "pending" in said

    Backfills().step(conn)
    code, [row] = cli("task", "backfills", "cron", "--json")
    assert (row["state"], row["fired"]) == ("done", 5)
    tail = row["backfill_id"][-8:]
    code, found = cli("task", "cancel-backfill", tail, "--note", "no", "--json")
    assert (code, found["cancelled"]) == (0, 5)
    assert cli("task", "cancel-backfill", tail)[1].endswith("is cancelled, and 0 of its runs\n")
    assert runs(conn) == 0


def test_no_backfill_says_so(cli, conn):
    assert cli("task", "backfills")[1].startswith("no backfills")
    assert cli("task", "backfills", "--json") == (0, [])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("backfill", "hand", *RANGE), "task default/hand is manual: no calendar says when"),
        (("backfill", "none", *RANGE), "there is no task 'none'"),
        (("backfill", "cron", "--from", "yesterday", "--to", "2026-01-01"), "--from: 'yesterday'"),
        (("backfill", "cron", "--from", "2026-01-02", "--to", "2026-01-01"), "a backfill needs a"),
        (("backfill", "cron", "--from", "2026-01-02", "--to", "2190-01-01"), "to 2190-01-01"),
        (
            ("backfill", "cron", "--from", "0001-01-01", "--to", "2026-01-01"),
            "--from: '0001-01-01'",
        ),
        (("cancel-backfill", "abcdef01"), "there is no one backfill 'abcdef01'"),
        (("backfills", "none"), "there is no task 'none'"),
    ],
)
def test_mistakes_are_sentences(cli, conn, argv, says):
    code, said = cli("task", *argv)
    assert code != 0
    assert says in said
    assert "Traceback" not in said
