"""ordinaut forecast: what the next hour will look like."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ordinaut import calls, whatif
from ordinaut.apply import all_tasks
from ordinaut.cli import base
from ordinaut.cli.base import answer, state
from ordinaut.forecast import Forecast
from ordinaut.forecast import forecast as foretell
from ordinaut.recurrence import InvalidSchedule
from ordinaut.recurrence.interval import read_span

_WIDTH = 40
_TOP = 3


def commands(app: typer.Typer) -> None:
    app.command()(forecast)


def forecast(
    begin: Annotated[
        str | None, typer.Option("--from", help="Local to this host, or with an offset. Now.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Up to here. An hour later.")] = None,
    bucket: Annotated[str, typer.Option(help="The width of a bar.")] = "5 min",
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this one.")
    ] = None,
) -> None:
    """Draw how many occurrences of all active tasks come when, and of which."""
    conn = state.connect()
    now = calls.server(conn).now.replace(second=0, microsecond=0)
    low = _moment(begin, "--from") if begin else now
    high = _moment(end, "--to") if end else low + timedelta(hours=1)
    tasks = [t for t in all_tasks(conn, namespace, "active") if t.schedule_kind != "manual"]
    try:
        named = whatif.live_calendars(conn, namespace)
        found = foretell(tasks, named, low, high, read_span(bucket))
    except (InvalidSchedule, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from None
    if state.json:
        answer(
            {
                "from": low, "to": high, "bucket": read_span(bucket), "count": found.count,
                "tasks": found.tasks, "busiest": found.busiest.at if found.count else None,
                "untold": found.untold,
                "buckets": [
                    {
                        "at": b.at, "count": b.count, "tasks": len(b.tasks),
                        "top": [{"task": name, "count": n} for name, n in b.top(_TOP)],
                    }
                    for b in found.buckets
                ],
            }
        )  # fmt: skip
        return
    _draw(found)


def _moment(text: str, option: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option}: {text!r} is no time; write 2027-03-28T02:30, or with an offset"
        ) from None


def _draw(found: Forecast) -> None:
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("from", no_wrap=True)
    out.add_column("count", justify="right", no_wrap=True)
    out.add_column("", no_wrap=True)
    out.add_column("most", overflow="fold")
    most = found.busiest.count
    for b in found.buckets:
        is_busiest = b is found.busiest and most > 0
        length = b.count / most * _WIDTH if most else 0
        bar = "█" * int(length) + ("▌" if length % 1 >= 0.5 or 0 < length < 1 else "")
        names = ", ".join(f"{name} {n}" for name, n in b.top(_TOP))
        if len(b.tasks) > _TOP:
            names += f" … {len(b.tasks) - _TOP} more tasks"
        out.add_row(
            base.when(b.at), str(b.count),
            Text(bar + (" ◀ busiest" if is_busiest else ""), "bold red" if is_busiest else "cyan"),
            Text(base.clean(names)),
        )  # fmt: skip
    base.console().print(out)
    base.console().print(f"{found.count} occurrences of {found.tasks} active tasks")
    if found.untold:
        shown = ", ".join(found.untold[:5]) + (" …" if len(found.untold) > 5 else "")
        told = f"of {len(found.untold)} at most the next is known: {shown}"
        base.console().print(base.clean(told), soft_wrap=True)
