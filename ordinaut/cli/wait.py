"""ordinaut emit, ordinaut approval …: what steps wait for."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import answer, json_value, state, table
from ordinaut.cli.task import Note
from ordinaut.errors import NotFound

approval = typer.Typer(no_args_is_help=True, help="What steps ask people: list, answer, withdraw.")

Id = Annotated[
    str, typer.Argument(metavar="ID", help="Of the approval or its step, or a unique tail of it.")
]
Step = Annotated[
    str | None, typer.Option("--step", help="Then ID is that of a run, and this its step.")
]


def commands(app: typer.Typer) -> None:
    app.command()(emit)


def emit(
    topic: Annotated[str, typer.Argument(help="As in order.paid.")],
    payload: Annotated[
        str | None, typer.Argument(help="JSON, @file, or - for the standard input.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Whom it concerns.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Do nothing if an event had it within a day.")
    ] = None,
) -> None:
    """Say that something happened: steps that wait for it go on, tasks that name it start."""
    done = calls.emit_event(
        state.connect(), topic, json_value(payload, "PAYLOAD"), key=key,
        idempotency_key=idempotency_key,
    )  # fmt: skip
    tail = base.tail(done.event_id)
    if done.outcome == "existing":
        answer(done, f"event {tail} has this key: nothing was emitted")
        return
    later = len(done.task_ids) - len(done.run_ids)
    answer(
        done,
        f"event {tail}: {done.waiters} waiting step(s) completed, {len(done.run_ids)} run(s)"
        " started" + (f", {later} task(s) held up" if later else ""),
    )


@approval.command("list")
def list_(
    state_: Annotated[
        str, typer.Option("--state", help="open, answered, cancelled, expired, void, any.")
    ] = "open",
    run_id: Annotated[UUID | None, typer.Option("--run", help="Only of this run.")] = None,
) -> None:
    """List what people are asked, oldest first."""
    columns = [
        ("approval_id", "id"), ("task", "task"), ("step", "step"), ("state", "state"),
        ("prompt", "asked"), ("data", "about"), ("responders", "whom"), ("expires_at", "until"),
        ("response", "response"), ("decided_by", "by"), ("note", "note"),
    ]  # fmt: skip
    if state_ == "open":
        columns = columns[:8]
    found = calls.list_approvals(state.connect(), state_, run_id=run_id)
    table(found, columns, "nobody is asked anything")


@approval.command()
def respond(
    id: Id,
    response: Annotated[
        str, typer.Argument(help="JSON, @file, or - for the standard input: true, false, {…}.")
    ],
    step: Step = None,
    note: Note = None,
) -> None:
    """Answer what a step asks: it completes with the response. The first answer stands."""
    named = _one(id, step)
    calls.respond(state.connect(), named, json_value(response, "RESPONSE"), note)
    answer({"approval_id": named}, f"approval {base.tail(named)} is answered")


@approval.command()
def cancel(id: Id, step: Step = None, note: Note = None) -> None:
    """Withdraw what a step asks: the step fails."""
    named = _one(id, step)
    calls.cancel_approval(state.connect(), named, note)
    answer({"approval_id": named}, f"approval {base.tail(named)} is cancelled")


def _one(tail: str, step: str | None) -> UUID:
    """The approval that is meant: of a step that was asked again, the last."""
    found = calls.find_approval(state.connect(), tail, step)
    whole = len(tail.replace("-", "")) == 32
    if not found or (len(found) > 1 and not (whole or step)):
        raise NotFound(
            f"there is no one approval {tail!r}" + (f" of step {step!r}" if step else "")
        )
    return found[0]
