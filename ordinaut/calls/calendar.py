"""Named calendars: times at which the tasks that exclude them do not fire."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ordinaut.calls.base import Conn, jsonb, rows, scalar


@dataclass(frozen=True, slots=True)
class Calendar:
    """One calendar as it stands; `tasks` is how many exclude it."""

    namespace: str
    name: str
    timezone: str
    data: dict[str, Any]
    note: str | None
    updated_at: datetime
    updated_by: str
    tasks: int

    @property
    def named(self) -> dict[str, Any]:
        """The data with name and timezone, as `recurrence.Calendar.read` takes it."""
        return {**self.data, "name": self.name, "timezone": self.timezone}


def set_calendar(
    conn: Conn,
    name: str,
    data: dict[str, Any],
    *,
    namespace: str | None = None,
    timezone: str | None = None,
    note: str | None = None,
) -> str:
    """Make a calendar or replace what it holds, and return created, updated or unchanged.

    The tasks that exclude it are planned anew; their old plans do not fire.

    Args:
        data: dates, ranges and weekly windows, as ordinaut/recurrence/calendars.py has them.
        timezone: of the wall times in `data`; None: UTC.

    Raises:
        psycopg.errors.InvalidParameterValue: the message says which part is wrong.

    Source: sql/calendar.sql, ordinaut.set_calendar
    """
    return str(
        scalar(
            conn, "set_calendar", name=name, data=jsonb(data), namespace=namespace,
            timezone=timezone, note=note,
        )
    )  # fmt: skip


def get_calendar(conn: Conn, name: str, namespace: str | None = None) -> Calendar:
    """Return one calendar.

    Raises:
        NotFound: the namespace has none of this name.

    Source: sql/calendar.sql, ordinaut.get_calendar
    """
    return rows(conn, Calendar, "get_calendar", name=name, namespace=namespace)[0]


def list_calendars(conn: Conn, namespace: str | None = None) -> list[Calendar]:
    """Return calendars, by namespace and name; None: of all namespaces.

    Source: sql/calendar.sql, ordinaut.list_calendars
    """
    return rows(conn, Calendar, "list_calendars", namespace=namespace)


def drop_calendar(conn: Conn, name: str, namespace: str | None = None) -> None:
    """Drop a calendar.

    Raises:
        NotFound: there is none.
        WrongState: tasks exclude it; the message names them.

    Source: sql/calendar.sql, ordinaut.drop_calendar
    """
    scalar(conn, "drop_calendar", name=name, namespace=namespace)
