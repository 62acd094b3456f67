"""
How a run of steps looks in a terminal: the graph of its steps with their states, what went wrong,
and the tree of runs that it is part of.

Every state has a sign and a word, so nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from ordinaut.calls import Branch, Step
from ordinaut.cli import base
from ordinaut.cli.base import clean, tail
from ordinaut.cli.graph import NODE, Line, draw

SIGNS = {
    "complete": ("✓", "green"), "resolved_manually": ("✓", "green"), "error": ("✗", "red"),
    "in_progress": ("▶", "cyan"), "waits": ("◇", "yellow"), "ready": ("●", "cyan"),
    "pending": ("○", "dim"), "waiting_for_retry": ("↻", "yellow"), "skipped": ("»", "dim"),
    "cancelled": ("⊘", "dim"),
}  # fmt: skip
RUN_SIGNS = {
    "success": ("✓", "green"), "running": ("▶", "cyan"), "pending": ("●", "cyan"),
    "waiting": ("◇", "yellow"), "cancelled": ("⊘", "dim"),
}  # fmt: skip

_DONE = ("complete", "skipped", "resolved_manually")
_ENDED = (*_DONE, "error", "cancelled")
_FEWEST = 24  # columns for what is said of a step; else the tool is left out


def sign(step: Step) -> tuple[str, str]:
    """The sign and the colour of a step's state."""
    return SIGNS["waits" if step.state == "in_progress" and step.wait else step.state]


def tries(step: Step) -> str:
    """Which try of how many this is, once one has failed."""
    if not step.failures:
        return ""
    begun = step.state in ("in_progress", *_DONE)
    return f"{step.failures + begun}/{step.retry_limit}"


def state_word(step: Step) -> str:
    return f"{step.state} {tries(step)}".rstrip()


def lasted(begin: datetime | None, end: datetime | None, now: datetime | None = None) -> str:
    """A duration as people say it: 12 ms, 3.4 s, 5 min 3 s, 2 h 10 min."""
    if begin is None:
        return ""
    seconds = ((end or now or datetime.now(UTC)) - begin).total_seconds()
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def said(step: Step, steps: Sequence[Step]) -> str:
    """What there is to say of a step in a line: what it waits for, gave, or failed with."""
    message = first_line(step.error.get("message")) if isinstance(step.error, dict) else ""
    match step.state:
        case "pending":
            states = {s.name: s.state for s in steps}
            open_needs = [n for n in step.needs if states.get(n) not in _DONE]
            return f"needs {', '.join(open_needs)}" if open_needs else ""
        case "in_progress" if step.wait:
            return _waits(step, steps)
        case "in_progress":
            percent = (step.progress or {}).get("percent")
            note = (step.progress or {}).get("note")
            parts = [f"{percent:g} %" if percent is not None else "", str(note or "")]
            return " ".join(p for p in parts if p)
        case "waiting_for_retry":
            at = f"again at {base.when(step.next_retry_at)}" if step.next_retry_at else "again"
            return f"{at}: {message}"
        case "error":
            return message
        case "complete" | "resolved_manually":
            return "" if step.output is None else f"→ {first_line(base.show(step.output))}"
        case _:
            return ""


def _waits(step: Step, steps: Sequence[Step]) -> str:
    wait = step.wait
    match wait.get("kind"):
        case "sleep":
            until = wait.get("until")
            return f"sleeps until {base.when(datetime.fromisoformat(until))}" if until else "sleeps"
        case "event":
            key = f", key {wait['key']}" if wait.get("key") else ""
            return f"waits for event {wait.get('topic')}{key}"
        case "approval":
            return f"asks: {first_line(wait.get('prompt'))}"
        case "task":
            return f"waits for a run of {wait.get('task')}"
        case "map":
            items = [s for s in steps if s.map_step_id == step.step_id]
            ended = sum(s.state in _ENDED for s in items)
            failed = sum(s.state == "error" and s.wait is None for s in items)
            return f"{ended} of {len(items)} items" + (f", {failed} failed" if failed else "")
        case kind:
            return f"waits: {kind}"


def first_line(text: Any) -> str:
    return (clean(str(text or "")).strip().splitlines() or [""])[0]


def print_steps(out: Console, steps: Sequence[Step]) -> None:
    """Print the graph of a run's own steps; what was rolled back below it."""
    own = [s for s in steps if s.kind is None]
    by_name = {s.name: s for s in own}
    lines = draw({s.name: s.needs for s in own})
    if 2 * max((len(line.lanes) for line in lines), default=0) > out.width:
        # Too many lanes to follow: what each needs is said in words.
        lines = [Line(NODE, line.node) for line in lines if line.node]
    _print_rows(out, [(line.lanes, by_name.get(line.node or "")) for line in lines], steps)
    undone = [s for s in steps if s.kind == "rollback"]
    if undone:
        out.print("rolled back, the last first:", style="bold")
        _print_rows(out, [(NODE, s) for s in undone], steps)


def _print_rows(
    out: Console, drawn: Sequence[tuple[str, Step | None]], steps: Sequence[Step]
) -> None:
    shown = [s for _, s in drawn if s is not None]
    columns: list[Callable[[Step], str]] = [
        lambda s: s.tool, state_word, lambda s: lasted(s.started_at, s.finished_at)
        if s.attempts and s.state != "waiting_for_retry" else "",
    ]  # fmt: skip
    left = max((len(lanes) + 1 + len(s.name) for lanes, s in drawn if s), default=0)
    widths = [max((len(column(s)) for s in shown), default=0) for column in columns]
    if out.width - left - sum(widths) - 2 * len(widths) - 2 < _FEWEST:
        columns, widths = columns[1:], widths[1:]
    for lanes, step in drawn:
        line = _lanes(lanes, step)
        if step is not None:
            line.append(f" {clean(step.name)}", style="bold")
            line.pad_right(max(left - line.cell_len, 0))
            for column, width in zip(columns, widths, strict=True):
                is_state = column is state_word
                line.append(f"  {column(step):{width}}", style=sign(step)[1] if is_state else "")
            line.append("  " + said(step, steps), style="red" if step.state == "error" else "dim")
            line.rstrip()
            line.truncate(out.width, overflow="ellipsis")
        out.print(line, no_wrap=True, crop=True)


def _lanes(lanes: str, step: Step | None) -> Text:
    line = Text(lanes, style="dim")
    if step is not None:
        line = Text()
        before, _, after = lanes.partition(NODE)
        line.append(before, style="dim").append(*sign(step)).append(after, style="dim")
    return line


def print_tree(out: Console, tree: Sequence[Branch], here: object) -> None:
    """Print a tree of runs, the one that is looked at marked."""
    if len(tree) < 2:
        return
    out.print("part of this tree of runs:", style="bold")
    children: dict[object, list[Branch]] = {}
    for branch in tree:
        children.setdefault(branch.parent_run_id, []).append(branch)

    def go(branch: Branch, lead: str, hook: str) -> None:
        mark, colour = RUN_SIGNS.get(branch.state, ("✗", "red"))
        line = Text(lead + hook, style="dim").append(f"{mark} ", style=colour)
        if branch.step:
            line.append(f"{clean(branch.step)}: ")
        line.append(f"{branch.task or branch.tool} {tail(branch.run_id)}", style="bold")
        line.append(f"  {branch.state}", style=colour)
        if branch.started_at:
            line.append(f"  {lasted(branch.started_at, branch.finished_at)}")
        if branch.error_message:
            line.append("  " + first_line(branch.error_message), style="red")
        if branch.run_id == here:
            line.append("  (this run)", style="bold")
        line.rstrip()
        line.truncate(out.width, overflow="ellipsis")
        out.print(line, no_wrap=True, crop=True)
        below = children.get(branch.run_id, [])
        lead += {"": "", "├─ ": "│  ", "╰─ ": "   "}[hook]
        for i, child in enumerate(below, 1):
            go(child, lead, "╰─ " if i == len(below) else "├─ ")

    go(tree[0], "", "")
