"""
The worker's one call on the hot path, without conversions.

A worker moves tens of thousands of runs per second through this function and looks at none of
them: ids, names and JSON stay the bytes that the wire carries.  Parameters are packed into
binary arrays by hand (text arrays cost three to five times as much on the server), and results
use psycopg's C loader for bytea where a uuid, text or jsonb is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import psycopg
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format
from psycopg.rows import tuple_row

EXCHANGE_COLUMNS = (
    "kind", "lease_id", "work_id", "run_id", "task_id", "step", "tool", "payload", "attempt",
    "failures", "max_attempts", "timeout", "priority", "run_at", "scheduled_for", "key", "extra",
)  # fmt: skip

_SQL = (
    "select kind, lease_id, work_id, run_id, task_id, step, tool, payload, attempt, failures,"
    " max_attempts, timeout, priority, run_at, scheduled_for, key, extra"
    " from ordinaut.exchange("
    "p_worker_id => %b::uuid, p_queue => %b::text, p_lease_id => %b::uuid, p_limit => %b::integer,"
    " p_lease_ids => %b::uuid[], p_work_ids => %b::uuid[], p_outcomes => %b::text[],"
    " p_outputs => %b::text[], p_errors => %b::text[], p_elapsed => %b::bigint[],"
    " p_floors => %b::timestamptz[], p_idle => %b::boolean, p_notes => %b::jsonb,"
    " p_careful => %b::boolean)"
)

_HEADER = Struct("!iiIii").pack
_INT8 = Struct("!iq").pack
_INT4 = Struct("!i").pack
_UUID, _TEXT, _BIGINT, _TIMESTAMPTZ = 2950, 25, 20, 1184


class _Packed:
    """A parameter that is binary already."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Packed) -> bytes:
        return obj.data

    def get_key(self, obj: _Packed, format: PyFormat) -> type:
        return type(obj)


def _packed(oid: int) -> type[_Packed]:
    kind = type(f"_Packed{oid}", (_Packed,), {"__slots__": ()})
    dumper = type(f"_Dumper{oid}", (_PackedDumper,), {"oid": oid})
    psycopg.adapters.register_dumper(kind, dumper)
    return kind


_Uuid, _Uuids, _Texts = _packed(_UUID), _packed(2951), _packed(1009)
_Bigints, _Instants, _Jsonb = _packed(1016), _packed(1185), _packed(3802)


def _array(oid: int, items: Sequence[bytes | None]) -> bytes:
    """Pack items in the wire format of a one-dimensional array without a NULL bitmap."""
    body = b"".join(
        b"\xff\xff\xff\xff" if item is None else _INT4(len(item)) + item for item in items
    )
    return _HEADER(1, 1 if None in items else 0, oid, len(items), 1) + body


def _int8_array(oid: int, items: Sequence[int | None]) -> bytes:
    body = b"".join(b"\xff\xff\xff\xff" if n is None else _INT8(8, n) for n in items)
    return _HEADER(1, 1 if None in items else 0, oid, len(items), 1) + body


def exchange_cursor(conn: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Return a cursor for `exchange`, to be kept as long as the connection."""
    cur = conn.cursor(binary=True, row_factory=tuple_row)
    for name, like in (
        ("uuid", "bytea"),
        ("text", "bytea"),
        ("jsonb", "bytea"),
        ("timestamptz", "int8"),
    ):
        loader = psycopg.adapters.get_loader(psycopg.adapters.types[like].oid, Format.BINARY)
        assert loader is not None
        cur.adapters.register_loader(name, loader)
    return cur


def exchange(
    cur: psycopg.Cursor[tuple[Any, ...]],
    worker_id: bytes,
    queue: str,
    lease_id: bytes | None,
    limit: int,
    *,
    lease_ids: Sequence[bytes] | None = None,
    work_ids: Sequence[bytes] = (),
    outcomes: Sequence[bytes] = (),
    outputs: Sequence[bytes | None] = (),
    errors: Sequence[bytes | None] = (),
    elapsed: Sequence[int] = (),
    floors: Sequence[int | None] | None = None,
    idle: bool | None = None,
    notes: bytes | None = None,
    careful: bool = False,
) -> list[tuple[Any, ...]]:
    """Settle what finished and lease the next batch, in one transaction.

    Args:
        cur: from `exchange_cursor`.
        worker_id: 16 bytes, as registered.
        lease_id: 16 random bytes, chosen for this call; None leases nothing.
        limit: how many units at most; 0 leases nothing.
        lease_ids, work_ids, outcomes, outputs, errors, elapsed: parallel, one element per unit
            to settle; the first None settles nothing.  Ids are 16 bytes, outputs and errors
            JSON text, elapsed microseconds.
        floors: nine microseconds since 2000-01-01 UTC (as `run_at` is answered), priority 1
            first; None, here or in it: no floor.
        idle: declare this worker idle or busy; None leaves it.
        notes: a JSON array for the journal.
        careful: settle unit by unit, after a data error.

    Returns:
        Rows of EXCHANGE_COLUMNS.  uuid, text: bytes; jsonb: bytes whose first byte is the
        version 1, to be dropped; timestamptz: microseconds since 2000-01-01 UTC; timeout:
        a timedelta.  Empty means nothing is due that this worker may have.

    Raises:
        WorkerUnknown: register again under a new id; everything held is lost.
        psycopg.errors.DataError, ProgramLimitExceeded: nothing is stored; repeat with careful.
        psycopg.errors.SerializationFailure, DeadlockDetected, LockNotAvailable: repeat.

    Idempotent: the same `lease_id` gets the same batch, and nothing is settled twice.

    Source: sql/lease.sql, ordinaut.exchange
    """
    settle: list[_Packed | None] = [None] * 6
    if lease_ids:
        settle = [
            _Uuids(_array(_UUID, lease_ids)),
            _Uuids(_array(_UUID, work_ids)),
            _Texts(_array(_TEXT, outcomes)),
            _Texts(_array(_TEXT, outputs)),
            _Texts(_array(_TEXT, errors)),
            _Bigints(_int8_array(_BIGINT, elapsed)),
        ]
    cur.execute(
        _SQL,
        [
            _Uuid(worker_id),
            queue,
            None if lease_id is None else _Uuid(lease_id),
            limit,
            *settle,
            None if floors is None else _Instants(_int8_array(_TIMESTAMPTZ, floors)),
            idle,
            None if notes is None else _Jsonb(b"\x01" + notes),
            careful,
        ],
    )
    return cur.fetchall()
