"""ordinaut step …, and the steps of runs: run steps, run replay."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import answer, json_value, state, table
from ordinaut.cli.runview import first_line, lasted, said, tries
from ordinaut.cli.task import Note, details
from ordinaut.errors import NotFound

app = typer.Typer(no_args_is_help=True, help="Steps of runs: look at one, act in its place.")

Id = Annotated[
    str, typer.Argument(metavar="ID", help="Of the step, or a unique tail of it; or of its run.")
]
Name = Annotated[
    str | None, typer.Argument(metavar="[STEP]", help="The step's name, if ID is that of a run.")
]
RunId = Annotated[str, typer.Argument(metavar="ID", help="an id, or any unique tail of it")]


def named(id: str, name: str | None) -> UUID:
    """The step that is meant, by its id, or by a run and its name."""
    conn = state.connect()
    if name is None:
        return calls.find_step(conn, id)
    run_id = calls.find_run(conn, id)
    found = [s for s in calls.list_steps(conn, run_id) if s.name == name]
    if not found:
        raise NotFound(f"run {run_id} has no step {name!r}")
    if found[0].step_id is None:
        raise NotFound(f"run {run_id} has not started: its steps cannot be acted on yet")
    return found[0].step_id


@app.command()
def show(id: Id, name: Name = None) -> None:
    """Show everything about a step: its state, its output or error, and every state before."""
    conn = state.connect()
    step_id = named(id, name)
    [ready] = calls.get_step_readiness_status(conn, step_id)
    [step] = [s for s in calls.list_steps(conn, ready.run_id) if s.step_id == step_id]
    history = calls.step_history(conn, step_id)
    if state.json:
        answer(base.plain(step) | base.plain(ready) | {"history": base.plain(history)})
        return
    fields = {field: getattr(step, field) for field in step.__slots__ if field != "level"}
    fields |= {"needs": ", ".join(step.needs) or None, "attempts": step.attempts or None}
    fields |= {f: str(v) for f, v in fields.items() if f.endswith("_id") and v}
    fields["is_blocked"] = True if ready.is_blocked else None
    details({f: v for f, v in fields.items() if v not in (None, 0)})
    print()
    show_history(history)


def show_history(history: list[calls.StepEvent]) -> None:
    columns = [
        ("at", "at"), ("to_state", "state"), ("attempt", "attempt"), ("worker_id", "worker"),
        ("actor", "by"), ("detail", "detail"),
    ]  # fmt: skip
    if state.json:
        table(history, columns, "")
        return
    rows = [
        {
            "at": e.at, "to_state": e.to_state, "attempt": e.attempt or None,
            "worker_id": e.worker_id, "actor": e.actor, "detail": _detail(e),
        }
        for e in history
    ]  # fmt: skip
    table(rows, columns, "no history", style="to_state")


def _detail(event: calls.StepEvent) -> str | None:
    detail = event.detail if isinstance(event.detail, dict) else {}
    if "message" in detail:
        return first_line(detail["message"])
    rest = {k: v for k, v in detail.items() if k not in ("started_at", "from") and v is not None}
    return base.show(rest) if rest else None


def steps(
    id: RunId,
    state_: Annotated[
        str | None, typer.Option("--state", help="Only steps in this state: error, ready, …")
    ] = None,
) -> None:
    """List the steps of a run, items of maps and rollbacks too."""
    conn = state.connect()
    found = calls.list_steps(conn, calls.find_run(conn, id))
    shown = [s for s in found if state_ in (None, s.state)]
    if state.json:
        table(shown, [], "")
        return
    rows = [
        {
            "step_id": s.step_id, "name": s.name, "tool": s.tool, "needs": ", ".join(s.needs),
            "state": s.state, "tries": tries(s) or None,
            "took": lasted(s.started_at, s.finished_at) or None, "said": said(s, found) or None,
        }
        for s in shown
    ]  # fmt: skip
    columns = [
        ("step_id", "id"), ("name", "step"), ("tool", "uses"), ("needs", "needs"),
        ("state", "state"), ("tries", "tries"), ("took", "took"), ("said", "result"),
    ]  # fmt: skip
    table(rows, columns, "no steps: a run of one tool, or none in this state")


def replay(
    id: RunId,
    from_: Annotated[str, typer.Option("--from", help="The step to begin with.", metavar="STEP")],
    note: Note = None,
) -> None:
    """Run a run that has ended again from a step, as a new run; what was done before it stays."""
    conn = state.connect()
    run_id = calls.find_run(conn, id)
    new = calls.replay_run(conn, run_id, from_, note)
    answer({"run_id": run_id, "replayed_as": new}, f"{run_id} runs again from {from_} as {new}")


@app.command()
def retry(id: Id, name: Name = None, note: Note = None) -> None:
    """Try a failed step anew, at once; its run goes on if it had failed."""
    step_id = named(id, name)
    _did(step_id, calls.reset_step(state.connect(), step_id, note))


app.command("reset", help="The same as retry.", hidden=True)(retry)


@app.command()
def skip(id: Id, name: Name = None, note: Note = None) -> None:
    """Skip a step: what needs it goes on without its output."""
    step_id = named(id, name)
    _did(step_id, calls.skip_step(state.connect(), step_id, note))


@app.command()
def resolve(id: Id, name: Name = None, note: Note = None) -> None:
    """Declare a step resolved by other means: what needs it goes on."""
    step_id = named(id, name)
    _did(step_id, calls.resolve_step(state.connect(), step_id, note))


@app.command()
def complete(
    id: Id,
    name: Name = None,
    output: Annotated[
        str | None, typer.Option(help="What its tool should have given: JSON, @file or -.")
    ] = None,
    note: Note = None,
) -> None:
    """Complete a step by hand, with an output for what needs it."""
    given = json_value(output, "--output")
    step_id = named(id, name)
    _did(step_id, calls.complete_step(state.connect(), step_id, given, note))


def _did(step_id: UUID, word: str) -> None:
    answer({"step_id": step_id, "state": word}, f"step {base.tail(step_id)} is {word}")


def commands(app: typer.Typer) -> None:
    app.command()(steps)
    app.command()(replay)
