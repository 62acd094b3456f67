"""ordinaut task create, and steps of a pipeline as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ordinaut import pipeline
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table
from ordinaut.client import Ordinaut

PipelineFile = Annotated[
    Path | None,
    typer.Option("--pipeline", help="YAML or JSON: steps, instead of a tool.", metavar="FILE"),
]
Params = Annotated[
    str | None, typer.Option(help="JSON, @file or -: what the steps may read.", metavar="JSON")
]


def commands(app: typer.Typer) -> None:
    app.command()(create)


def create(
    name: Annotated[str, typer.Argument(help="name, or namespace/name")],
    uses: Annotated[
        str | None, typer.Option(help="The tool: echo, sql, shell, python:module.function.")
    ] = None,
    with_: Annotated[
        str | None, typer.Option("--with", help="Its payload: JSON, @file or -.", metavar="JSON")
    ] = None,
    file: PipelineFile = None,
    params: Params = None,
    every: Annotated[str | None, typer.Option(help="An interval: '15 min'.")] = None,
    cron: Annotated[str | None, typer.Option(help="Five fields, or six with seconds.")] = None,
    at: Annotated[str | None, typer.Option(help="Once, at this ISO timestamp.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of cron and at, as Europe/Berlin.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    queue: Annotated[str | None, typer.Option()] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=9, help="1 is first")] = None,
) -> None:
    """Create one task: of a tool, or of steps. Files with many: ordinaut task apply."""
    tool, payload, steps = what_to_run(uses, with_, file, params, "--uses", "--with")
    times = [(k, v) for k, v in (("interval", every), ("cron", cron), ("once", at)) if v]
    if len(times) > 1:
        raise typer.BadParameter("give one of --every, --cron and --at")
    kind, expr = times[0] if times else (None, None)
    namespace, _, short = name.rpartition("/")
    with Ordinaut(state.dsn(), name="ordinaut-cli", pooled=state.settings().pooled) as client:
        task_id = client.create_task(
            short, tool, payload, pipeline=steps, namespace=namespace or None, schedule_kind=kind,
            schedule_expr=expr, timezone=timezone, description=description, queue=queue,
            priority=priority, connection=state.connect(),
        )  # fmt: skip
    answer({"task_id": task_id, "task": name}, f"{name} created: {task_id}")


def what_to_run(
    tool: str | None, payload: str | None, file: Path | None, params: str | None,
    tool_is: str, payload_is: str,
) -> tuple[str | None, Any, list[Any] | None]:  # fmt: skip
    """Return tool and payload, or params and steps, as the command line gave them."""
    if file is None:
        if params is not None:
            raise typer.BadParameter(f"--params are those of a pipeline; a tool has {payload_is}")
        if tool is None:
            raise typer.BadParameter(f"give {tool_is}, or --pipeline FILE")
        value = base.json_value(payload, payload_is)
        pipeline.check(pipeline.given(tool, value, None))
        return tool, value, None
    if tool is not None or payload is not None:
        raise typer.BadParameter("a pipeline names its tools itself, and has --params")
    found = pipeline.read(file)
    given = base.json_value(params, "--params")
    return None, found.params if given is None else given, found.steps


def show_steps(definition: list[dict[str, Any]]) -> None:
    """Print the steps of a pipeline, one a line."""
    is_dag = any("needs" in step for step in definition)
    rows = [
        {
            "step": step.get("id", f"step_{i}"), "uses": step["uses"],
            "needs": _needs(definition, i) if is_dag or i == 1 else "the one before",
            "if": step.get("if"), "retry": _retry(step), "save_as": step.get("save_as"),
            "more": ", ".join(sorted(step.keys() & _MORE)) or None,
        }
        for i, step in enumerate(definition, 1)
    ]  # fmt: skip
    names = ("step", "uses", "needs", "if", "retry", "save_as", "more")
    shown = [n for n in names if n in ("step", "uses", "needs") or any(r[n] for r in rows)]
    table(rows, [(n, n.replace("_", " ")) for n in shown], "no steps: a run succeeds at once")


def changed_steps(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[str]:
    """Say which steps differ between two pipelines, a line for each change."""
    was, now = (
        {step.get("id", f"step_{i}"): step for i, step in enumerate(steps, 1)}
        for steps in (old, new)
    )
    yield from (f"step {name} removed" for name in was if name not in now)
    for name, step in now.items():
        if name not in was:
            yield f"step {name} added: {step['uses']}"
            continue
        for key in sorted(k for k in was[name].keys() | step.keys() if k != "id"):
            before, after = was[name].get(key), step.get(key)
            if before != after:
                yield f"step {name} changed: {key} {base.show(before)} -> {base.show(after)}"
    if [name for name in was if name in now] != [name for name in now if name in was]:
        yield f"steps are in another order: {', '.join(now)}"


_MORE = {
    "map", "on_rollback", "continue_on_error", "skip_with_needs", "timeout", "timeout_seconds",
    "queue", "priority", "input_schema", "output_schema",
}  # fmt: skip


def _needs(definition: list[dict[str, Any]], position: int) -> str | None:
    needs = definition[position - 1].get("needs") or []
    return ", ".join([needs] if isinstance(needs, str) else needs) or None


def _retry(step: dict[str, Any]) -> str | None:
    """How often it is tried at most, and how fast, where the definition says so."""
    policy = dict(step.get("retry") or {})
    attempts = step.get("retry_count", policy.pop("max_attempts", None))
    said = [f"{attempts} times"] if attempts is not None else []
    return ", ".join(said + [f"{k} {v}" for k, v in sorted(policy.items())]) or None
