"""
The lives of units, told again from the tables alone.

The happy path leaves instants in a row, everything else a line in the journal: from both this makes
one list of attempts per unit, each with what ended it.  Written against the tables and their
meaning, not against sql/: what the engine says of itself (run_history, step_history) is not asked.

A unit is a run of one tool, or a step of a run; it is named by its run and the step's name, since
the journal names it so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from tests.chaos.history import History, Row, seconds

TERMINAL = frozenset({"success", "failed", "cancelled", "timed_out", "abandoned"})
STEP_TERMINAL = frozenset({"complete", "error", "skipped", "cancelled", "resolved_manually"})
STEP_LIVE = frozenset({"ready", "in_progress", "waiting_for_retry"})
# The engine does these itself, or lets them wait: they have no tool that writes to the witness.
CONTROL = frozenset({"pipeline", "approval", "sleep", "task", "wait_for_event"})

FAILURES = frozenset({"failed", "timed_out", "crashed"})
GIVEN_BACK = frozenset({"released", "snoozed", "declined"})
ENDS_ATTEMPT = FAILURES | GIVEN_BACK | {"cancelled", "complete", "skipped"}
BY_HAND = frozenset({"step_completed", "step_resolved", "step_skipped"})
ANEW = frozenset({"step_reset", "step_retried"})
EVENTS = ENDS_ATTEMPT | BY_HAND | ANEW | {"step_reopened", "late"}

Name = tuple[str, str | None]


@dataclass(slots=True)
class Settle:
    """What ended one attempt, or what somebody did to the unit between attempts."""

    attempt: int
    at: float
    event: str
    token: str | None
    started: float | None  # the earliest that is known of the attempt
    run_at: float | None  # of the attempt that follows; None: none does
    is_fenced: bool  # taken back by another than its worker
    row: Row  # where it is told

    @property
    def is_attempt(self) -> bool:
        return self.event in ENDS_ATTEMPT or self.event in ("success", "waiting")


@dataclass(slots=True)
class Unit:
    """One unit of work with all its attempts, in the order of the database's clock."""

    name: Name
    work: str | None
    row: Row  # of task_run or step; of a unit that has none yet, its place
    run: Row | None  # of a step: its run
    definition: Row | None  # of a step: what its pipeline says
    is_step: bool
    is_control: bool
    tool: str
    settles: list[Settle] = field(default_factory=list)

    @property
    def state(self) -> str:
        return str(self.row.get("state") or "live")

    def attempts(self) -> Iterator[Settle]:
        return (s for s in self.settles if s.is_attempt)

    def series(self) -> list[list[Settle]]:
        """Its attempts, a new list after each time that somebody started it anew."""
        found: list[list[Settle]] = [[]]
        for settle in self.settles:
            if settle.event in ANEW:
                found.append([])
            elif settle.is_attempt:
                is_item = "[" in (self.name[1] or "")  # a map that starts anew resets its items
                if is_item and settle.attempt == 1 and found[-1]:
                    found.append([])
                found[-1].append(settle)
        return found

    def tokens(self) -> set[str]:
        return {s.token for s in self.settles if s.token}

    def limit(self) -> int:
        source = self.definition if self.definition is not None else self.row
        return int(source.get("max_attempts") or 1)

    def timeout(self) -> float | None:
        source = self.definition if self.definition is not None else self.row
        return interval(source.get("timeout"))

    def retry(self) -> Row | None:
        source = self.definition if self.definition is not None else self.row
        retry: Row | None = source.get("retry")
        return retry

    def label(self) -> str:
        return f"run {self.name[0]}" + (f" step {self.name[1]}" if self.name[1] else "")


@dataclass
class Lives:
    """Units by name, and where runs and units are now."""

    units: dict[Name, Unit] = field(default_factory=dict)
    runs: dict[str, list[tuple[str, Row]]] = field(default_factory=lambda: defaultdict(list))
    # Of steps: due, parked, lease.
    places: dict[str, list[tuple[str, Row]]] = field(default_factory=lambda: defaultdict(list))
    by_work: dict[str, Unit] = field(default_factory=dict)
    by_token: dict[str, list[tuple[Unit, Settle]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    steps_of: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    definitions: dict[tuple[str, int], Row] = field(default_factory=dict)
    journal: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def run_row(self, run: str) -> Row | None:
        """What is known of a run, wherever it is."""
        return self.runs[run][0][1] if self.runs.get(run) else None


@lru_cache(maxsize=1000)
def interval(text: str | None) -> float | None:
    """Read an interval as PostgreSQL writes it, or as people write one in an expression."""
    if text is None:
        return None
    total = 0.0
    rest = text.strip().lower()
    clock = re.search(r"(-?)(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?$", rest)
    if clock:
        sign, h, m, s = clock.groups()
        total += (-1 if sign else 1) * (int(h) * 3600 + int(m) * 60 + float(s or 0))
        rest = rest[: clock.start()].strip()
    units = {
        "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600,
        "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800,
        "ms": 0.001, "msec": 0.001, "millisecond": 0.001,
    }  # fmt: skip
    while rest:
        part = re.match(r"([-+]?\d+(?:\.\d+)?)\s*([a-z]+)\s*", rest)
        if not part:
            return None
        unit = part[2] if part[2] in units else part[2].removesuffix("s")
        if unit not in units:
            return None
        total += float(part[1]) * units[unit]
        rest = rest[part.end() :]
    return total


def live_items(history: History) -> Iterator[tuple[str, Row]]:
    """Every unit in due_work, parked and lease, with the name of its place."""
    for place in ("due_work", "parked"):
        for row in history.table(place):
            yield place, row
    for lease in history.table("lease"):
        for item in lease.get("work") or []:
            if item["work_id"] not in (lease.get("settled") or []):
                yield "lease", {**item, "lease": lease}


def tell(history: History) -> Lives:
    """Rebuild the lives of all units; once per history."""
    known: Lives | None = getattr(history, "_lives", None)
    if known is not None:
        return known
    lives = Lives()
    for row in history.table("pipeline_step"):
        lives.definitions[row["pipeline_id"], row["position"]] = row
    for row in history.table("run_log"):
        if row.get("run_id"):
            lives.journal[row["run_id"]].append(row)
    for lines in lives.journal.values():
        lines.sort(key=lambda r: (r["at"], r.get("attempt") or 0, r["log_id"]))

    for row in history.table("task_run"):
        lives.runs[row["run_id"]].append(("history", row))
        if not row.get("pipeline_id"):
            _add(lives, Unit((row["run_id"], None), row["run_id"], row, None, None, False,
                             row["tool"] in CONTROL, row["tool"]))  # fmt: skip
    for row in history.table("step"):
        lives.steps_of[row["run_id"]].append(row)
    for run_id, steps in lives.steps_of.items():
        run = lives.run_row(run_id) or {}
        for row in steps:
            _add(lives, _step(lives, row, run))
    for place, row in live_items(history):
        if row.get("step") is None:
            lives.runs[row["run_id"]].append((place, row))
            name = (row["run_id"], None)
            if name not in lives.units and not row.get("pipeline_id"):
                _add(lives, Unit(name, row["work_id"], row, None, None, False, False, row["tool"]))
        else:
            lives.places[row["work_id"]].append((place, row))

    for unit in lives.units.values():
        unit.settles = list(_settles(unit, lives.journal.get(unit.name[0], ())))
        for settle in unit.settles:
            if settle.token:
                lives.by_token[settle.token].append((unit, settle))
    object.__setattr__(history, "_lives", lives)
    return lives


def _add(lives: Lives, unit: Unit) -> None:
    lives.units[unit.name] = unit
    if unit.work:
        lives.by_work[unit.work] = unit


def _step(lives: Lives, row: Row, run: Row) -> Unit:
    definition = lives.definitions.get((run.get("pipeline_id") or "", row["defined_by"])) or {}
    tool = str(definition.get("tool") or "")
    if row.get("kind") == "rollback":
        undo = definition.get("on_rollback") or {}
        tool = undo.get("uses") or tool
        # Its own count of attempts, and no timeout or delays that a table tells.
        definition = {"max_attempts": (undo.get("retry_count") or 3), "tool": tool}
    is_map = row.get("kind") is None and "map" in (definition.get("body") or {})
    return Unit((row["run_id"], row["name"]), row["step_id"], row, run, definition, True,
                is_map or tool in CONTROL, tool)  # fmt: skip


def _settles(unit: Unit, lines: Iterable[Row]) -> Iterator[Settle]:
    told: list[Settle] = []
    for line in lines:
        event = line["event"]
        if line.get("step") != unit.name[1] or event not in EVENTS:
            continue
        detail = line.get("detail") or {}
        taken_from = detail.get("taken_from")
        told.append(Settle(
            line.get("attempt") or 0, seconds(line["at"]) or 0.0, event,
            line.get("lease_id") or taken_from, seconds(detail.get("started_at")),
            seconds(detail.get("run_at")), taken_from is not None, line,
        ))  # fmt: skip
    last = _last(unit, told)
    if last is not None:
        told.append(last)
    yield from told


def _last(unit: Unit, told: list[Settle]) -> Settle | None:
    """Return the end of the last attempt, where no line tells of it; mend what its line lacks."""
    row = unit.row
    anew = max((n for n, s in enumerate(told) if s.event in ANEW), default=-1)
    same = [s for s in told[anew + 1 :] if s.is_attempt and s.attempt == row.get("attempt")]
    if unit.is_step:
        if not row.get("attempt") or not row.get("lease_id") or same:
            return None
        event = "waiting" if unit.is_control else row["state"]
        told_as = {"resolved_manually": "waiting", "ready": "waiting", "error": "failed"}
        event = told_as.get(event, event)
    else:
        if row.get("state") not in TERMINAL:
            return None
        for settle in told:
            is_end = settle.event == "cancelled" or (
                settle.event in FAILURES and settle.run_at is None
            )
            if is_end:
                settle.started = settle.started or seconds(row.get("started_at"))
                settle.token = settle.token or row.get("lease_id")
                if settle.event == "cancelled" and row.get("started_at") is None:
                    settle.event = "withdrawn"  # it waited: no attempt was ended by it
                return None
        event = row["state"]
    return Settle(
        row["attempt"], seconds(row.get("finished_at")) or seconds(row.get("started_at")) or 0.0,
        event, row.get("lease_id"), seconds(row.get("started_at")), None, False, row,
    )  # fmt: skip
