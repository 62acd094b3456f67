"""
Race: two workers lease at the same time, whatever plan the planner makes.

A lease that was a sub-select in a join could be executed again by the plan, and would lease more
than was asked, or the same row twice.  So: two lessees, one after the other, with both transactions
open, over 100 000 rows that nobody analysed, under each setting that gives another plan.  Each gets
exactly the next rows in line, none twice, and waits for nobody.

The functions pin some settings for speed.  They get the same rows without their pins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.places import exchange
from tests.races import Session

NOW = "2026-03-29 12:00:00+00"

ROWS = """
insert into ordinaut.due_work (work_id, run_id, queue, priority, run_at, enqueued_at, attempt,
  failures, crashes, max_attempts, tool)
select u.id, u.id, 'default', u.n % 9 + 1,
  timestamptz '2026-03-29 11:00:00+00' + u.n * interval '1 ms', '2026-03-29 11:00:00+00', 0, 0, 0,
  3, 'echo'
from (
  select n, ordinaut.uuid_generate_v7('2026-03-29 11:00:00+00') as id
  from generate_series(1, 100000) as n
) as u
"""
UNPIN = """
select format('alter function %s reset %I', p.oid::regprocedure, split_part(c.setting, '=', 1))
from pg_proc as p
cross join unnest(p.proconfig) as c (setting)
where p.pronamespace = 'ordinaut'::regnamespace and c.setting ~ '^(enable_|jit|plan_cache_mode)'
"""
IN_LINE = "select w.work_id from ordinaut.due_work as w order by w.priority, w.run_at limit 40"


def off(*kinds: str) -> dict[str, str]:
    return {f"enable_{kind}": "off" for kind in kinds}


GENERIC = {"plan_cache_mode": "force_generic_plan"}
CUSTOM = {"plan_cache_mode": "force_custom_plan"}
JOINS = [
    ("nestloop",),
    ("hashjoin",),
    ("mergejoin",),
    ("nestloop", "hashjoin"),
    ("nestloop", "mergejoin"),
    ("hashjoin", "mergejoin"),
    ("nestloop", "hashjoin", "mergejoin"),
]
SCANS = [
    ("seqscan",),
    ("indexscan",),
    ("tidscan",),
    ("seqscan", "bitmapscan"),
    ("indexscan", "bitmapscan"),
    ("indexscan", "indexonlyscan", "bitmapscan", "tidscan"),
    ("sort", "incremental_sort"),
    ("material", "memoize"),
    ("hashagg", "sort"),
]
SETTINGS = [
    {},
    GENERIC,
    CUSTOM,
    *[off(*kinds) | GENERIC for kinds in [*JOINS, *SCANS]],
    *[off(*kinds) | CUSTOM for kinds in [*JOINS[3:], *SCANS[3:6]]],
    off("nestloop", "indexscan", "bitmapscan", "material", "memoize", "sort"),
    off("hashjoin", "mergejoin", "seqscan", "bitmapscan", "material", "memoize"),
    # Of all, what executes a sub-select again for each row.
    off("hashjoin", "mergejoin", "tidscan", "material", "memoize", "hashagg", "sort"),
    {"random_page_cost": "0", "seq_page_cost": "1000000"},
    {"random_page_cost": "1000000", "seq_page_cost": "0"},
    {"cpu_tuple_cost": "1000", "cpu_operator_cost": "0"},
    # With inlining and optimisation it would be the same code, made in 20 times the time.
    {"jit": "on", "jit_above_cost": "0"},
    {
        "min_parallel_table_scan_size": "0",
        "min_parallel_index_scan_size": "0",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "max_parallel_workers_per_gather": "4",
    },
    {"from_collapse_limit": "1", "join_collapse_limit": "1"},
    {"work_mem": "64kB", "cursor_tuple_fraction": "1"},
]


@pytest.fixture(scope="module")
def crowd(databases: Any, clock_template: str) -> str:
    """A database of 100 000 due units of which the planner knows nothing."""
    name: str = databases.named("crowd", clock_template)
    with psycopg.connect(databases.dsn_of(name)) as conn:
        conn.execute("alter table ordinaut.due_work set (autovacuum_enabled = off)")
        conn.execute(ROWS)
    return name


@pytest.fixture(scope="module", params=["as shipped", "without its pins"])
def lessees(
    request: pytest.FixtureRequest, databases: Any, crowd: str
) -> Iterator[tuple[Session, Session]]:
    with databases.fresh(crowd) as dsn, ExitStack() as opened:
        with psycopg.connect(dsn) as conn:
            database = conninfo_to_dict(dsn)["dbname"]
            conn.execute(f"alter database \"{database}\" set test.now = '{NOW}'")
            if request.param != "as shipped":
                pins = conn.execute(UNPIN).fetchall()
                assert pins
                for (pin,) in pins:
                    conn.execute(pin)
        first, second = (
            opened.enter_context(closing(Session(name, dsn))) for name in ("first", "second")
        )
        yield first, second


def lease(session: Session, limit: int) -> list[Any]:
    return session.run("select * from ordinaut.lease_work('w', p_limit => %s)", limit)


def exchanged(session: Session, limit: int) -> list[Any]:
    worker_id = uuid4()
    session.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", worker_id)
    return [row for row in session.run(*exchange(worker_id, uuid4(), limit)) if row.kind == "work"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: ",".join(setting) or "none")
def test_two_leases_under_any_plan(
    lessees: tuple[Session, Session], setting: dict[str, str]
) -> None:
    first, second = lessees
    calls: list[tuple[Session, Callable[[Session, int], list[Any]], int]] = [
        (first, lease, 7),
        (second, lease, 7),
        (second, exchanged, 5),
        (first, exchanged, 1),
        (first, lease, 10),
        (second, lease, 1),
    ]
    in_line = [row.work_id for row in first.run(IN_LINE)]
    for session in lessees:
        session.run("discard plans")
        for name, value in setting.items():
            session.run("select set_config(%s, %s, true)", name, value)

    for session, call, limit in calls:
        got = {row.work_id for row in call(session, limit)}
        assert got == set(in_line[:limit]), f"{session.name} asked for {limit}: got {len(got)}"
        del in_line[:limit]

    for session in lessees:
        session.rollback()
