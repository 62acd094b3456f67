"""ordinaut task plan: what task apply would do, before it does it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import answer, state
from ordinaut.cli.define import changed_steps
from ordinaut.cli.task import expanded, schedule, what
from ordinaut.foresight import Planned
from ordinaut.foresight import plan as foresee
from ordinaut.manifest import read_all
from ordinaut.recurrence.zone import zone

_SHOWN = 5
_STYLES = {"created": "green", "updated": "cyan", "affected": "yellow"}


def commands(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    files: Annotated[list[Path], typer.Argument(help="YAML or JSON manifests, or directories.")],
    days: Annotated[
        int, typer.Option(min=1, max=366, help="Compare the firings of so many days.")
    ] = 7,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if there are changes.")] = False,
) -> None:
    """Say what apply would change: fields, and the times at which tasks fire. Nothing is changed.

    It asks the database, as apply --dry-run does: all is done and taken back. A task that no file
    names is left alone by apply, and so by its plan. Exit 0, but with --check 1 if there are
    changes.
    """
    conn = state.connect()
    definitions = list(read_all(expanded(files)))
    found = foresee(conn, definitions, calls.server(conn).now, timedelta(days=days))
    changes = [one for one in found if one.action != "unchanged"]
    if state.json:
        answer({"changes": len(changes), "items": [_plain(one) for one in found]})
    else:
        for one in changes:
            _tell(one)
        said = Counter(one.action for one in found)
        counts = ", ".join(f"{n} {action}" for action, n in said.items())
        base.console().print(f"{counts or 'the files define nothing'}; nothing was changed")
    if check and changes:
        raise typer.Exit(1)


def _plain(one: Planned) -> dict[str, Any]:
    shown = ("what", "name", "action", "timezone", "until")
    return {name: base.plain(getattr(one, name)) for name in shown} | {
        "fields": {name: {"old": base.plain(old), "new": base.plain(new)}
                   for name, (old, new) in one.fields.items()},
        "appear": {"count": len(one.appear), "first": base.plain(one.appear[:100])},
        "disappear": {"count": len(one.disappear), "first": base.plain(one.disappear[:100])},
    }  # fmt: skip


def _tell(one: Planned) -> None:
    out = base.console()
    out.print(f"{one.what} {one.name} {one.action}", style=_STYLES.get(one.action, ""))
    for name, (old, new) in one.fields.items():
        if name == "pipeline" and old and new:
            for line in changed_steps(old, new):
                out.print(base.clean(f"  {line}"), soft_wrap=True)
            continue
        out.print(base.clean(f"  {name}: {base.show(old)} -> {base.show(new)}"), soft_wrap=True)
    if one.task is not None and one.action == "created":
        out.print(base.clean(f"  {what(one.task)}, {schedule(one.task)}"), soft_wrap=True)
    for sign, style, instants in (("-", "red", one.disappear), ("+", "green", one.appear)):
        for at in instants[:_SHOWN]:
            wall = zone(one.timezone).wall(at)
            out.print(f"  {sign} {wall:%a %Y-%m-%d %H:%M:%S} {one.timezone}", style=style)
        if len(instants) > _SHOWN:
            out.print(f"  {sign} … {len(instants) - _SHOWN} more", style=style)
    if one.until is not None and (one.appear or one.disappear):
        out.print(f"  of the firings up to {base.when(one.until)}")
