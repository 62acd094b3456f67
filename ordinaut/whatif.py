"""From a live task to what can be simulated.  Reads, and writes nothing."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from ordinaut import calls, db
from ordinaut.simulation import Subject, subject

Named = dict[tuple[str, str], dict[str, Any]]  # calendars by namespace and name


def of_task(conn: db.Connection, task: calls.Task, begin: datetime, **instead: Any) -> Subject:
    """Return a live task, as if it had been there at `begin`.

    What it has run so far counts towards its max_runs unless `begin` is past.

    Args:
        instead: fields to be simulated with another value.

    Raises:
        InvalidSchedule: nobody knows when it occurs.
    """
    named = live_calendars(conn, task.namespace) if task.exclude else {}
    ran = task.fired_count + task.buffered_count if begin >= calls.server(conn).now else 0
    return subject(
        {field.name: getattr(task, field.name) for field in fields(task)} | instead,
        min(task.created_at, begin),
        calendars=[named[task.namespace, name] for name in task.exclude or ()],
        ran=ran,
        share=calls.jitter_share(conn, task.task_id),
    )


def live_calendars(conn: db.Connection, namespace: str | None = None) -> Named:
    """Return the calendars of a namespace, or of all."""
    return {(c.namespace, c.name): c.named for c in calls.list_calendars(conn, namespace)}
