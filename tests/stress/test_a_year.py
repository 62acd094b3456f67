"""
A year in seconds: the whole engine steps through 2026 by time travel (tests/travel.py).

Sparse tasks run all year; dense ones around the two nights on which each zone's clocks change, by
every DST policy.  In July nobody plans or ticks for three days; a second test is dense around
these, with every pair of overlap and catch-up, and the policies beside them.

Afterwards each task's occurrences are exactly its calendar's, and what became of each is what
`judge` says, which knows nothing of the engine but the documented policies and the witness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, groupby, pairwise, product, takewhile
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from ordinaut import calls, db
from ordinaut.recurrence import Occurrence, parse
from tests.travel import Run, World

BEGIN = datetime(2026, 1, 4, 12, tzinfo=UTC)
END = BEGIN + timedelta(days=365)
JULY = datetime(2026, 7, 12, 12, tzinfo=UTC)
OUTAGE = datetime(2026, 7, 14, 9, 20, tzinfo=UTC), datetime(2026, 7, 17, 9, 20, 30, tzinfo=UTC)
HOUR, DAY, MICROSECOND = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
GRACE = timedelta(minutes=1)

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca",
    "America/Havana", "America/Santiago", "Africa/Cairo", "Pacific/Auckland",
]  # fmt: skip
ODD = ("Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo")  # at 2, by half an hour, at midnight
POLICIES = list(product((None, "shift", "skip"), (None, "first", "second", "both")))
OVERLAPS = ("allow", "skip", "buffer_one", "buffer_all", "cancel_other")
BESIDE: list[dict[str, Any]] = [
    {},
    {"catchup_window": DAY},
    {"catchup_rate": 2},
    {"jitter": timedelta(minutes=20)},
    {"max_runs": 12},
    {"pause_on_failure": 3},
]


@dataclass(slots=True)
class Spec:
    kind: str
    expr: str | None
    timezone: str
    policy: dict[str, Any]
    takes: float = 0
    fails: bool = False

    def create(self, conn: db.Connection, name: str) -> UUID:
        return calls.create_task(
            conn, name, "echo", {"takes": self.takes, "fails": self.fails},
            schedule_kind=self.kind, schedule_expr=self.expr, timezone=self.timezone,
            **self.policy,
        )  # fmt: skip

    def calendar(self, created: datetime, end: datetime) -> list[Occurrence]:
        """Its occurrences from its creation to `end`, by the calendar alone."""
        if self.kind == "manual":
            return []
        start = self.policy.get("start_at")
        dst = {k: v for k, v in self.policy.items() if k.startswith("dst_")}
        schedule = parse(
            self.kind, self.expr or "", self.timezone, dtstart=start or created, **dst
        )  # fmt: skip
        end = min(self.policy.get("end_at") or end, end)
        # Without a start of its own an interval begins one duration after its creation.
        found = schedule.walk(start - MICROSECOND if start else created)
        return list(takewhile(lambda o: o.at <= end, found))


def nights(zone: str) -> list[datetime]:
    """When the zone's clocks change this year."""
    if zone == "UTC":
        return nights("Europe/Berlin")
    hours = [datetime(2026, 1, 5, tzinfo=UTC) + n * HOUR for n in range(360 * 24)]
    offset = {at: at.astimezone(ZoneInfo(zone)).utcoffset() for at in hours}
    return [b for a, b in pairwise(hours) if offset[a] != offset[b]]


def sparse() -> Iterator[Spec]:
    for zone in ZONES:
        yield Spec("cron", "30 2 * 2-4,9-11 SUN", zone, {})
        yield Spec("cron", "0 0 L * *", zone, {"catchup": "all"})
        yield Spec("rrule", "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=9;BYMINUTE=0;BYSECOND=0", zone, {})
    yield Spec("cron", "0 0 * * MON,SUN", "Europe/Berlin", {})
    yield Spec("rrule", "FREQ=WEEKLY;BYDAY=SU;BYHOUR=2;BYMINUTE=15", "Australia/Lord_Howe", {})
    yield Spec("cron", "0 9 LW * ?", "America/New_York", {"catchup": "all"})
    yield Spec("cron", "15 10 ? * MON#2", "Africa/Cairo", {"catchup": "none"})
    yield Spec("interval", "7 days", "UTC", {})
    yield Spec("interval", "200 hours", "UTC", {"start_at": BEGIN + 40 * DAY + HOUR / 3})
    yield Spec("rrule", "FREQ=WEEKLY;COUNT=5", "UTC", {"start_at": BEGIN + 3 * DAY})
    yield Spec("rrule", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=28,29", "UTC", {})
    yield Spec("cron", "0 12 1 * *", "UTC", {"end_at": BEGIN + 150 * DAY})
    yield Spec("cron", "0 0 29 2 *", "UTC", {})  # not before 2028
    yield Spec("cron", "0 6 * 12 *", "Europe/Berlin", {"start_at": BEGIN + 330 * DAY})
    yield Spec("manual", None, "UTC", {})
    for wall in ("2026-03-29T02:30", "2026-10-25T02:30", "2026-12-31T23:59:59"):
        yield Spec("once", wall, "Europe/Berlin", {})
    for catchup in ("all", "latest", "none"):
        yield Spec("once", "2026-07-15T12:00", "UTC", {"catchup": catchup})


def around_the_nights() -> Iterator[Spec]:
    for zone in ZONES:
        for night in nights(zone):
            window = {"start_at": night - 26 * HOUR, "end_at": night + 10 * HOUR}
            for gap, overlap in POLICIES if zone in ODD else POLICIES[::5]:
                policy = {"dst_gap": gap, "dst_overlap": overlap, **window}
                yield Spec("cron", "5,35 23,0-2 * * *", zone, policy)
                yield Spec("cron", "*/30 23,0-2 * * *", zone, policy)
                rule = "FREQ=DAILY;BYHOUR=0,2,23;BYMINUTE=0,15;BYSECOND=0"
                yield Spec("rrule", rule, zone, policy)
            yield Spec("rrule", "FREQ=HOURLY;INTERVAL=2", zone, window)
            yield Spec("interval", "3 hours", zone, window)


def around_the_outage() -> Iterator[Spec]:
    window = {"start_at": OUTAGE[0] - 15 * HOUR - MICROSECOND, "end_at": OUTAGE[1] + 27 * HOUR}
    hourly = cycle([
        ("cron", "0 * * * *"), ("interval", "1 hour"), ("rrule", "FREQ=HOURLY;BYMINUTE=30"),
    ])  # fmt: skip
    for overlap, catchup, beside in product(OVERLAPS, ("all", "latest", "none"), BESIDE):
        policy = {"overlap": overlap, "catchup": catchup, **beside, **window}
        kind, expr = next(hourly)
        if "jitter" in beside:  # each starts at moments of its own
            kind, expr = "cron", "*/15 */6 * * *"
        yield Spec(kind, expr, "UTC", policy, 5400, "pause_on_failure" in beside)
        yield Spec(kind, expr, "UTC", policy)
    close = {"start_at": OUTAGE[0] - HOUR / 6, "end_at": OUTAGE[1] + HOUR / 6}
    # More than a plan holds, and than a tick takes.
    for catchup in ("all", "latest", "none"):
        yield Spec("cron", "*/3 * * * *", "UTC", {"catchup": catchup, **close})
    yield Spec("interval", "3 min", "UTC", {"catchup": "latest", **close})
    window = {"catchup": "all", "catchup_window": HOUR}
    yield Spec("cron", "0 * * * * *", "UTC", {**window, **close})
    yield Spec("interval", "1 min", "UTC", {**window, **close})


def decided_at(at: datetime) -> datetime:
    return OUTAGE[1] if OUTAGE[0] < at < OUTAGE[1] else at


def judge(spec: Spec, rows: list[Any], runs: dict[UUID, Run]) -> list[tuple[str, bool]]:
    """Say of each occurrence what ought to have become of it, and whether a reason is due."""
    overlap = spec.policy.get("overlap", "allow")
    catchup = spec.policy.get("catchup", "latest")
    window = spec.policy.get("catchup_window") or timedelta.max
    n_run, verdicts = 0, []
    ends: list[tuple[datetime, int]] = []  # of those that may be live
    for now, group in groupby(rows, lambda row: row.decided_at):
        batch = list(group)
        ends = [end for end in ends if end >= (now, 1)]
        ahead = len(ends) - 1
        for row in batch:
            late = now - row.scheduled_for
            if (
                late > window
                or (catchup == "latest" and row is not batch[-1])
                or (catchup == "none" and late > GRACE)
            ):
                verdicts.append(("missed", True))
                continue
            ahead += 1
            verdict = "fired"
            if overlap == "skip" and ahead:
                verdict = "skipped"
            elif overlap == "buffer_one" and ahead:
                verdict = "buffered" if ahead == 1 else "dropped"
            elif overlap == "buffer_all" and ahead:
                verdict = "buffered"
            elif overlap == "cancel_other" and row is not batch[-1]:
                # Of what is made up for in several chunks, the last of each fires.
                verdict = "fired" if row.run_id else "skipped"
            if verdict in ("fired", "buffered"):
                n_run += 1
                if n_run > spec.policy.get("max_runs", n_run):
                    verdict = "dropped"
            verdicts.append((verdict, verdict != "fired"))
        ends += [runs[row.run_id].ended for row in batch if row.run_id]
    return verdicts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "end", "made"),
    [
        (BEGIN, END, [*sparse(), *around_the_nights()]),
        (JULY, JULY + 20 * DAY, [*around_the_outage()]),
    ],
    ids=["year", "outage"],
)
def test_a_year(dsn: str, begin: datetime, end: datetime, made: list[Spec]) -> None:
    specs = {f"{n:03}": spec for n, spec in enumerate(made)}
    with db.connect(dsn, name="test", statement_timeout=None) as conn:
        world = World(conn, begin)
        ids = {spec.create(conn, name): name for name, spec in specs.items()}
        world.run_until(OUTAGE[0])
        with world.outage():
            world.at(OUTAGE[0] + MICROSECOND)
            world.run_until(OUTAGE[1] - MICROSECOND)
        world.at(OUTAGE[1])
        world.run_until(end)

        tasks = {name: calls.get_task(conn, name) for name in specs}
        occurrences = world.rows("select * from ordinaut.occurrence order by scheduled_for")
        finished = world.rows("select * from ordinaut.task_run")
        assert world.rows("select * from ordinaut.work where finished_at is null") == []

    rows: dict[str, list[Any]] = {name: [] for name in specs}
    for row in occurrences:
        rows[ids[row.task_id]].append(row)
    runs: dict[str, dict[UUID, Run]] = {name: {} for name in specs}
    for row in finished:
        run = world.worker.runs.get(row.run_id)
        if run is None:  # cancelled by tick while it waited
            assert row.state == "cancelled"
            at = row.finished_at
            run = Run(row.task_id, row.scheduled_for, at, at, row.state, (at, 1))
        runs[ids[row.task_id]][row.run_id] = run
    faults = [
        f"{spec}: {fault}"
        for name, spec in specs.items()
        for fault in check(
            spec, spec.calendar(begin, end), tasks[name], rows[name], runs[name], end
        )
    ]
    assert not faults, "\n".join(faults)


def check(
    spec: Spec,
    calendar: list[Occurrence],
    task: Any,
    rows: list[Any],
    runs: dict[UUID, Run],
    end: datetime,
) -> Iterator[str]:
    """Every promise to this task that was broken."""
    instants = [o.at for o in calendar]
    found = [row.scheduled_for for row in rows]
    is_cut = task.status == "paused" or "max_runs" in spec.policy
    if found != (instants[: len(found)] if is_cut else instants):
        odd = sorted(set(found) ^ set(instants))
        yield f"{len(found)} occurrences, not {len(instants)}: {odd[:3]}"
        return
    for row, occurrence in zip(rows, calendar, strict=False):
        if row.decided_at != decided_at(row.scheduled_for):
            yield f"{row.scheduled_for} was decided at {row.decided_at}"
        # SQL expands an interval and a once itself, and has nothing to say of the clocks.
        note = occurrence.note if spec.kind in ("cron", "rrule") else None
        if (row.dst or "").partition(":")[0] != (note or ""):
            yield f"{row.scheduled_for} is {row.dst}, not {note}"

    for row, (verdict, has_reason) in zip(rows, judge(spec, rows, runs), strict=True):
        if row.decision != verdict or bool(row.reason) != has_reason:
            yield f"{row.scheduled_for} was {row.decision} ({row.reason}), not {verdict}"
    decisions = Counter(row.decision for row in rows)
    for decision in ("fired", "missed", "skipped", "buffered", "dropped"):
        if getattr(task, f"{decision}_count") != decisions[decision]:
            yield f"{decision}_count is {getattr(task, f'{decision}_count')}: {decisions}"
    if sorted(runs) != sorted(row.run_id for row in rows if row.run_id):
        yield f"{len(runs)} runs, {decisions}"
        return
    yield from check_runs(spec, rows, instants, runs)

    n_run = decisions["fired"] + decisions["buffered"]
    if n_run > spec.policy.get("max_runs", n_run):
        yield f"{n_run} runs"
    # What is cancelled has not failed.
    if spec.fails and (task.status == "paused") == (spec.policy["overlap"] == "cancel_other"):
        yield f"it is {task.status} after {n_run} failures"
    is_over = n_run == spec.policy.get("max_runs") or task.next_run is None
    if spec.kind != "manual" and task.status != "paused":
        if (task.status == "completed") != is_over:
            yield f"it is {task.status}: {task.status_note}"
        if task.status == "active" and not task.next_run > end:
            yield f"its next run is {task.next_run}"


def check_runs(
    spec: Spec, rows: list[Any], instants: list[datetime], runs: dict[UUID, Run]
) -> Iterator[str]:
    """When its runs started and ended."""
    after = dict(pairwise(instants))
    jitter = spec.policy.get("jitter", timedelta())
    for row in rows:
        run = runs.get(row.run_id)
        if run is None:
            continue
        if run.scheduled_for != row.scheduled_for or run.began < run.run_at or not run.ended:
            yield f"{row.scheduled_for}: {run}"
        if run.outcome == "cancelled" and spec.policy.get("overlap") != "cancel_other":
            yield f"{row.scheduled_for} was cancelled"
        latest = after.get(row.scheduled_for, row.scheduled_for + 2 * jitter)
        if jitter and row.decided_at == row.scheduled_for and row.decision == "fired":
            moved = run.run_at - row.scheduled_for
            if not timedelta() <= moved <= jitter or run.run_at >= latest:
                yield f"{row.scheduled_for} ran at {run.run_at}"
    if spec.policy.get("overlap", "allow") != "allow":
        spans = sorted((r.began, r.ended) for r in runs.values())
        if any((began, 1) < ended for (_, ended), (began, _) in pairwise(spans)):
            yield f"two runs at once: {spans}"
    if rate := spec.policy.get("catchup_rate"):
        made_up = sorted(
            runs[row.run_id].run_at
            for row in rows
            if row.run_id
            and row.decided_at != row.scheduled_for
            and runs[row.run_id].outcome != "cancelled"
        )
        step = timedelta(minutes=1) / rate
        if any(b - a < step - MICROSECOND for a, b in pairwise(made_up)):
            yield f"made up for too fast: {made_up[:4]}"
