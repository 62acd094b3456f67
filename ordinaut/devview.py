"""What `ordinaut dev` shows: a screen of tables in a terminal, lines everywhere else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ordinaut import calls, db
from ordinaut.cli.base import COLOURS, ago, clean, console, show, tail, when
from ordinaut.cli.task import schedule

_ENDED = ("success", "failed", "cancelled", "timed_out", "abandoned")
_RUNS = 300


@dataclass(frozen=True, slots=True)
class Ending:
    """An attempt that ended: the run's last, or a failed one that is tried again."""

    at: datetime
    run_id: UUID
    what: str
    state: str
    attempt: int
    took: float | None
    said: str
    error: str  # in full; empty without one


class Story:
    """What happened since dev was started, as the database tells it."""

    def __init__(self, conn: db.Connection) -> None:
        self.conn = conn
        self.since = calls.server(conn).now
        self.now = self.since
        self.tasks: list[calls.Task] = []
        self.workers: list[dict[str, Any]] = []
        self.endings: list[Ending] = []
        self.counts: Counter[str] = Counter()
        self._fails: dict[UUID, int] = {}
        self._ended: set[UUID] = set()

    def look(self) -> None:
        """Ask the database what is new."""
        self.now = calls.server(self.conn).now
        self.tasks = calls.list_tasks(self.conn)
        self.workers = calls.worker_status(self.conn)
        new: list[Ending] = []
        for run in calls.list_runs(self.conn, since=self.since, limit=_RUNS):
            if run.failures > self._fails.get(run.run_id, 0):
                new += self._failures(run)
            if run.state in _ENDED and run.run_id not in self._ended:
                self._ended.add(run.run_id)
                self.counts[run.state] += 1
                new.append(_ending(run))
        self.endings += sorted(new, key=lambda ending: ending.at)

    def _failures(self, run: calls.Run) -> list[Ending]:
        """The failed attempts of a run that are new and were tried again."""
        seen = self._fails.get(run.run_id, 0)
        ended_badly = run.state in _ENDED and run.state not in ("success", "cancelled")
        retried = run.failures - ended_badly
        self._fails[run.run_id] = run.failures
        history = calls.run_history(self.conn, run.run_id)
        failures = [event for event in history if event.event in ("failed", "timed_out")]
        out = []
        for event in failures[seen:retried]:
            self.counts["retried"] += 1
            detail = event.detail if isinstance(event.detail, dict) else {}
            error = detail.get("error", detail)
            out.append(
                Ending(
                    at=event.at,
                    run_id=run.run_id,
                    what=run.task or run.tool,
                    state="retry",
                    attempt=event.attempt or 0,
                    took=None,
                    said=_first(error),
                    error=_full(error),
                )
            )
        return out

    def summary(self) -> str:
        """What happened, in a few lines."""
        ended = sum(n for state, n in self.counts.items() if state != "retried")
        parts = ", ".join(f"{n} {state}" for state, n in self.counts.most_common())
        seconds = (self.now - self.since).total_seconds()
        lines = [f"\n{ended} runs ended in {seconds:.0f} s" + (f": {parts}" if parts else "")]
        by_task = Counter(e.what for e in self.endings if e.state == "success")
        lines += [f"  {n:4}  {what}" for what, n in sorted(by_task.items())]
        return "\n".join(lines)


def _ending(run: calls.Run) -> Ending:
    at = run.finished_at or datetime.now(UTC)
    took = (at - run.started_at).total_seconds() if run.started_at else None
    bad = run.error is not None
    return Ending(
        at, run.run_id, run.task or run.tool, run.state, run.attempt, took,
        _first(run.error) if bad else show(run.output), _full(run.error) if bad else "",
    )  # fmt: skip


def _first(error: Any) -> str:
    text = str(error.get("message", "")) if isinstance(error, dict) else show(error)
    return (text.splitlines() or [""])[0]


def _full(error: Any) -> str:
    if not isinstance(error, dict):
        return show(error)
    return str(error.get("traceback") or f"{error.get('type', '')}: {error.get('message', '')}")


def _line(ending: Ending) -> Text:
    took = "" if ending.took is None else f"{ending.took * 1000:7.1f} ms"
    word = "will retry" if ending.state == "retry" else ending.state
    colour = COLOURS.get(ending.state, "yellow")
    what = ending.what if len(ending.what) <= 24 else "…" + ending.what[-23:]
    line = Text(f"{when(ending.at)}  {what:<18} ")
    line.append(f"{word:<10}", style=colour)
    line.append(f" attempt {ending.attempt} {took:>10}  {clean(ending.said)}")
    return line


class Lines:
    """Plain lines as things happen: for pipes, logs and CI."""

    def __init__(self) -> None:
        self._console: Console = console()
        self._shown = 0
        self._planned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, story: Story) -> None:
        for task in story.tasks:
            name = f"{task.namespace}/{task.name}"
            if name not in self._planned and task.next_run is not None:
                self._planned.add(name)
                self._print(f"task {name}: {schedule(task)}, next run {when(task.next_run)}")
        for ending in story.endings[self._shown :]:
            self._print(_line(ending))
            if ending.error:
                for line in clean(ending.error).rstrip().splitlines():
                    self._print(f"    {line}")
        self._shown = len(story.endings)

    def _print(self, text: str | Text) -> None:
        self._console.print(text, soft_wrap=True)


class Screen:
    """The whole terminal: tasks, runs as they end, the latest errors in full."""

    def __init__(self, psql: str) -> None:
        self._psql = psql
        self._console: Console = console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, exc, traceback)

    def show(self, story: Story) -> None:
        self._live.update(self._page(story), refresh=True)

    def _page(self, story: Story) -> Group:
        room = self._console.size.height - 7 - min(len(story.tasks), 12)
        error = next((e for e in reversed(story.endings) if e.error), None)
        trace = clean(error.error).rstrip().splitlines() if error else []
        trace = trace[-max(3, room // 2) :]
        runs = max(3, room - len(trace) - 2)
        parts: list[Any] = [
            _head(story, self._psql),
            _tasks(story),
            Text(),
            *(_cut(_line(e)) for e in reversed(story.endings[-runs:])),
        ]
        if error:
            parts += [
                Text(),
                Text(f"last error: {error.what}, attempt {error.attempt}, {tail(error.run_id)},"
                     f" {ago(error.at, story.now)}", style="bold red"),
                *(_cut(Text(f"  {line}", style="red")) for line in trace),
            ]  # fmt: skip
        return Group(*parts)


def _cut(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _head(story: Story, psql: str) -> Group:
    alive = sum(row.get("state") == "alive" for row in story.workers)
    counts = "  ".join(f"{n} {state}" for state, n in story.counts.most_common())
    head = Text("ordinaut dev", style="bold")
    head.append(
        f"  {when(story.now)}  {alive} worker(s)  {counts}  (Ctrl-C stops)", style="not bold"
    )
    return Group(_cut(head), _cut(Text(psql, style="dim")), Text())


def _tasks(story: Story) -> Table:
    out = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("task", "schedule", "status", "next run", "last run", "fired", "missed"):
        out.add_column(
            name, no_wrap=True, justify="right" if name in ("fired", "missed") else "left"
        )
    for task in story.tasks[:12]:
        out.add_row(
            f"{task.namespace}/{task.name}",
            schedule(task),
            Text(task.status, style=COLOURS.get(task.status, "")),
            ago(task.next_run, story.now) if task.next_run else "-",
            ago(task.last_run, story.now) if task.last_run else "-",
            str(task.fired_count),
            str(task.missed_count),
        )
    return out
