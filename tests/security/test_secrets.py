"""
A secret by reference appears nowhere that we write: not in the database, not in its log or its
notifications, not in ours, not on a command line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.loops.conftest import Running, wait_for
from tests.postgres import EmbeddedPostgres, one
from tests.security.conftest import Town

CANARY = "c4nary-7f3a'\"\\é"
_PLAIN = "c4nary-7f3a"  # whatever is made of its odd characters


def test_a_secret_is_nowhere(
    town: Town,
    city: EmbeddedPostgres,
    worker: Callable[..., Running],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text(CANARY)
    reference = {"$secret": "key"}
    seen = tmp_path / "seen"
    calls: list[tuple[str, dict[str, Any]]] = [
        *(
            (f"python:tests.security.hands.{name}", {"secret": reference})
            for name in ("fails", "chained", "returns", "prints", "notes", "exits", "dies")
        ),
        ("python:tests.security.hands.hangs", {"secret": reference, "seen": str(seen)}),
        ("python:tests.security.hands.fails", {"secret": reference, "unknown": reference}),
        ("python:tests.security.hands.returns", {"secret": [reference]}),
        (
            "shell",
            {"argv": ["/bin/sh", "-c", "cat; env >&2; exit 3"], "stdin": reference,
             "env": {"KEY": reference}},
        ),
        ("shell", {"argv": ["/bin/sh", "-c", 'echo "$KEY"'], "env": {"KEY": reference}}),
        ("shell", {"argv": [reference]}),
        ("http", {"url": "http://127.0.0.1:9/", "headers": {"Authorization": reference}}),
        ("http", {"url": reference}),
        ("http", {"url": "http://127.0.0.1:9/", "headers": {"X": reference, "Y\r\nZ": "a"}}),
        # Not one that the server is sent, to do with it what its log is told to do: runbook.md.
        ("sql", {"statement": "select 1", "params": reference}),
        ("echo", {"secret": reference}),
        ("fail", {"message": reference}),
    ]  # fmt: skip
    producer = town.login("producer")
    listener = town.login("viewer")
    listener.execute("listen ordinaut")
    running = worker(
        town.dsn_of("worker"),
        runner={
            "tools": {
                "python": {"modules": ["tests.security.hands"]},
                "shell": {"allow": ["/bin/sh"], "env": ["KEY"]},
                "http": {"allow_hosts": ["127.0.0.1:9"]},
                "sql": {},
            },
            "secrets_dir": str(tmp_path / "secrets"),
        },
    )
    for tool, payload in calls:
        producer.execute(
            "select ordinaut.enqueue(%s, %s, p_max_attempts => 1, p_timeout => %s::interval)",
            [tool, Jsonb(payload), "2 s" if "hangs" in tool else "30 s"],
        )

    admin = town.login("admin")
    wait_for(seen.exists)
    look = town.login()
    doing = look.execute("select query from pg_stat_activity").fetchall()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    count = "select count(*) from ordinaut.task_run where finished_at is not null"
    # Who dies thrice is abandoned, after a while; once is enough here.
    wait_for(lambda: one(look, count) >= len(calls) - 1, 30)
    shown = admin.execute("select ordinaut.run_history(r.run_id)::text from ordinaut.run as r")

    told = {
        "what it is doing": str(doing),
        "command lines": str(lines),
        "the history": str(shown.fetchall()),
        "notifications": str([n.payload for n in listener.notifies(timeout=0)]),
        "the worker's log": running.log,
        "standard output": (printed := capfd.readouterr().out),
        "the server's log": city.log.read_text(errors="replace"),
        **{table: str(rows) for table, rows in _tables(look)},
    }
    assert {place for place, text in told.items() if _PLAIN in text} == set()
    assert "out ***" in printed
    assert "err ***" in running.log
    assert "logged ***" in running.log
    assert "cannot log in with" in told["task_run"]
    assert "***" in told["task_run"]


def _tables(conn: psycopg.Connection[Any]) -> list[tuple[str, Any]]:
    names = conn.execute(
        "select c.relname from pg_class as c"
        " where c.relnamespace = 'ordinaut'::regnamespace and c.relkind in ('r', 'p')"
    ).fetchall()
    return [
        (name, conn.execute(f"select t::text from ordinaut.{name} as t").fetchall())
        for (name,) in names
    ]
