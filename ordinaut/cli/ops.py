"""ordinaut queue …, why, diagnose, doctor, install, bench."""

from __future__ import annotations

from typing import Annotated

import typer

from ordinaut import calls, db
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table
from ordinaut.cli.step import Name, named
from ordinaut.cli.task import Note

queue = typer.Typer(no_args_is_help=True, help="Queues: depth, pause, limits.")
QueueName = Annotated[str, typer.Argument(metavar="QUEUE")]


@queue.command("list")
def list_queues() -> None:
    """List queues with what waits in them."""
    rows = calls.queue_depth(state.connect())
    columns = [(name, name.replace("_", " ")) for name in rows[0]] if rows else []
    table(rows, columns, "no queues yet: the first enqueue makes one")


@queue.command()
def pause(name: QueueName, note: Note = None) -> None:
    """Let nobody lease from a queue."""
    calls.pause_queue(state.connect(), name, note)
    answer({"queue": name, "paused": True}, f"queue {name} is paused")


@queue.command()
def resume(name: QueueName, note: Note = None) -> None:
    """Let a paused queue be leased from again."""
    calls.resume_queue(state.connect(), name, note)
    answer({"queue": name, "paused": False}, f"queue {name} is open")


@queue.command("set")
def set_(
    name: QueueName,
    max_running: Annotated[int | None, typer.Option(help="At most so many at a time.")] = None,
    max_pending: Annotated[int | None, typer.Option(help="Refuse more waiting than this.")] = None,
    ageing: Annotated[
        str | None, typer.Option(help="Work that waited so long rises by one priority.")
    ] = None,
) -> None:
    """Set the limits of a queue."""
    if max_running is None and max_pending is None and ageing is None:
        raise typer.BadParameter("give at least one of --max-running, --max-pending, --ageing")
    calls.set_queue(
        state.connect(), name, max_running=max_running, max_pending=max_pending, ageing=ageing
    )
    limits = {"max_running": max_running, "max_pending": max_pending, "ageing": ageing}
    said = ", ".join(f"{k} {v}" for k, v in limits.items() if v is not None)
    answer({"queue": name, **limits}, f"queue {name}: {said}")


def why(
    id: Annotated[str, typer.Argument(metavar="ID", help="a task, run or step: name or id")],
    name: Name = None,
) -> None:
    """Say why something has not run: every reason, or `ready`."""
    reasons = calls.why(state.connect(), id if name is None else str(named(id, name)))
    columns = [
        ("reason", "reason"), ("detail", "detail"), ("since", "since"), ("until", "until"),
        ("subject", "subject"),
    ]  # fmt: skip
    table(reasons, columns, "no reason found", style="reason")


def diagnose(
    patience: Annotated[
        str | None, typer.Option(help="Leave out what lasts for less, as in '5 s'. Default: 60 s.")
    ] = None,
) -> None:
    """Say what is wrong in the database, and who did it. Exit 1 if something is critical."""
    from ordinaut.cli.findings import of_problem, show

    problems = calls.diagnose(state.connect(), patience)
    if state.json or not problems:
        answer(problems, "nothing is wrong")
    else:
        show(of_problem(problem) for problem in problems)
    raise typer.Exit(1 if any(problem.severity == "critical" for problem in problems) else 0)


def install() -> None:
    """Install Ordinaut in the database, or upgrade it. Idempotent."""
    from ordinaut import schema

    settings = state.settings()
    with db.connect(
        state.dsn(), name="ordinaut-install", pooled=settings.pooled, statement_timeout=None
    ) as conn:
        ran = schema.install(conn)
    names = [f"{m.version:04}_{m.name}" for m in ran]
    said = f"{len(names)} migration(s): {', '.join(names)}" if names else "tables were up to date"
    answer({"migrations": names}, f"installed in {base.state.where()}; {said}; functions reloaded")


def doctor() -> None:
    """Check settings, database, versions, rights and workers. Exit 1 if something is wrong."""
    from ordinaut.cli.doctor import examine

    healthy = examine(state)
    raise typer.Exit(0 if healthy else 1)


def bench(
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if a ratio is missed.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs, rougher numbers.")] = False,
) -> None:
    """Measure this machine: Ordinaut beside a bare loop, on a throwaway database."""
    from importlib import import_module

    flags = [
        flag
        for flag, given in (("--check", check), ("--json", state.json), ("--quick", quick))
        if given
    ]
    raise typer.Exit(int(import_module("ordinaut.bench").main(flags) or 0))


def commands(app: typer.Typer) -> None:
    for command in (install, why, diagnose, doctor, bench):
        app.command()(command)
