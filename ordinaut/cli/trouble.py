"""ordinaut breaker …, ordinaut errors …, and the verbs of `run` for what is stuck or failed."""

from __future__ import annotations

from typing import Annotated

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table
from ordinaut.cli.run import Tail
from ordinaut.cli.task import Note, details

breaker = typer.Typer(no_args_is_help=True, help="Circuit breakers: services that are down.")
errors = typer.Typer(no_args_is_help=True, help="Errors: what fails, and how it is tried again.")

BreakerName = Annotated[str, typer.Argument(metavar="BREAKER")]
After = Annotated[str | None, typer.Option(help="Running for so long: '60 min'.")]
Since = Annotated[str | None, typer.Option(help="Since this ISO timestamp; else a day.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Only runs of this task.")]


@breaker.command("list")
def list_() -> None:
    """List circuit breakers, and what waits behind them."""
    columns = [
        ("name", "breaker"), ("state", "state"), ("failures", "failures"),
        ("threshold", "opens at"), ("changed_at", "since"), ("probe_at", "tries at"),
        ("parked", "parked"), ("tools", "tools"), ("changed_by", "by"), ("note", "note"),
    ]  # fmt: skip
    found = calls.list_breakers(state.connect())
    rows = [
        {name: getattr(b, name) for name, _ in columns} | {"tools": ", ".join(b.tools)}
        for b in found
    ]
    table(found if state.json else rows, columns, "no breakers: `ordinaut breaker set` makes one")


@breaker.command("set")
def set_(
    name: BreakerName,
    tool: Annotated[
        list[str] | None, typer.Option(help="A tool that it guards; else that of its name.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="So many failures in a row open it.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="Within this time: '60 s'.")] = None,
    recovery: Annotated[str | None, typer.Option(help="After so long one unit tries.")] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Of errors that count: network, timeout, …")
    ] = None,
) -> None:
    """Guard tools by a circuit breaker, or change what guards them: all settings at once."""
    calls.set_breaker(
        state.connect(), name, tool or None, threshold=threshold, window=window,
        recovery=recovery, categories=category or None,
    )  # fmt: skip
    answer({"breaker": name, "tools": tool or [name]}, f"breaker {name} is set")


@breaker.command("open")
def open_(name: BreakerName, note: Note = None) -> None:
    """Keep it open, until it is closed or reset: its tools' work waits."""
    calls.open_breaker(state.connect(), name, note)
    answer({"breaker": name, "state": "open"}, f"breaker {name} is open, and stays so")


@breaker.command()
def close(name: BreakerName, note: Note = None) -> None:
    """Keep it closed, whatever fails."""
    calls.close_breaker(state.connect(), name, note)
    answer({"breaker": name, "state": "closed"}, f"breaker {name} is closed, and stays so")


@breaker.command()
def reset(name: BreakerName, note: Note = None) -> None:
    """Close it, and let it decide by itself again."""
    calls.reset_breaker(state.connect(), name, note)
    answer({"breaker": name, "state": "closed"}, f"breaker {name} is closed")


@breaker.command()
def drop(name: BreakerName, note: Note = None) -> None:
    """Take it away: nothing guards its tools any more."""
    calls.drop_breaker(state.connect(), name, note)
    answer({"breaker": name, "state": None}, f"breaker {name} is gone")


@errors.command()
def stats(since: Since = None, task: OfTask = None) -> None:
    """Count runs by how they ended, and failures by category, severity and code."""
    conn = state.connect()
    runs = calls.get_execution_statistics(conn, since, task)
    failed = calls.get_error_statistics(conn, since, task)
    both = {**base.plain(runs), **base.plain(failed)}
    if state.json:
        answer(both)
        return
    details({k: _counts(v) if isinstance(v, dict) else v for k, v in both.items()})


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counted.items()) or "-"


@errors.command()
def classify(
    type: Annotated[str | None, typer.Argument(help="an exception's name, or a code")] = None,
    message: Annotated[str | None, typer.Option(help="What it says.")] = None,
    sqlstate: Annotated[str | None, typer.Option(help="PostgreSQL's code for it.")] = None,
) -> None:
    """Say what kind of error it is, and whether another try can help."""
    found = calls.classify_error(state.connect(), type, message, sqlstate)
    if state.json:
        answer(found)
    else:
        details(base.plain(found))


@errors.command()
def policies() -> None:
    """List how errors of which category are tried again."""
    columns = [
        ("category", "category"), ("max_attempts", "attempts"), ("retry", "waits"),
        ("set_by", "set by"), ("set_at", "at"),
    ]  # fmt: skip
    table(
        calls.list_retry_policies(state.connect()), columns,
        "no policies: tasks decide alone; `ordinaut errors policy defaults` loads some",
    )  # fmt: skip


@errors.command()
def policy(
    category: Annotated[str, typer.Argument(help="network, …; or defaults, or none")],
    policy: Annotated[
        str | None, typer.Argument(help='JSON: {"max_attempts": 4, "base": "2 s"}; none: remove')
    ] = None,
) -> None:
    """Say how errors of a category are tried again, where their task does not."""
    n = calls.set_retry_policy(state.connect(), category, base.json_value(policy, "POLICY"))
    answer({"category": category, "changed": n}, f"{n} retry policies changed")


def recover(id: Tail, note: Note = None) -> None:
    """Run again what failed."""
    conn = state.connect()
    run_id = calls.find_run(conn, id)
    new = calls.recover_run(conn, run_id, note)
    answer({"run_id": run_id, "recovered_as": new}, f"{run_id} runs again as {new}")


def recoverable(
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    min_age: Annotated[str | None, typer.Option(help="Failed so long ago; else '5 min'.")] = None,
) -> None:
    """List failed runs that may be worth recovering: what failed them may have passed."""
    columns = [
        ("run_id", "run"), ("tool", "tool"), ("state", "state"), ("category", "category"),
        ("code", "code"), ("finished_at", "ended"), ("message", "message"),
    ]  # fmt: skip
    found = calls.get_failed_runs_for_recovery(state.connect(), limit, min_age)
    table(found, columns, "no run needs recovery")


def stuck(
    after: After = None,
    end: Annotated[bool, typer.Option("--end", help="End them as timed_out.")] = False,
) -> None:
    """List runs that have been running for too long; --end ends them."""
    conn = state.connect()
    if end:
        ended = calls.timeout_stuck(conn, after)
        columns = [("run_id", "run"), ("running_for", "running for"), ("outcome", "outcome")]
        table(ended, columns, "no stuck runs", style="outcome")
        return
    columns = [
        ("run_id", "run"), ("tool", "tool"), ("queue", "queue"), ("attempt", "attempt"),
        ("started_at", "since"), ("running_for", "running for"), ("worker_id", "worker"),
    ]  # fmt: skip
    table(calls.get_stuck_runs(conn, after), columns, "no stuck runs")


def commands(app: typer.Typer) -> None:
    for command in (recover, recoverable, stuck):
        app.command()(command)
