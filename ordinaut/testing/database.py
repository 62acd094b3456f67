"""
One test's database: its connections, and the clock that they share.

`ordinaut.now()` of a test database reads the setting test.now (clock.sql).  A setting belongs to
a session, so `travel` tells every session that was opened here, and the database tells it to
those that come later: the code under test opens its own connections and travels along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import namedtuple_row

from ordinaut import db
from ordinaut.client import Ordinaut

# What is due now is done, or something other than time holds it.
_NEXT = """
select least(
  (select min(s.next_run) from ordinaut.task_schedule as s where s.next_run > ordinaut.now()),
  (select min(s.replan_at) from ordinaut.task_schedule as s where s.replan_at > ordinaut.now()),
  (select min(s.look_at) from ordinaut.task_schedule as s where s.look_at > ordinaut.now()),
  (select min(w.run_at) from ordinaut.due_work as w where w.run_at > ordinaut.now()),
  (select min(h.held_until) from ordinaut.hold as h where h.held_until > ordinaut.now()),
  (select min(p.run_at) from ordinaut.parked as p
    where p.reason in ('event', 'approval') and p.payload ? 'deadline'
      and p.run_at > ordinaut.now()),
  (select min(r.started_at + r.timeout) from ordinaut.task_run as r
    where r.pipeline_id is not null and r.finished_at is null and r.error is null
      and r.started_at + r.timeout > ordinaut.now()),
  (select min(l.expires_at) from ordinaut.lease as l where l.expires_at > ordinaut.now())
)
"""


class _HasConninfo(Protocol):
    """A psycopg_pool.ConnectionPool, and whatever else knows its DSN by this name."""

    @property
    def conninfo(self) -> str: ...


class NoClock(Exception):
    """This database tells the real time, and nobody can turn it."""


class Database:
    """A database to test on, as the fixture `ordinaut_db` gives it.

    Attributes:
        dsn: for the code under test.
        frozen_at: what its clock says; None: it tells the real time.
    """

    def __init__(self, dsn: str, conn: db.Connection | None = None) -> None:
        self.dsn = dsn
        self.frozen_at: datetime | None = None
        self._given = conn
        self._main: db.Connection | None = None
        self._opened: list[db.Connection] = []
        self._clients: list[Ordinaut] = []

    @property
    def conn(self) -> db.Connection:
        """The connection of the test itself; it commits each statement."""
        if self._given is not None:
            return self._given
        if self._main is None or self._main.closed:
            self._main = self.connect("ordinaut-test")
        return self._main

    def connect(self, name: str = "ordinaut-test") -> db.Connection:
        """Open one more connection; `close` closes it."""
        conn = db.connect(self.dsn, name=name)
        self._opened = [other for other in self._opened if not other.closed]
        self._opened.append(conn)
        if self.frozen_at is not None:
            self._tell(conn)
        return conn

    def client(self) -> Ordinaut:
        """Return a client; `close` closes it."""
        client = Ordinaut(self.dsn, name="ordinaut-test")
        self._clients.append(client)
        return client

    def rows(self, query: Any, *args: Any) -> list[Any]:
        """Run a query and return its rows as named tuples."""
        return self.conn.cursor(row_factory=namedtuple_row).execute(query, args or None).fetchall()

    def one(self, query: Any, *args: Any) -> Any:
        """Run a query and return the only column of its only row."""
        ((value,),) = self.rows(query, *args)
        return value

    @property
    def now(self) -> datetime:
        """What ordinaut.now() says."""
        at: datetime = self.one("select ordinaut.now()")
        return at.astimezone(UTC)

    def next_event(self) -> datetime | None:
        """Return the next instant at which time alone makes something due; None: never."""
        at: datetime | None = self.one(_NEXT)
        return at

    def travel(self, at: datetime | None) -> None:
        """Set the clock, which then stands still; None: let it tell the real time again.

        Raises:
            NoClock: it was not made for tests.
        """
        self.frozen_at = at
        name = sql.Identifier(self.one("select current_database()"))
        told = "" if at is None else at.isoformat()
        # Not every role may; then only those travel that were opened here.
        with suppress(psycopg.errors.InsufficientPrivilege):
            self.conn.execute(
                sql.SQL("alter database {} set test.now = {}").format(name, sql.Literal(told))
            )
        for conn in [self._given, *self._opened]:
            if conn is not None and not conn.closed:
                self._tell(conn)
        for client in self._clients:
            client.close()  # it connects again, at the new time
        if at is not None and self.now != at:
            raise NoClock(
                "this database has no clock to turn: take the fixture ordinaut_db, or run"
                " ordinaut.testing.postgres.install_clock on it"
            )

    def _tell(self, conn: db.Connection) -> None:
        at = "" if self.frozen_at is None else self.frozen_at.isoformat()
        conn.execute("select set_config('test.now', %s, false)", [at])

    def close(self) -> None:
        """Close what was opened here."""
        for client in self._clients:
            client.close()
        for conn in self._opened:
            conn.close()
        self._clients, self._opened, self._main = [], [], None

    # Of a runner that was given a DSN: there nobody else would.
    __del__ = close


Pool = Database | str | psycopg.Connection[Any] | _HasConninfo


def dsn_of(pool: Pool) -> str:
    """Return the DSN behind a Database, a DSN, a connection or a pool of connections.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(pool, Database):
        return pool.dsn
    if isinstance(pool, str):
        return pool
    if isinstance(pool, psycopg.Connection):
        return make_conninfo(pool.info.dsn, password=pool.info.password or None)
    found: object = getattr(pool, "conninfo", None)
    if isinstance(found, str):
        return found
    raise TypeError(f"not a Database, a DSN, a connection or a pool of them: {pool!r}")


@contextmanager
def opened(pool: Pool) -> Iterator[Database]:
    """Use whatever was given as a Database; close only what this opens."""
    if isinstance(pool, Database):
        yield pool
        return
    given = pool if isinstance(pool, psycopg.Connection) else None
    database = Database(dsn_of(pool), given)
    try:
        yield database
    finally:
        database.close()
