"""The top of the hour: thousands of tasks are due at once, and a tick reads each of them once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

TASKS = """
select count(ordinaut.create_task(format('%%s-%%s', %s::text, n), 'noop', '{}', 'once',
  '2026-03-27T12:00:00+00'))
from generate_series(1, %s) as n
"""
READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
from pg_stat_xact_user_tables
where relid in ('ordinaut.task'::regclass, 'ordinaut.task_schedule'::regclass)
"""


def tick(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    """Return how many fired, and how many rows of tasks that took."""
    with conn.transaction():
        row = conn.execute("select t.fired from ordinaut.tick(500) as t").fetchone()
        read = conn.execute(READ).fetchone()
    assert row is not None and read is not None
    return row[0], read[0]


@pytest.mark.slow
def test_a_scheduler_that_has_seen_few_tasks_reads_each_of_many_but_once(dsn: str) -> None:
    with (
        psycopg.connect(dsn, autocommit=True) as boss,
        psycopg.connect(dsn, autocommit=True) as scheduler,
    ):
        for conn in (boss, scheduler):
            conn.execute("select set_config('test.now', '2026-03-27 11:59:00+00', false)")
        boss.execute(TASKS.replace("12:00:00", "11:59:00"), ["few", 3])
        tick(scheduler)  # its plans are of tables of three rows from now on

        boss.execute(TASKS, ["many", 2000])
        scheduler.execute("select set_config('test.now', '2026-03-27 12:00:00+00', false)")
        fired, read = tick(scheduler)

    assert fired == 500
    assert read < 20 * fired
