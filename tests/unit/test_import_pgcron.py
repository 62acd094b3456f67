"""pg_cron's jobs become tasks of the tool sql; what it could not run is said, not imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import calls, db
from ordinaut.calls import PgCron, PgCronJob
from ordinaut.cli.main import invoke
from ordinaut.importing.found import Found
from ordinaut.importing.pgcron import read_pg_cron
from ordinaut.manifest import parse

# As pg_cron 1.4 to 1.6 have it, but for the column defaults that call its sequence.
TABLE = """
create schema cron;
create table cron.job (
  jobid    bigint primary key,
  schedule text not null,
  command  text not null,
  nodename text not null default 'localhost',
  nodeport int not null default 5432,
  database text not null default current_database(),
  username text not null default current_user,
  active   boolean not null default true,
  jobname  text
);
"""
JOBS = [  # jobid, schedule, command, more
    (1, "0 3 * * *", "delete from events where at < now() - interval '1 week'", {}),
    (2, "30 seconds", "call process_updates()", {"jobname": "process updates"}),
    (3, "0 12 $ * *", "call payroll()", {"jobname": "payroll"}),
    (4, "0 10 * * *", "VACUUM (analyze) events", {}),
    (5, "*/5 * * * *", "refresh materialized view sales", {"active": False}),
    (6, "0 0 1 1 *", "select 1", {"database": "other", "username": "alice", "nodename": "db2"}),
    (7, "@reboot", "select 1", {}),
    (8, "0 5 * * 1,3,5", "update a set b = 1; update c set d = 2", {}),
    (9, "@hourly", "select ';', \"a;b\", $q$;$q$ /* ; */ -- ;\n;", {}),
    (10, "bogus", "select 1", {}),
    (11, "5/10 * * * *", "select 1", {}),
    (12, "0 0 30 2 *", "select 1", {}),
]


@pytest.fixture
def there(clean_dsn: str) -> Iterator[str]:
    with psycopg.connect(clean_dsn) as conn:
        conn.execute(TABLE)
        for jobid, schedule, command, more in JOBS:
            row = {"jobid": jobid, "schedule": schedule, "command": command} | more
            names, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
            conn.execute(f"insert into cron.job ({names}) values ({values})", row)
    yield clean_dsn


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(dsn: str, *argv: str) -> tuple[int, str, str]:
        code = invoke(["import", "pg-cron", "--dsn", dsn, *argv])
        return code, *capsys.readouterr()

    return run


def found(*jobs: tuple[str, str], timezone: str = "GMT") -> Found:
    rows = [
        PgCronJob(n, schedule, command, "localhost", "app", "me", True, None)
        for n, (schedule, command) in enumerate(jobs, 1)
    ]
    return read_pg_cron(PgCron("app", "me", timezone, rows))


def test_jobs_become_tasks_and_fire_when_pg_cron_does(cli, there):
    code, out, err = cli(there)
    assert code == 1
    tasks = {d.name: d.arguments for d in parse(out, "m.yaml")}
    assert list(tasks) == [
        "delete-from-events", "process-updates", "payroll", "refresh-materialized-view",
        "select", "select-2",
    ]  # fmt: skip
    first = tasks["delete-from-events"]
    assert first["tool"] == "sql"
    assert first["payload"] == {"statement": JOBS[0][2]}
    assert (first["schedule_kind"], first["schedule_expr"]) == ("cron", "0 3 * * *")
    assert (first["timezone"], first["overlap"], first["max_attempts"]) == ("UTC", "buffer_all", 1)
    assert tasks["process-updates"]["schedule_expr"] == "30 s"
    assert tasks["process-updates"]["overlap"] == "skip"
    assert tasks["payroll"]["schedule_expr"] == "0 12 L * *"
    assert tasks["refresh-materialized-view"]["schedule_kind"] == "manual"
    assert "it is inactive; to start it, give it schedule: {'cron': '*/5 * * * *'" in out
    assert "pg_cron runs it in database other" in out
    assert "pg_cron runs it as alice" in out
    assert "pg_cron runs it on db2" in out
    assert err.count("equal") == 5


def test_what_sql_cannot_run_is_said_and_left_out(cli, there):
    _, out, _ = cli(there, "--json")
    problems = {p["where"]: (p["field"], p["reason"]) for p in json.loads(out)["problems"]}
    assert problems.keys() == {f"cron.job {n}" for n in (4, 7, 8, 10, 11, 12)}
    assert "VACUUM cannot run in a transaction" in problems["cron.job 4"][1]
    assert "2 statements" in problems["cron.job 8"][1]
    assert problems["cron.job 12"][0] == "day of month"


def test_apply_takes_it(cli, there, dsn, tmp_path):
    _, out, _ = cli(there)
    (tmp_path / "m.yaml").write_text(out)
    assert invoke(["task", "apply", "m.yaml", "--dsn", dsn]) == 0
    with db.connect(dsn, name="test") as conn:
        assert {t.tool for t in calls.list_tasks(conn)} == {"sql"}
        assert calls.get_task(conn, "payroll").schedule_expr == "0 12 L * *"


def test_the_time_zone_is_pg_cron_s(cli, there):
    with psycopg.connect(there, autocommit=True) as conn:
        conn.execute("delete from cron.job where jobid > 3")
        name = conn.info.dbname
        conn.execute(f"alter database {name} set cron.timezone = 'America/New_York'")
    code, out, err = cli(there)
    assert code == 0, err
    tasks = {d.name: d.arguments for d in parse(out, "m.yaml")}
    assert tasks["payroll"]["timezone"] == "America/New_York"
    assert tasks["payroll"]["dst_gap"] == "skip"
    assert tasks["payroll"]["dst_overlap"] == "both"
    assert err.count("equal") == 3


def test_an_old_name_of_a_zone_is_refused_where_it_matters():
    problems = found(("0 0 * * *", "select 1"), timezone="PRC").problems
    assert "old name" in problems[0].reason


@pytest.mark.parametrize(
    ("command", "ok"),
    [
        ("select 1", True),
        ("select 1;", True),
        (" ; select 1 ; ; ", True),
        ("select E'it\\'s; fine'", True),
        ("select 'it''s; fine'", True),
        ("do $$ begin perform 1; perform 2; end $$", True),
        ("do $a$ select $b$;$b$; $a$", True),
        ("/* /* ; */ */ select 1", True),
        ("select 1; select 2", False),
        ("select 'a'; select 'b'", False),
        ("select $1$; select 2", False),
        ("", False),
        ("-- nothing", False),
        ("vacuum", False),
        ("/* x */ Vacuum full t", False),
        ("create index concurrently i on t (a)", False),
        ("create unique index concurrently i on t (a)", False),
        ("create index i on t (a)", True),
        ("reindex table concurrently t", False),
        ("reindex table t", True),
        ("select 'vacuum'", True),
        ("begin", False),
        ("cluster", False),
        ("cluster t", True),
        ("call vacuum_all()", True),
    ],
)
def test_one_statement_that_a_transaction_takes(command, ok):
    assert bool(found(("0 0 * * *", command)).jobs) is ok


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("1 second", "1 s"), ("59 SECONDS", "59 s"), (" 5  seconds ", "5 s"), ("60 seconds", None),
        ("0 seconds", None), ("5 minutes", None), ("0 0 $ * 1", "0 0 L * 1"),
        ("0 0 1,$ * *", None), ("0 0 L * *", None), ("* * * * * *", None),
    ],
)  # fmt: skip
def test_schedules_are_pg_cron_s(schedule, expected):
    jobs = found((schedule, "select 1")).jobs
    assert [job.expr for job in jobs] == ([expected] if expected else [])


def test_without_its_table_the_command_says_where_it_is(cli, clean_dsn):
    code, out, err = cli(clean_dsn)
    assert (code, out) == (78, "")
    assert "cron.job" in err and "cron.database_name" in err
    with psycopg.connect(clean_dsn, autocommit=True) as conn:
        conn.execute(TABLE)
    code, out, err = cli(clean_dsn)
    assert (code, parse(out, "m.yaml")) == (0, [])
    assert "sees no job" in err
