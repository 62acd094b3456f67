"""
The loops of one client: the least that a queue with a history can do, and ours beside it.

Both take batches of 100, and settle one batch in the transaction that takes the next.  Both are
written as a good client would: prepared, binary parameters, arrays in one statement.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from ordinaut import calls
from ordinaut.bench.lab import Conn
from ordinaut.floors import Floors

BATCH = 100
BODY = '{"message": "hello", "customer": 4711, "dry_run": false}'

_BARE = """
create table bare (id bigint generated always as identity primary key, body jsonb not null);
create table bare_history (id bigint primary key, output jsonb)
"""
_BARE_SETTLE = """
insert into bare_history select unnest(%b::bigint[]), unnest(%b::text[])::jsonb
"""
_BARE_TAKE = """
delete from bare where ctid = any (array(
  select ctid from bare order by id limit %b for update skip locked
)) returning id, body
"""
_EXCHANGE = """
select e.kind, e.work_id, e.tool, e.payload, e.attempt, e.priority, e.run_at
from ordinaut.exchange(
  %b, 'default', %b, %b, %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::bigint[],
  p_floors => %b::timestamptz[]) as e
"""
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OUTPUT = '{"ok": true}'


def bare_setup(conn: Conn) -> None:
    conn.execute(_BARE)


def bare_fill(conn: Conn, count: int) -> None:
    conn.execute(
        "insert into bare (body) select %s::jsonb from generate_series(1, %s)", [BODY, count]
    )


def bare_drain(conn: Conn) -> int:
    """Drain the table and return how many rows it had."""
    ids: list[int] = []
    total = 0
    while True:
        with conn.transaction():
            if ids:
                conn.execute(_BARE_SETTLE, [ids, [_OUTPUT] * len(ids)], binary=True)
            rows = conn.execute(_BARE_TAKE, [BATCH], binary=True).fetchall()
        ids = [row[0] for row in rows]
        total += len(ids)
        if not ids:
            return total


def fill(conn: Conn, count: int, tool: str = "echo", payload: Any = None) -> list[uuid.UUID]:
    """Enqueue, in bulk, and return the ids."""
    item = {"payload": json.loads(BODY) if payload is None else payload}
    ids: list[uuid.UUID] = []
    while len(ids) < count:
        items = [item] * min(1000, count - len(ids))
        ids += [a.run_id for a in calls.enqueue_many(conn, items, tool=tool) if a.run_id]
    return ids


class Exchanger:
    """A registered worker without children: it does the database's part of the work only."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._worker = uuid.uuid4()
        self._floors = Floors()
        self._settle: list[Any] = [None] * 6
        calls.register_worker(conn, self._worker, ["default"], ["echo"], ttl=timedelta(hours=1))

    def turn(self, limit: int = BATCH) -> int:
        """Settle the last batch and lease the next; return its size."""
        lease = uuid.uuid4()
        floors = self._floors.ask(time.monotonic())
        bounds = None if floors is None else [_instant(f) if f else None for f in floors]
        rows = self._conn.execute(
            _EXCHANGE, [self._worker, lease, limit, *self._settle, bounds], binary=True
        ).fetchall()
        work = [row for row in rows if row[0] == "work"]
        n = len(work)
        self._settle = [None] * 6
        times = [(row[5], (row[6] - _EPOCH) // _MICROSECOND) for row in work]
        self._floors.learn(times, backlog=n == limit)
        if n:
            ids = [row[1] for row in work]
            self._settle = [
                [lease] * n, ids, ["success"] * n, [_OUTPUT] * n, [None] * n, [10] * n
            ]  # fmt: skip
        return n

    def drain(self) -> int:
        """Turn until nothing is due; return how many units were done."""
        total = 0
        while n := self.turn():
            total += n
        return total


def _instant(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
