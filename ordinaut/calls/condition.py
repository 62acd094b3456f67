"""Conditions: which are to be asked, the asking, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg

from ordinaut.calls.base import Conn, rows, scalar
from ordinaut.errors import sentence

_BOOL = 16  # pg_type.oid
_DEFECTS = ("0A", "25", "3F", "42")  # of a query itself; what data or load does may pass


@dataclass(frozen=True, slots=True)
class Unpolled:
    """A condition to be asked; `polled_for` names the poll."""

    task_id: UUID
    revision: int
    query: str
    polled_for: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a condition was, or why that is not known.

    Attributes:
        is_defect: the query itself is wrong, not the moment.
    """

    is_true: bool = False
    error: str | None = None
    is_defect: bool = False


def unpolled_conditions(conn: Conn, limit: int | None = None) -> list[Unpolled]:
    """Return the conditions whose time to be asked has come.

    Source: sql/condition.sql, ordinaut.unpolled_conditions
    """
    return rows(conn, Unpolled, "unpolled_conditions", limit=limit)


def report_condition(
    conn: Conn,
    task_id: UUID,
    revision: int,
    polled_for: datetime,
    is_true: bool,
    error: str | None = None,
    is_defect: bool = False,
) -> bool:
    """Report what a condition was, or why that is not known.

    Returns:
        False: the poll was answered, or is void, and nothing was stored.

    Source: sql/condition.sql, ordinaut.report_condition
    """
    return bool(
        scalar(
            conn, "report_condition", task_id=task_id, revision=revision, polled_for=polled_for,
            is_true=is_true, error=error, is_defect=is_defect,
        )
    )  # fmt: skip


def ask_condition(
    conn: Conn, query: str, *, role: str | None = None, timeout: timedelta = timedelta(seconds=5)
) -> Answer:
    """Run a condition's query, read-only, and undo whatever it did to the session.

    A cursor, because its grammar takes one query and nothing else, no second statement passes
    the extended protocol, and of a million rows two are fetched.

    Args:
        conn: autocommit, and in no transaction.
        role: None: the session's own.  It bounds who means well: a query may reset it.

    Raises:
        psycopg.Error: not the query's fault: no such role, or the connection is gone.
    """
    limit = str(max(1, int(timeout.total_seconds() * 1000)))
    with conn.transaction(force_rollback=True):
        conn.execute("set transaction read only")
        conn.execute(
            "select set_config('statement_timeout', %s, true),"
            " set_config('lock_timeout', %s, true), set_config('role',"
            " coalesce(%s, current_setting('role')), true)",
            [limit, limit, role],
        )
        try:
            with conn.cursor(name="condition") as cursor:
                cursor.execute(query.encode())
                columns = cursor.description or []
                if len(columns) != 1 or columns[0].type_code != _BOOL:
                    return Answer(error="it must be one column of type boolean", is_defect=True)
                found = cursor.fetchmany(2)
        except psycopg.errors.QueryCanceled:
            return Answer(error=f"it ran for {timeout.total_seconds():g} s, or was cancelled")
        except psycopg.Error as exc:
            if exc.sqlstate is None or conn.closed:
                raise
            return Answer(error=sentence(exc), is_defect=exc.sqlstate.startswith(_DEFECTS))
    if len(found) > 1:
        return Answer(error="it has more than one row", is_defect=True)
    return Answer(bool(found and found[0][0]))
