"""ordinaut task …"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from ordinaut import calls
from ordinaut.apply import Change, apply
from ordinaut.cli import base
from ordinaut.cli.base import ago, answer, state, table, when
from ordinaut.cli.define import show_steps
from ordinaut.client import Ordinaut
from ordinaut.errors import ConfigurationError
from ordinaut.manifest import read_all

app = typer.Typer(no_args_is_help=True, help="Tasks: what to run, and when.")

Name = Annotated[str, typer.Argument(help="name, namespace/name, or the tail of an id")]
Note = Annotated[str | None, typer.Option("--note", "-m", help="Why; people will see it.")]


@app.command("apply")
def apply_files(
    files: Annotated[list[Path], typer.Argument(help="YAML or JSON manifests, or directories.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, but do not do it.")] = False,
) -> None:
    """Create and update tasks from files: all of them, or none."""
    definitions = list(read_all(expanded(files)))
    changes = apply(state.connect(), definitions, dry_run=dry_run)
    show_changes(changes)
    if dry_run and not state.json:
        base.console().print("dry run: nothing was changed")


def expanded(paths: list[Path]) -> list[Path]:
    """Return the files that are meant: for a directory the manifests in it."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml", ".json"))
            if not inside:
                raise ConfigurationError(f"{path} has no manifest (*.yaml, *.yml, *.json)")
            out += inside
        else:
            out.append(path)
    return out


def show_changes(changes: list[Change]) -> None:
    rows = [
        {
            "task": change.name if change.task else f"calendar {change.name}",
            "action": change.action,
            "fields": ", ".join(change.fields) or "-",
            "schedule": schedule(change.task) if change.task else None,
            "next_run": change.task.next_run if change.task else None,
            "task_id": change.task.task_id if change.task else None,
        }
        for change in changes
    ]
    columns = [
        ("task", "task"), ("action", "action"), ("fields", "changed"), ("schedule", "schedule"),
        ("next_run", "next run"),
    ]  # fmt: skip
    table(rows, columns, "the files define nothing", style="action")


def what(task: calls.Task) -> str:
    """What a task's runs call: its tool, or so many steps."""
    return task.tool if task.pipeline is None else f"{len(task.pipeline)} steps"


def schedule(task: calls.Task) -> str:
    """A task's schedule in a few words."""
    text = f"{task.schedule_kind} {task.schedule_expr or ''}".strip()
    if task.schedule_kind == "interval":
        text = re.sub(r"^(?!.* after end$)", "every ", task.schedule_expr or "")
    elif task.schedule_kind == "union":
        text = "; ".join(f"{m['kind']} {m['expr']}" for m in json.loads(task.schedule_expr or "[]"))
    elif task.schedule_kind == "event":
        text = f"when event {task.schedule_expr} is emitted"
    elif task.schedule_kind == "condition":
        text = textwrap.shorten(text, 80, placeholder=" …")
    return f"{text}, not in {', '.join(task.exclude)}" if task.exclude else text


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this one.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="Only tasks of this status.")] = None,
    uses: Annotated[
        str | None, typer.Option(help="Only tasks that run this tool, also in a step.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 100,
) -> None:
    """List tasks with their next run."""
    tasks = calls.list_tasks(
        state.connect(), namespace=namespace, status=status, uses=uses, limit=limit
    )
    if state.json:
        table(tasks, [], "")
        return
    rows = [
        {
            "task": f"{t.namespace}/{t.name}", "status": t.status,
            "tool": what(t),
            "schedule": schedule(t), "next_run": t.next_run, "last_run": t.last_run,
            "fired": t.fired_count, "note": t.status_note,
        }
        for t in tasks
    ]  # fmt: skip
    columns = [
        ("task", "task"), ("status", "status"), ("tool", "tool"), ("schedule", "schedule"),
        ("next_run", "next run"), ("last_run", "last run"), ("fired", "fired"), ("note", "note"),
    ]  # fmt: skip
    table(rows, columns, "no tasks; create some: ordinaut task apply FILE", style="status")


@app.command()
def show(task: Name) -> None:
    """Show everything about a task."""
    found = calls.get_task(state.connect(), task)
    if state.json:
        answer(found)
        return
    fields = base.plain(found) | {"next_run": found.next_run, "last_run": found.last_run}
    if (definition := fields.pop("pipeline")) is None:
        details(fields)
        return
    fields["params"] = fields.pop("payload")
    for unused in ("tool", "max_attempts", "retry", "timeout"):  # a step has its own
        del fields[unused]
    details(fields)
    show_steps(definition)


def details(fields: dict[str, object]) -> None:
    """Print fields one below the other, those without a value left out."""
    rows = [{"field": k, "value": v} for k, v in fields.items() if v is not None]
    table(rows, [("field", "field"), ("value", "value")], "")


@app.command()
def pause(task: Name, note: Note = None) -> None:
    """Stop a task from firing."""
    _verb(task, calls.pause_task(state.connect(), task, note))


@app.command()
def resume(task: Name, note: Note = None) -> None:
    """Let a paused task fire again."""
    _verb(task, calls.resume_task(state.connect(), task, note))


@app.command()
def cancel(task: Name, note: Note = None) -> None:
    """End a task for good. Its runs go on."""
    _verb(task, calls.cancel_task(state.connect(), task, note))


@app.command()
def snooze(
    task: Name,
    lasting: Annotated[str, typer.Argument(metavar="FOR", help="An interval, as in '2 hours'.")],
    note: Note = None,
) -> None:
    """Put off the next firing."""
    at = calls.snooze_task(state.connect(), task, lasting, note)
    text = f"{task} fires next at {when(at)}, {ago(at)}" if at else f"{task} has no next firing"
    answer({"task": task, "next_run": at}, text)


@app.command()
def run(
    task: Name,
    payload: Annotated[
        str | None, typer.Option(help="JSON, @file or - instead of the task's own.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Ask twice, run once.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
) -> None:
    """Run a task once, now, beside its schedule."""
    value = base.json_value(payload, "--payload")
    enqueued = calls.run_now(state.connect(), task, value, idempotency_key)
    finish(enqueued, wait, timeout)


def finish(enqueued: calls.Enqueued, wait: bool, timeout: float | None) -> None:
    """Print which run it is or, when asked to wait, what came of it."""
    if enqueued.run_id is None:
        answer(enqueued, "dropped: its key is busy")
        raise typer.Exit(1)
    if not wait:
        answer(enqueued, f"{enqueued.run_id} {enqueued.outcome}")
        return
    with Ordinaut(state.dsn(), name="ordinaut-cli", pooled=state.settings().pooled) as client:
        output = client.wait(enqueued.run_id, timeout)
    answer(output, base.show(output))


def _verb(task: str, status: str) -> None:
    answer({"task": task, "status": status}, f"{task} is {status}")
