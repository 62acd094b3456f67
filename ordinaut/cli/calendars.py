"""ordinaut calendar …: named times at which tasks do not fire."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table
from ordinaut.cli.task import details
from ordinaut.recurrence import Calendar, InvalidSchedule

app = typer.Typer(
    no_args_is_help=True,
    help="Calendars: named times at which the tasks that exclude them do not fire.",
)

Name = Annotated[str, typer.Argument(help="name or namespace/name")]


@app.command("set")
def set_(
    name: Name,
    data: Annotated[
        str | None, typer.Argument(help="JSON, @file or -, instead of the options.")
    ] = None,
    date: Annotated[
        list[str] | None, typer.Option(metavar="DAY", help="A whole day: 2026-12-25.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="FROM/TO", help="2026-12-24T14:00/2027-01-02"),
    ] = None,
    weekly: Annotated[
        list[str] | None,
        typer.Option(metavar="DAYS[ FROM-TO]", help="SAT,SUN or 'MON-FRI 22:00-06:00'."),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of its wall times; an IANA name.")] = "UTC",
    note: Annotated[str | None, typer.Option("--note", "-m", help="What it is for.")] = None,
) -> None:
    """Make a calendar, or replace what it holds: the tasks that exclude it are planned anew."""
    if (data is None) == (date is None and range_ is None and weekly is None):
        raise typer.BadParameter("give DATA, or --date, --range and --weekly")
    held = base.json_value(data, "DATA")
    if data is None:
        held = {
            "dates": date or [],
            "ranges": [text.split("/") for text in range_ or ()],
            "weekly": [_window(text) for text in weekly or ()],
        }
    if not isinstance(held, dict):
        raise typer.BadParameter("DATA is no JSON object")
    namespace, short = _split(name)
    try:
        Calendar.read({**held, "name": short}, timezone)
    except InvalidSchedule as exc:
        raise typer.BadParameter(str(exc)) from None
    action = calls.set_calendar(
        state.connect(), short, held, namespace=namespace, timezone=timezone, note=note
    )
    answer({"calendar": f"{namespace}/{short}", "action": action}, f"{name} is {action}")


def _window(text: str) -> dict[str, str]:
    days, _, times = text.strip().partition(" ")
    if not times:
        return {"days": days}
    start, dash, end = times.strip().partition("-")
    if not dash:
        raise typer.BadParameter(f"--weekly: {text!r} is not written as 'MON-FRI 22:00-06:00'")
    return {"days": days, "from": start.strip(), "to": end.strip()}


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this one.")
    ] = None,
) -> None:
    """List calendars."""
    found = calls.list_calendars(state.connect(), namespace)
    if state.json:
        table(found, [], "")
        return
    rows = [
        {
            "calendar": f"{c.namespace}/{c.name}", "timezone": c.timezone, "holds": _holds(c.data),
            "tasks": c.tasks, "updated_at": c.updated_at, "note": c.note,
        }
        for c in found
    ]  # fmt: skip
    columns = [
        ("calendar", "calendar"), ("timezone", "time zone"), ("holds", "holds"),
        ("tasks", "tasks"), ("updated_at", "updated"), ("note", "note"),
    ]  # fmt: skip
    table(rows, columns, "no calendars; make one: ordinaut calendar set holidays --date 2026-12-25")


def _holds(data: dict[str, Any]) -> str:
    return ", ".join(f"{len(data[k])} {k}" for k in ("dates", "ranges", "weekly") if data.get(k))


@app.command()
def show(name: Name) -> None:
    """Show what a calendar holds, and how many tasks exclude it."""
    namespace, short = _split(name)
    conn = state.connect()
    found = calls.get_calendar(conn, short, namespace)
    if state.json:
        answer(found)
        return
    days = found.data
    details(
        {
            "calendar": f"{found.namespace}/{found.name}", "time zone": found.timezone,
            "dates": " ".join(days.get("dates", ())) or None,
            "ranges": "; ".join(f"{a} to {b}" for a, b in days.get("ranges", ())) or None,
            "weekly": "; ".join(_said(w) for w in days.get("weekly", ())) or None,
            "note": found.note, "tasks": found.tasks, "updated by": found.updated_by,
        }
    )  # fmt: skip


def _said(window: dict[str, str]) -> str:
    days = window.get("days", "*")
    times = [window.get(key, "00:00") for key in ("from", "to")]
    return days if times == ["00:00", "00:00"] else f"{days} {times[0]}-{times[1]}"


@app.command()
def drop(name: Name) -> None:
    """Drop a calendar that no task excludes."""
    namespace, short = _split(name)
    calls.drop_calendar(state.connect(), short, namespace)
    answer({"calendar": f"{namespace}/{short}", "action": "dropped"}, f"{name} is dropped")


def _split(name: str) -> tuple[str, str]:
    namespace, slash, short = name.partition("/")
    return (namespace, short) if slash else ("default", name)
