"""
Apply manifests: make the live calendars and tasks say what the files say, all or nothing.

One transaction, calendars first: tasks name them.  Each is created, or its changed fields are
updated, or it is left untouched, and then a task's revision and its schedule's plan stay as they
are: applying twice is applying once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import errors

from ordinaut import calls, db, pipeline, planner
from ordinaut.calls import Task
from ordinaut.errors import OrdinautError, sentence
from ordinaut.manifest import Definition
from ordinaut.recurrence import Calendar, InvalidSchedule
from ordinaut.recurrence.interval import read_interval

_PAGE = 500
_ONLY_AT_BIRTH = {"allow_past"}
_INTERVALS = {"timeout", "grace", "catchup_window", "jitter"}
INSTANTS = {"start_at", "end_at"}
_CALENDAR = {
    "schedule_kind", "schedule_expr", "timezone", "start_at", "dst_gap", "dst_overlap"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What apply did to one task or calendar: action is created, updated or unchanged.

    Attributes:
        task: as it is now; None: this is a calendar.
        calendar: as it is now; None: this is a task.
        was: as it was before; None: it was not.
    """

    name: str
    action: str
    fields: tuple[str, ...]
    task: Task | None = None
    calendar: calls.Calendar | None = None
    was: Task | calls.Calendar | None = None


def apply(
    conn: db.Connection, definitions: Iterable[Definition], *, dry_run: bool = False
) -> list[Change]:
    """Bring what is live in line with the definitions and return what that took.

    Args:
        dry_run: do all of it and roll back.

    Raises:
        ManifestError: the database refused a definition; nothing was changed.
    """
    found = list(definitions)
    changes: list[Change] = []
    with conn.transaction(force_rollback=dry_run):
        calendars = [d for d in found if d.what == "calendar"]
        held = {
            f"{calendar.namespace}/{calendar.name}": calendar
            for namespace in sorted({d.namespace for d in calendars})
            for calendar in calls.list_calendars(conn, namespace)
        }
        for definition in calendars:
            with _explained(definition):
                changes.append(_apply_calendar(conn, definition, held.get(definition.full_name)))
        tasks = [d for d in found if d.what == "task"]
        live = {
            f"{task.namespace}/{task.name}": task
            for namespace in sorted({d.namespace for d in tasks})
            for task in all_tasks(conn, namespace)
        }
        for definition in tasks:
            with _explained(definition):
                changes.append(_apply_one(conn, definition, live.get(definition.full_name)))
    return changes


@contextmanager
def _explained(definition: Definition) -> Iterator[None]:
    """Give what the database complains of the file and the line."""
    try:
        yield
    except (OrdinautError, errors.DataError, errors.ProgramLimitExceeded) as exc:
        message = sentence(exc)
        raise definition.error(
            message, _field(definition, message), exc.diag.message_hint or ""
        ) from exc


def _apply_calendar(conn: db.Connection, wanted: Definition, live: calls.Calendar | None) -> Change:
    stays = {"timezone": live.timezone, "note": live.note} if live else {"timezone": "UTC"}
    arguments = stays | wanted.arguments
    try:
        Calendar.read({**arguments["data"], "name": wanted.name}, arguments["timezone"])
    except InvalidSchedule as exc:
        raise wanted.error(exc.reason) from None
    changed = tuple(f for f, value in arguments.items() if live and getattr(live, f) != value)
    action = calls.set_calendar(conn, wanted.name, namespace=wanted.namespace, **arguments)
    now = calls.get_calendar(conn, wanted.name, wanted.namespace)
    return Change(wanted.full_name, action, tuple(sorted(changed)), calendar=now, was=live)


def _apply_one(conn: db.Connection, wanted: Definition, live: Task | None) -> Change:
    name = wanted.full_name
    arguments = dict(wanted.arguments)
    for field in INSTANTS & arguments.keys():
        zone = arguments.get("timezone") or (live.timezone if live else "UTC")
        arguments[field] = instant(wanted, field, arguments[field], zone)
    _check_calendar(wanted, arguments, live)
    try:
        pipeline.check(arguments.get("pipeline"))
    except pipeline.InvalidPipeline as exc:
        problem = exc.problems[0]
        raise wanted.error(problem, _field(wanted, problem)) from None
    if live is None:
        calls.create_task(conn, wanted.name, namespace=wanted.namespace, **arguments)
        return Change(name, "created", (), calls.get_task(conn, name))
    patch = {
        field: value
        for field, value in arguments.items()
        if field not in _ONLY_AT_BIRTH and not _same(conn, field, getattr(live, field), value, live)
    }
    if not patch:
        return Change(name, "unchanged", (), live, was=live)
    calls.update_task(conn, name, patch)
    return Change(name, "updated", tuple(sorted(patch)), calls.get_task(conn, name), was=live)


def _check_calendar(wanted: Definition, arguments: dict[str, Any], live: Task | None) -> None:
    """Refuse, in its line, what a planner would refuse only after the file was applied."""
    stays = {f: getattr(live, f) for f in _CALENDAR - arguments.keys()} if live else {}
    try:
        planner.check(stays | arguments)
    except InvalidSchedule as exc:
        field = exc.field if exc.field in wanted.lines else "schedule_expr"
        raise wanted.error(str(exc), field) from None


def _field(definition: Definition, message: str) -> str | None:
    """The field that the database complains of: the one it names, or whose value it quotes."""
    if step := pipeline.position(definition.arguments.get("pipeline"), message):
        return f"step {step}"
    word = message.partition(" ")[0].removeprefix("data.").rstrip(":")
    if word in definition.lines:
        return word
    for field, value in definition.arguments.items():
        if isinstance(value, str) and f'"{value}"' in message:
            return field
    return None


def _same(conn: db.Connection, field: str, live: Any, wanted: Any, task: Task) -> bool:
    if live == wanted or (field == "exclude" and not live and not wanted):
        return True
    if live is None or wanted is None:
        return False
    if field == "schedule_expr" and task.schedule_kind == "union":
        return bool(json.loads(live) == _json(wanted))
    if field in _INTERVALS:
        return calls.same_interval(conn, live, wanted)
    if field == "schedule_expr" and task.schedule_kind == "interval":
        try:
            return read_interval(live) == read_interval(wanted)
        except InvalidSchedule:  # of another kind, or a duration as only PostgreSQL writes it
            return False
    if field in INSTANTS:
        return bool(live == datetime.fromisoformat(wanted))
    if field == "retry" and isinstance(live, dict):
        return all(
            key in live and (live[key] == value or _alike(conn, key, live[key], value))
            for key, value in wanted.items()
        )
    return False


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _alike(conn: db.Connection, key: str, live: Any, wanted: Any) -> bool:
    return key in ("base", "cap") and calls.same_interval(conn, str(live), str(wanted))


def instant(definition: Definition, field: str, value: str | None, zone: str) -> str | None:
    """An ISO timestamp; one without an offset is local to the task's time zone."""
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC).isoformat()
    except (ValueError, OverflowError, KeyError):
        raise definition.error(
            f"{value!r} is no timestamp",
            field,
            "Write it as in 2026-03-29T02:30 or with an offset.",
        ) from None


def all_tasks(
    conn: db.Connection, namespace: str | None = None, status: str | None = None
) -> list[Task]:
    """Return more tasks than one call of list_tasks should."""
    found: list[Task] = []
    while page := calls.list_tasks(
        conn, namespace=namespace, status=status, limit=_PAGE, offset=len(found)
    ):
        found += page
        if len(page) < _PAGE:
            break
    return found
