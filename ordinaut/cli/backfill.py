"""ordinaut task backfill …: what a calendar held in the past, run now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import psycopg
import typer

from ordinaut import calls
from ordinaut.backfill import Backfills
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table, when
from ordinaut.errors import NotFound, WrongState

Task = Annotated[str, typer.Argument(help="name, namespace/name, or the tail of an id")]
Some = Annotated[str | None, typer.Argument(help="Only those of this task.")]
Note = Annotated[str | None, typer.Option("--note", "-m", help="Why; people will see it.")]


def commands(app: typer.Typer) -> None:
    app.command()(backfill)
    app.command()(backfills)
    app.command("cancel-backfill")(cancel)


def backfill(
    task: Task,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME", help="In the range; local, or with an offset.")
    ],
    end: Annotated[
        str, typer.Option("--to", metavar="TIME", help="Not in the range; at most now.")
    ],
    limit: Annotated[
        int, typer.Option(min=1, max=10000, help="More occurrences than that, and none runs.")
    ] = 1000,
    rate: Annotated[int | None, typer.Option(min=1, help="Runs a minute; else all now.")] = None,
    note: Note = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but do not do it.")] = False,
) -> None:
    """Run a task for each time of the past at which its calendar had it run and it did not.

    The task runs as it is now, calendar, payload and queue, not as it was then.
    """
    conn = state.connect()
    low, high = _instant(start, "--from"), _instant(end, "--to")
    with conn.transaction(force_rollback=dry_run):
        backfill_id = calls.backfill(conn, task, low, high, limit=limit, rate=rate, note=note)
        if dry_run:
            _expand(conn, backfill_id)
        [found] = [b for b in calls.list_backfills(conn, task) if b.backfill_id == backfill_id]
    if dry_run and found.state == "failed":
        raise WrongState(found.reason or "the backfill would fail")
    answer(found, _said(found, dry_run))


def _expand(conn: psycopg.Connection, backfill_id: UUID) -> None:
    """Do what a scheduler does, in our transaction."""
    backfills = Backfills()
    while backfills.step(conn, backfill_id):
        pass


def _instant(text: str, option: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option}: {text!r} is no time; write 2026-11-20T14:00 or 2026-11-20"
        ) from None


def _said(found: calls.Backfill, dry_run: bool) -> str:
    if found.state == "pending":
        return (
            f"backfill {base.tail(found.backfill_id)} of {found.task} waits for a scheduler; "
            "ordinaut task backfills tells what became of it"
        )
    runs = "run" if found.fired == 1 else "runs"
    span = ""
    if found.first_at and found.last_at:
        span = f", for {when(found.first_at)} to {when(found.last_at)}"
    alone = f"; {found.left_alone} have run already" if found.left_alone else ""
    text = f"{found.fired} {runs} of {found.task}{span}{alone}"
    if dry_run:
        return f"{text}\ndry run: nothing was started"
    return f"backfill {base.tail(found.backfill_id)}: {text}"


def backfills(task: Some = None) -> None:
    """List backfills, the latest first, and what became of them."""
    columns = [
        ("backfill_id", "id"), ("task", "task"), ("state", "state"), ("from_at", "from"),
        ("to_at", "to"), ("fired", "fired"), ("left_alone", "had run"), ("rate", "a minute"),
        ("created_at", "asked for"), ("reason", "reason"), ("note", "note"),
    ]  # fmt: skip
    found = calls.list_backfills(state.connect(), task)
    table(found, columns, "no backfills; ask for one: ordinaut task backfill NAME --from --to")


def cancel(
    backfill: Annotated[str, typer.Argument(help="Its id, or the tail of it.")],
    note: Note = None,
) -> None:
    """Cancel a backfill: its runs that have not started do not start."""
    conn = state.connect()
    tail = backfill.lower().replace("-", "")
    ids = [b.backfill_id for b in calls.list_backfills(conn, limit=10000)]
    named = [id for id in ids if len(tail) >= 4 and id.hex.endswith(tail)]
    if len(named) != 1:
        raise NotFound(f"there is no one backfill {backfill!r}")
    n = calls.cancel_backfill(conn, named[0], note)
    answer(
        {"backfill_id": named[0], "cancelled": n},
        f"backfill {base.tail(named[0])} is cancelled, and {n} of its runs",
    )
