"""
The worker's conversation with the database: one call under way at a time, and never a wait.

`ordinaut.exchange` settles what finished and leases the next batch.  A blocking call would keep
the parent from feeding its children, enforcing deadlines and seeing signals for as long as a
commit or a lock takes, so the call is sent and its answer collected through libpq's asynchronous
interface, from the parent's one `select`.  NOTIFYs arrive on the same socket.

A worker moves tens of thousands of runs per second through here and looks at none of them: ids,
names and JSON stay bytes, times stay integers.  Parameters are packed into binary arrays by hand,
rows are loaded by psycopg's C loaders.

A `Call` is a value: it is kept until its answer is known, and sent again as it is when the
connection breaks.  The lease id in it was chosen by us, so the repetition gets the same batch and
settles nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Transformer
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from ordinaut import calls, db
from ordinaut.wire import Result

# The places of a row: the kind, the unit as it goes to a child, and what only the parent needs.
UNIT = slice(1, 13)
PRIORITY, RUN_AT = 13, 14

_SQL = b"""
select
  e.kind, e.lease_id, e.work_id, e.run_id, e.task_id, e.tool, e.payload::text,
  e.attempt, e.failures, e.max_attempts,
  coalesce((extract(epoch from e.timeout) * 1000000)::bigint, $15),
  e.step, (extract(epoch from e.scheduled_for) * 1000000)::bigint, e.priority,
  coalesce(e.run_at, (e.extra ->> 'at')::timestamptz)
from ordinaut.exchange(
  p_worker_id => $1, p_queue => $2, p_lease_id => $3, p_limit => $4, p_lease_ids => $5,
  p_work_ids => $6, p_outcomes => $7, p_outputs => $8, p_errors => $9, p_elapsed => $10,
  p_floors => $11, p_idle => $12, p_notes => $13, p_careful => $14
) as e
"""
_OIDS = (2950, 25, 2950, 23, 2951, 2951, 1009, 1009, 1009, 1016, 1185, 16, 3802, 16, 20)
_BINARY = [pq.Format.BINARY] * len(_OIDS)
_NAME = b"ordinaut_exchange"

_HEADER = Struct(">iiIii").pack
_INT4 = Struct(">i").pack
_INT8 = Struct(">q").pack
_ITEM8 = Struct(">iq").pack
_UUID, _TEXT, _BIGINT, _TIMESTAMPTZ = 2950, 25, 20, 1184
_NULL = b"\xff\xff\xff\xff"
_UUID_SIZE = b"\x00\x00\x00\x10"


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange, ready to be sent as often as it takes.

    Attributes:
        since: time.monotonic() when the first of the results came.  The database counts a start
            back from its own clock, so what a result waited for belongs to what it took.
    """

    worker_id: bytes
    queue: str
    lease_id: bytes | None
    limit: int
    settle: Sequence[Result] = ()
    floors: Sequence[int | None] | None = None  # microseconds since 2000, priority 1 first
    idle: bool | None = None
    notes: bytes | None = None
    careful: bool = False
    timeout_us: int = 0  # for units that bring none
    since: float | None = None

    def carefully(self) -> Call:
        """The same call, unit by unit, after a data error."""
        return replace(self, careful=True)

    def params(self) -> list[bytes | None]:
        """Return the fifteen parameters in the wire's binary format."""
        settle: list[bytes | None] = [None] * 6
        if self.settle:
            leases, works, outcomes, outputs, failures, elapsed = zip(*self.settle, strict=True)
            waited = 0 if self.since is None else int((time.monotonic() - self.since) * 1e6)
            settle = [
                uuids(leases),
                uuids(works),
                texts([o.encode() for o in outcomes]),
                texts(outputs),
                texts(failures),
                bigints([took + waited for took in elapsed]),
            ]
        return [
            self.worker_id,
            self.queue.encode(),
            self.lease_id,
            _INT4(self.limit),
            *settle,
            None if self.floors is None else instants(self.floors),
            None if self.idle is None else bytes([self.idle]),
            None if self.notes is None else b"\x01" + self.notes,
            bytes([self.careful]),
            _INT8(self.timeout_us),
        ]


class Refused(Exception):
    """The database answered with an error; the connection is fine.

    Attributes:
        sqlstate: what the loop decides by.
    """

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error
        self.sqlstate = error.sqlstate or ""


class Line:
    """The main connection, made asynchronous.

    Takes over `conn`, an idle one in autocommit mode: nothing else may use it until `close`.

    Attributes:
        listens: NOTIFYs arrive here.
    """

    def __init__(self, conn: psycopg.Connection[Any], *, listen: bool) -> None:
        self._conn = conn
        self._pg = conn.pgconn
        self._prepared = not db.is_pooled(conn)
        self.listens = listen
        self.busy = False
        for name in ("uuid", "text"):
            conn.adapters.register_loader(name, ByteaBinaryLoader)
        conn.adapters.register_loader("timestamptz", Int8BinaryLoader)
        if listen:
            calls.listen(conn)
        if self._prepared:
            answer = self._pg.prepare(_NAME, _SQL, _OIDS)
            if answer.status == pq.ExecStatus.FATAL_ERROR:
                raise self._error(answer)
        self._pg.nonblocking = 1
        self._fd = self._pg.socket  # libpq forgets it when the connection breaks

    def fileno(self) -> int:
        return self._fd

    def send(self, call: Call) -> bool:
        """Begin the call; False means `flush` must follow when the socket takes more.

        Raises:
            psycopg.OperationalError: the connection is gone.
        """
        params = call.params()
        if self._prepared:
            self._pg.send_query_prepared(_NAME, params, _BINARY, pq.Format.BINARY)
        else:
            self._pg.send_query_params(_SQL, params, _OIDS, _BINARY, pq.Format.BINARY)
        self.busy = True
        return self.flush()

    def flush(self) -> bool:
        """Push what is left; True when all of it is on its way."""
        return self._pg.flush() == 0

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Read what has come; return the rows once the answer is complete, else None.

        Raises:
            Refused: the answer is an error.
            psycopg.OperationalError: the connection is gone.
        """
        self._pg.consume_input()
        if not self.busy or self._pg.is_busy():
            return None
        answer = self._pg.get_result()
        while (more := self._pg.get_result()) is not None:
            answer = more
        self.busy = False
        if answer is None:
            raise psycopg.OperationalError("the answer ended early")
        if answer.status == pq.ExecStatus.FATAL_ERROR:
            error = self._error(answer)
            if isinstance(error, psycopg.OperationalError) and not error.sqlstate:
                raise error
            raise Refused(error)
        loader = Transformer.from_context(self._conn)
        loader.set_pgresult(answer, format=pq.Format.BINARY)
        return loader.load_rows(0, answer.ntuples, tuple)

    def _error(self, answer: pq.abc.PGresult) -> psycopg.Error:
        """Read an error; that of libpq has no sqlstate: the connection is gone."""
        error = errors.error_from_result(answer)
        if self._pg.status != pq.ConnStatus.OK or not error.sqlstate:
            return psycopg.OperationalError(str(error))
        return error

    def notified(self) -> bool:
        """Say whether a NOTIFY came since the last question."""
        seen = False
        while self._pg.notifies() is not None:
            seen = True
        return seen

    def deregister(self, worker_id: UUID) -> None:
        """Say goodbye; blocks, and nothing may follow."""
        calls.deregister_worker(self._conn, worker_id, "stopped")

    def close(self) -> None:
        self._conn.close()


def uuids(items: Sequence[bytes]) -> bytes:
    """Pack 16-byte ids as uuid[]."""
    return _HEADER(1, 0, _UUID, len(items), 1) + _UUID_SIZE.join([b"", *items])


def texts(items: Sequence[bytes | None]) -> bytes:
    """Pack UTF-8 as text[]."""
    first = items[0]
    if items.count(first) == len(items):  # all successes, no outputs, no errors
        body = _text(first) * len(items)
    else:
        body = b"".join([_NULL if i is None else _INT4(len(i)) + i for i in items])
    return _HEADER(1, 1 if None in items else 0, _TEXT, len(items), 1) + body


def _text(item: bytes | None) -> bytes:
    return _NULL if item is None else _INT4(len(item)) + item


def bigints(items: Sequence[int]) -> bytes:
    """Pack int8[]."""
    return _HEADER(1, 0, _BIGINT, len(items), 1) + b"".join([_ITEM8(8, i) for i in items])


def instants(items: Sequence[int | None]) -> bytes:
    """Pack timestamptz[] of microseconds since 2000-01-01 UTC."""
    body = b"".join([_NULL if i is None else _ITEM8(8, i) for i in items])
    return _HEADER(1, 1 if None in items else 0, _TIMESTAMPTZ, len(items), 1) + body
