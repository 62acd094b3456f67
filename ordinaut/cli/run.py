"""ordinaut run …, and enqueue."""

from __future__ import annotations

from typing import Annotated

import typer

from ordinaut import calls
from ordinaut.cli import base, runview, step
from ordinaut.cli.base import answer, state, table
from ordinaut.cli.define import Params, PipelineFile, what_to_run
from ordinaut.cli.task import Note, details, finish

app = typer.Typer(no_args_is_help=True, help="Runs: what was run, and how it went.")

Tail = Annotated[str, typer.Argument(metavar="ID", help="an id, or any unique tail of it")]

COLUMNS = [
    ("run_id", "run"), ("what", "task or tool"), ("state", "state"), ("attempt", "attempt"),
    ("queue", "queue"), ("started_at", "started"), ("finished_at", "finished"), ("said", "result"),
]  # fmt: skip


def _said(run: calls.Run) -> str:
    if isinstance(run.error, dict):
        text = str(run.error.get("message", ""))
    else:
        text = base.show(run.output if run.output is not None else run.reason)
    line = (text.strip().splitlines() or ["-"])[0]
    return line if len(line) <= 60 else line[:59] + "…"


@app.command("list")
def list_(
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only runs of this queue.")] = None,
    state_: Annotated[
        str | None,
        typer.Option("--state", help="pending, running, success, failed, cancelled, timed_out, …"),
    ] = None,
    tool: Annotated[str | None, typer.Option(help="Only runs of this tool.")] = None,
    since: Annotated[str | None, typer.Option(help="Only runs since this ISO timestamp.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """List runs, newest first."""
    runs = calls.list_runs(
        state.connect(), task=task, queue=queue, state=state_, tool=tool, since=since, limit=limit
    )
    if state.json:
        table(runs, [], "")
        return
    rows = [
        {
            "run_id": r.run_id, "what": r.task or r.tool, "state": r.state, "attempt": r.attempt,
            "queue": r.queue, "started_at": r.started_at, "finished_at": r.finished_at,
            "said": _said(r),
        }
        for r in runs
    ]  # fmt: skip
    table(rows, COLUMNS, "no runs")


@app.command()
def show(id: Tail) -> None:
    """Show everything about a run: its steps as a graph, its error in full."""
    conn = state.connect()
    run = calls.get_run(conn, calls.find_run(conn, id))
    steps = calls.list_steps(conn, run.run_id) if run.pipeline_id else []
    tree = calls.run_tree(conn, run.run_id)
    if state.json:
        answer(base.plain(run) | {"steps": base.plain(steps), "tree": base.plain(tree)})
        return
    fields = {name: getattr(run, name) for name in run.__slots__}
    if run.pipeline_id:
        fields = _of_steps(run, steps)
    fields |= {name: str(v) for name, v in fields.items() if name.endswith("_id") and v}
    error = fields.pop("error", None)
    fields.pop("error_message", None)
    details(fields)
    out = base.console()
    if steps:
        out.print()
        runview.print_steps(out, steps)
    said = error.get("step") if isinstance(error, dict) else None
    for failed in [s for s in steps if s.state == "error" and s.name != said][:5]:
        message = failed.error.get("message") if isinstance(failed.error, dict) else failed.error
        out.print(base.clean(f"{failed.name}: {message}"), style="red", soft_wrap=True)
    if error is not None:
        print_error(error)
    runview.print_tree(out, tree, run.run_id)


def _of_steps(run: calls.Run, steps: list[calls.Step]) -> dict[str, object]:
    """What there is to say of a run of steps beside its steps."""
    own = [s for s in steps if s.kind is None]
    done = sum(s.state in ("complete", "skipped", "resolved_manually") for s in own)
    took = runview.lasted(run.started_at, run.finished_at)
    return {
        "run_id": run.run_id, "task": run.task, "state": run.state, "reason": run.reason,
        "done": f"{done} of {len(own)} steps, {run.progress_percentage or 0:g} %",
        "took" if run.finished_at else "runs for": took or None,
        "params": run.payload or None, "queue": run.queue, "key": run.key,
        "enqueued_at": run.enqueued_at, "scheduled_for": run.scheduled_for, "run_at": run.run_at,
        "started_at": run.started_at, "finished_at": run.finished_at, "retry_of": run.retry_of,
        "backfill_id": run.backfill_id, "output": run.output, "error": run.error,
    }  # fmt: skip


def print_error(error: object) -> None:
    """Print an error as it was stored, its traceback in lines."""
    out = base.console()
    if not isinstance(error, dict):
        out.print(base.clean(base.show(error)), style="red")
        return
    kind = f"{error['type']}: " if error.get("type") else ""
    out.print(base.clean(f"error  {kind}{error.get('message', '')}"), style="red", soft_wrap=True)
    if error.get("traceback"):
        out.print(base.clean(str(error["traceback"]).rstrip()), style="dim", soft_wrap=True)
    rest = {
        k: v
        for k, v in error.items()
        if k not in ("message", "type", "traceback") and v is not None
    }
    if rest:
        out.print(base.clean(base.show(rest)), style="dim", soft_wrap=True)


_SAID = {
    "message", "type", "run_at", "traceback", "retryable", "category", "code", "retry_after",
    "started_at",
}  # fmt: skip


@app.command()
def log(
    id: Tail,
    step_name: Annotated[
        str | None, typer.Option("--step", help="Only of this step: every state it was in.")
    ] = None,
) -> None:
    """Show a run's history: every transition, and what it wrote into the journal."""
    conn = state.connect()
    if step_name is not None:
        step.show_history(calls.step_history(conn, step.named(id, step_name)))
        return
    events = calls.run_history(conn, calls.find_run(conn, id))
    columns = [
        ("at", "at"), ("event", "event"), ("state", "state"), ("attempt", "attempt"),
        ("worker_id", "worker"), ("actor", "actor"), ("detail", "detail"),
    ]  # fmt: skip
    if any(event.step for event in events):
        columns.insert(1, ("step", "step"))
    if state.json:
        table(events, columns, "")
        return
    rows = [base.plain(event) | {"at": event.at, "detail": _summed(event)} for event in events]
    for row in rows:
        row["worker_id"] = row["worker_id"] and row["worker_id"][-8:]
    table(rows, columns, "no history")


def _summed(event: calls.Event) -> str:
    """A line's detail in a line: what was said, and when the next attempt is."""
    detail = event.detail
    if not isinstance(detail, dict) or not isinstance(detail.get("message"), str):
        return base.show(detail)
    kind = f"{detail['type']}: " if detail.get("type") else ""
    again = f"; again at {detail['run_at'][11:19]} UTC" if detail.get("run_at") else ""
    rest = {k: v for k, v in detail.items() if k not in _SAID and v is not None}
    more = f" {base.show(rest)}" if rest else ""
    return f"{kind}{detail['message']}{again}{more}"


app.command("history", help="The same as log.", hidden=True)(log)


@app.command()
def cancel(id: Tail, note: Note = None) -> None:
    """Cancel a run; one that runs is stopped. Exit 1 if it has ended already."""
    conn = state.connect()
    run_id = calls.find_run(conn, id)
    outcome = calls.cancel_run(conn, run_id, note)
    words = {
        "cancelled": "cancelled",
        "requested": "cancel requested: its worker is told to stop it",
        "too_late": "too late: it has ended",
    }
    answer({"run_id": run_id, "outcome": outcome}, f"{run_id} {words.get(outcome, outcome)}")
    if outcome == "too_late":
        raise typer.Exit(1)


@app.command()
def retry(
    id: Annotated[str | None, typer.Argument(help="an id, or any unique tail of it")] = None,
    task: Annotated[str | None, typer.Option(help="All failed runs of this task.")] = None,
    queue: Annotated[str | None, typer.Option(help="All failed runs of this queue.")] = None,
    tool: Annotated[str | None, typer.Option(help="All failed runs of this tool.")] = None,
    state_: Annotated[str | None, typer.Option("--state", help="Instead of failed.")] = None,
    since: Annotated[str | None, typer.Option(help="That ended since this ISO timestamp.")] = None,
    until: Annotated[str | None, typer.Option(help="That ended before it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    failed_steps: Annotated[
        bool, typer.Option("--failed-steps", help="Let run ID go on in place, from what failed.")
    ] = False,
    note: Note = None,
) -> None:
    """Run finished runs again, as new runs: one, or all that the options choose."""
    filters = (task, queue, tool, state_, since, until)
    if failed_steps:
        _go_on(id, any(value is not None for value in filters), note)
        return
    if (id is None) == all(value is None for value in filters):
        raise typer.BadParameter("give an ID, or at least one option that chooses runs")
    conn = state.connect()
    if id is not None:
        retried = calls.retry_run(conn, calls.find_run(conn, id), note=note)
    else:
        retried = calls.retry_run(
            conn, task=task, queue=queue, tool=tool, state=state_, since=since, until=until,
            limit=limit, note=note,
        )  # fmt: skip
    columns = [("run_id", "run"), ("retried_as", "runs again as"), ("outcome", "outcome")]
    table(retried, columns, "no such runs", style="outcome")
    if not any(r.retried_as for r in retried):
        raise typer.Exit(1)


def _go_on(id: str | None, is_filtered: bool, note: str | None) -> None:
    if id is None or is_filtered:
        raise typer.BadParameter("--failed-steps goes with the ID of one run")
    conn = state.connect()
    run_id = calls.find_run(conn, id)
    n = calls.retry_failed_steps(conn, run_id, note)
    answer(
        {"run_id": run_id, "steps": n},
        f"{run_id} goes on: " + (f"{n} failed step(s) tried again" if n else "no step had failed"),
    )


def enqueue(
    tool: Annotated[
        str | None, typer.Argument(help="as in echo, sql, shell, python:module.function")
    ] = None,
    payload: Annotated[str | None, typer.Argument(help="JSON, @file or -")] = None,
    file: PipelineFile = None,
    params: Params = None,
    queue: Annotated[str | None, typer.Option()] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=9, help="1 is first")] = None,
    run_at: Annotated[str | None, typer.Option(help="Not before this ISO timestamp.")] = None,
    delay: Annotated[str | None, typer.Option(help="Not before so long: '5 min'.")] = None,
    key: Annotated[str | None, typer.Option(help="Runs of one key take turns.")] = None,
    key_limit: Annotated[int | None, typer.Option(min=1, help="So many at a time.")] = None,
    if_busy: Annotated[str | None, typer.Option(help="wait or drop, if the key is busy")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Ask twice, run once.")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1)] = None,
    timeout: Annotated[str | None, typer.Option(help="Of an attempt: '30 s'.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    wait_timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
) -> None:
    """Ask for one run of a tool, or of a pipeline."""
    tool, value, steps = what_to_run(tool, payload, file, params, "TOOL", "PAYLOAD")
    enqueued = calls.enqueue(
        state.connect(), tool, value, pipeline=steps, queue=queue, priority=priority,
        run_at=run_at, delay=delay, key=key, key_limit=key_limit, if_busy=if_busy,
        idempotency_key=idempotency_key, max_attempts=max_attempts, timeout=timeout,
    )  # fmt: skip
    finish(enqueued, wait, wait_timeout)


step.commands(app)


def commands(app: typer.Typer) -> None:
    app.command()(enqueue)
