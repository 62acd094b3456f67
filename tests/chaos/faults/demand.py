"""Faults of other people: locks, open transactions, old snapshots, everybody at once."""

from __future__ import annotations

import contextlib
import random
import time

import psycopg

from tests.chaos.faults import fault
from tests.chaos.lab import TTL, Lab
from tests.chaos.load import TOOL


@fault
def locked_tables(lab: Lab, dice: random.Random, scale: float) -> None:
    """ACCESS EXCLUSIVE on a hot table, as an ALTER or VACUUM FULL takes it, for three leases."""
    table = dice.choice(("due_work", "lease", "task_run", "worker", "step", "task_schedule"))
    query = f"lock table ordinaut.{table} in access exclusive mode".encode()
    with (
        lab.fault("locked_tables", table),
        lab.connect() as conn,
        contextlib.suppress(psycopg.errors.LockNotAvailable),
        conn.transaction(),
    ):
        conn.execute("set local lock_timeout = '5s'")
        conn.execute(query)
        time.sleep(3 * TTL * min(1.0, scale + 0.4))


@fault
def open_transaction(lab: Lab, dice: random.Random, scale: float) -> None:
    """Somebody's open transaction holds what it touched: runs, schedules, keys."""
    with lab.fault("open_transaction"), lab.connect() as conn:
        for query in (
            "select from ordinaut.task_run where finished_at is null for update skip locked",
            "select from ordinaut.task_schedule for update skip locked",
            "select from ordinaut.hold for update skip locked",
        ):
            with conn.transaction():
                conn.execute(query.encode())
                time.sleep(3)


@fault
def old_snapshot(lab: Lab, dice: random.Random, scale: float) -> None:
    """A transaction that sees the world of three minutes ago: nothing dead can be removed."""
    with lab.fault("old_snapshot"), lab.connect() as conn, conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select count(*) from ordinaut.due_work")
        time.sleep(180 * scale)


_HERD = """
select count(ordinaut.create_task(format('herd-%%s-%%s', %s::text, n), %s, '{}', 'once',
  to_char(now() + interval '5 s', 'YYYY-MM-DD"T"HH24:MI:SSOF')))
from generate_series(1, %s) as n
"""


@fault
def herd(lab: Lab, dice: random.Random, scale: float) -> None:
    """10 000 tasks are due in the same second."""
    many = int(10_000 * min(1.0, 2 * scale))
    with lab.fault("herd", f"{many} tasks"), lab.connect() as conn:
        row = conn.execute(_HERD.encode(), [str(dice.random())[2:8], TOOL, many]).fetchone()
        assert row is not None and row[0] == many
        time.sleep(8)
