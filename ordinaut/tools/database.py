"""
The tools' connection: a transaction that ends with the completion of the unit.

    begin          assert_lease: from here on nobody can take the lease back
    set role       the role that the configuration gives tools
    …              what the tool does
    reset role     so that the role needs no right on Ordinaut to complete
    complete_work, commit

The role is a seat belt and not a wall: a statement may `reset role`.  Against hostile statements
give tools.sql a `dsn` of its own, for a login that is a member of ordinaut_worker and little else.

Not thread-safe beyond this: a transaction belongs to one tool, and connections are lent one at a
time.  Async tools block the loop that they share while a statement of theirs runs.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

import ordinaut.errors  # noqa: F401  psycopg raises LeaseLost once it is declared
from ordinaut import calls, db, wire
from ordinaut.tools import steps
from ordinaut.tools.errors import ToolFailed


class Database:
    """Lends connections, one at a time, and keeps one."""

    def __init__(self, config: dict[str, Any], dsn: str | None = None) -> None:
        self._dsn = dsn or config["dsn"]
        self._pooled = bool(config.get("pooled"))
        self.role: str | None = config.get("tool_role")
        self._idle_limit = timedelta(milliseconds=config.get("idle_in_transaction_ms") or 60_000)
        self._idle: list[psycopg.Connection[Any]] = []

    def begin(self, unit: wire.Unit) -> Transaction:
        """Open the transaction of a unit.

        Raises:
            LeaseLost, WorkCancelled: nothing was opened.
        """
        conn = self._idle.pop() if self._idle else None
        if conn is not None:
            try:
                return Transaction(self, conn, unit)
            except psycopg.Error as exc:
                if not db.is_gone(exc):
                    raise
        return Transaction(self, self._connect(), unit)

    def take_back(self, conn: psycopg.Connection[Any]) -> None:
        """Keep a connection for the next tool, as if it were new."""
        if self._idle or db.is_pooled(conn) or conn.closed:
            conn.close()
            return
        try:
            # A tool may have left a role, a setting, a temporary table, an advisory lock.
            conn.execute("discard all")
        except psycopg.Error:
            conn.close()
        else:
            self._idle.append(conn)

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> psycopg.Connection[Any]:
        return db.connect(
            self._dsn,
            name="ordinaut tool",
            pooled=self._pooled,
            statement_timeout=None,
            idle_in_transaction=self._idle_limit,
            prepare_threshold=None,  # what it prepared would be discarded with the rest
        )


class Transaction:
    """One unit's transaction: `commit` or `rollback` ends it, and gives the connection back."""

    def __init__(self, home: Database, conn: psycopg.Connection[Any], unit: wire.Unit) -> None:
        self._home = home
        self._ids = UUID(bytes=unit[wire.LEASE]), UUID(bytes=unit[wire.WORK])
        self._unit = unit
        self.connection = conn
        # While it lasts, psycopg refuses commit() and rollback() by the tool.
        self._block = conn.transaction()
        try:
            self._block.__enter__()
            calls.assert_lease(conn, *self._ids)
            # Sooner than the parent's kill, which the server would not notice.
            self._set("statement_timeout", str(unit[wire.TIMEOUT] * 9 // 10_000))
            self._set("role", home.role or "none")
        except BaseException as exc:
            self.rollback(exc)
            raise

    def commit(self, output: bytes | None) -> None:
        """Complete the unit with `output`, which is JSON, and commit.

        Raises:
            StepValidationError: the output is not what the step promises; nothing is committed.
            LeaseLost: nothing is committed.
            psycopg.OperationalError: the connection broke; whether it is committed, settling the
                unit once more will tell.
        """
        try:
            if self.connection.info.transaction_status == TransactionStatus.IDLE:
                raise ToolFailed("a statement of the tool ended its transaction", "E2002")
            steps.check_output(self._unit, output)
            self._set("role", "none")
            calls.complete_work(
                self.connection, *self._ids, None if output is None else json.loads(output)
            )
        except BaseException as exc:
            self.rollback(exc)
            raise
        try:
            self._block.__exit__(None, None, None)
        finally:
            self._home.take_back(self.connection)

    def rollback(self, exc: BaseException) -> None:
        """Undo it; never raises."""
        try:
            self._block.__exit__(type(exc), exc, exc.__traceback__)
        except Exception:
            self.connection.close()
        self._home.take_back(self.connection)

    def _set(self, name: str, value: str) -> None:
        self.connection.execute("select pg_catalog.set_config(%s, %s, true)", [name, value])
