"""
The simulation decides as the engine does: row by row, over nine days with a night on which the
clocks change, an outage of a day and one of minutes, for every pair of overlap and catch-up.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle, product
from typing import Any
from uuid import UUID

import pytest

from ordinaut import calls, db, planner
from ordinaut.recurrence import InvalidSchedule
from ordinaut.simulation import MAX_OCCURRENCES, Fate, simulate, subject
from tests.travel import World

MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEGIN = datetime(2026, 3, 22, 12, tzinfo=UTC)
OUTAGES = [
    (datetime(2026, 3, 24, 9, 20, tzinfo=UTC), datetime(2026, 3, 25, 9, 30, 30, tzinfo=UTC)),
    (datetime(2026, 3, 31, 9, 59, tzinfo=UTC), datetime(2026, 3, 31, 10, 2, tzinfo=UTC)),
]
END = datetime(2026, 3, 31, 14, tzinfo=UTC)
OVERLAPS = ("allow", "skip", "buffer_one", "buffer_all", "cancel_other")
CATCHUPS = ("all", "latest", "none")
QUIET = {
    "name": "quiet", "timezone": "Europe/Berlin", "dates": ["2026-03-27"],
    "weekly": [
        {"days": "*", "from": "22:00", "to": "01:00"},
        {"days": "WED", "from": "10:00", "to": "11:00"},  # when the first outage ends
        {"days": "SAT", "from": "05:45", "to": "05:55"},  # when a plan of a thousand does
    ],
}  # fmt: skip


class Prompt(World):
    """Has planned everything when it ticks, however long that takes: a tick may use an old plan."""

    def schedule(self) -> None:
        while calls.unplanned_tasks(self.conn):
            planner.step(self.conn)
        super().schedule()


@dataclass
class Spec:
    kind: str
    expr: str
    policy: dict[str, Any] = field(default_factory=dict)
    takes: timedelta = timedelta()
    timezone: str = "Europe/Berlin"

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "schedule_kind": self.kind, "schedule_expr": self.expr, "timezone": self.timezone,
            **self.policy,
        }  # fmt: skip


# All at half hours, and runs end there: an instant costs the engine's steps, however many are due.
DAILY = "30 0-4,8-20/2 * * *"
UNION = (
    '[{"kind": "cron", "expr": "0 */3 * * *"}, {"kind": "interval", "expr": "150 min"},'
    ' {"kind": "once", "expr": "2026-03-29T03:00"}]'
)


def specs() -> Iterator[Spec]:
    takes = cycle([90 * MINUTE, timedelta(), 210 * MINUTE])
    for overlap, catchup in product(OVERLAPS, CATCHUPS):
        policy = {"overlap": overlap, "catchup": catchup}
        yield Spec("interval", "90 min", policy, 150 * MINUTE)
        yield Spec("cron", DAILY, policy | {"dst_gap": "shift"}, next(takes))
        yield Spec("cron", "0,30 */2 * * *", policy | {"exclude": ["quiet"]}, next(takes))
        yield Spec("cron", DAILY, policy | {"catchup_window": 6 * HOUR, "max_runs": 48}, 3 * HOUR)
        yield Spec("interval", "3 hours phase 30 min", policy | {"grace": timedelta()}, next(takes))
        # Without grace: what is not late may start as early as the first of what is made up for.
        rate = {"catchup_rate": 2, "grace": timedelta()}
        yield Spec("union", UNION, policy | rate, next(takes))
    for overlap in OVERLAPS:
        policy = {"overlap": overlap, "catchup": "all"}
        yield Spec("cron", DAILY, policy | {"max_runs": 50})  # used up while it is made up for
        yield Spec("cron", DAILY, policy | {"jitter": 100 * MINUTE}, 2 * HOUR)
        yield Spec("interval", "5 hours", policy | {"jitter": 20 * HOUR}, HOUR)
    for catchup in CATCHUPS:
        yield Spec("interval", "5 hours after end", {"catchup": catchup}, next(takes))
        late = {"catchup": catchup, "start_at": BEGIN + DAY, "max_runs": 9}
        yield Spec("interval", "90 min after end", late, 30 * MINUTE)
        yield Spec("once", "2026-03-24T18:00", {"catchup": catchup}, 90 * MINUTE)
        yield Spec("rrule", "FREQ=HOURLY", {"key": catchup, "catchup": catchup}, next(takes))
    yield Spec("cron", "0 * * * *", {"key": "two", "key_limit": 2, "catchup": "all"}, 3 * HOUR)
    window = {"start_at": BEGIN + DAY + HOUR / 2, "end_at": BEGIN + 5 * DAY}
    yield Spec("rrule", "FREQ=HOURLY;INTERVAL=2;COUNT=40", window)
    yield Spec("interval", "150 min", {"exclude": ["quiet"], "overlap": "skip", **window}, 3 * HOUR)
    yield Spec("cron", "30 2 * * *", {"dst_gap": "skip", "max_runs": 8})
    yield Spec("cron", "30 1 * * *", {"dst_overlap": "both"}, timezone="America/Havana")


@pytest.mark.slow
def test_it_decides_as_the_engine_does(dsn: str) -> None:
    seen = compare(dsn, list(specs()), END, OUTAGES)
    assert seen.keys() == {"fired", "missed", "skipped", "buffered", "dropped", "excluded"}


@pytest.mark.slow
def test_an_outage_longer_than_a_plan(dsn: str) -> None:
    """Of a plan's thousand, the last tells nothing of the next."""
    found = [
        Spec(kind, expr, {"overlap": overlap, "catchup": catchup, **beside}, 3 * MINUTE)
        for kind, expr in (("cron", "* * * * *"), ("interval", "1 min"))
        for catchup, beside in product(("all", "latest"), ({}, {"exclude": ["quiet"]}))
        for overlap in ("buffer_one", "cancel_other")
    ]
    start = BEGIN + 10 * MINUTE
    compare(dsn, found, BEGIN + DAY, [(start, BEGIN + DAY - 10 * MINUTE)])


@pytest.mark.slow
def test_an_outage_while_another_is_made_up_for(dsn: str) -> None:
    policy = {"catchup": "all", "catchup_rate": 1, "grace": timedelta()}
    found = [
        Spec(kind, expr, {"overlap": overlap, **policy}, MINUTE / 3)
        for kind, expr in (("cron", "* * * * *"), ("interval", "1 min"))
        for overlap in OVERLAPS
    ]
    # When it ends nothing is due that could start as early as what is made up for.
    outages = [(BEGIN + a * MINUTE, BEGIN + b * MINUTE) for a, b in ((30, 55.5), (57, 65.5))]
    compare(dsn, found, BEGIN + 3 * HOUR, outages)


@pytest.mark.slow
def test_the_night_with_an_hour_twice(dsn: str) -> None:
    begin = datetime(2026, 10, 24, 12, tzinfo=UTC)
    found = [
        Spec(kind, expr, {"overlap": overlap, "dst_overlap": both}, 40 * MINUTE)
        for overlap in ("skip", "buffer_all")
        for kind, expr, both in (
            ("cron", "0,30 1-3 * * *", "both"),
            ("cron", "30 2 * * *", "second"),
            ("cron", "*/30 * * * *", None),
            ("rrule", "FREQ=HOURLY", None),
            ("interval", "30 min", None),
            ("once", "2026-10-25T02:30", None),
        )
    ]
    outage = (begin + 11 * HOUR, begin + 12.25 * HOUR)
    compare(dsn, found, begin + DAY, [outage], begin)


def compare(
    dsn: str,
    found: list[Spec],
    end: datetime,
    outages: list[tuple[datetime, datetime]],
    begin: datetime = BEGIN,
) -> Counter[str]:
    """Let the engine and the simulation live through the same, and return what was decided."""
    with db.connect(dsn, name="test", statement_timeout=None) as conn:
        world = Prompt(conn, begin)
        data = {key: QUIET[key] for key in ("dates", "weekly")}
        calls.set_calendar(conn, "quiet", data, timezone="Europe/Berlin")
        ids = [
            calls.create_task(
                conn, f"t{n}", "echo", {"takes": spec.takes.total_seconds()}, **spec.fields
            )
            for n, spec in enumerate(found)
        ]
        for start, stop in outages:
            world.run_until(start - MICROSECOND)
            with world.outage():
                world.at(start)
                world.run_until(stop - MICROSECOND)
            world.at(stop)
        world.run_until(end - MICROSECOND)
        tasks = {task_id: calls.get_task(conn, task_id) for task_id in ids}
        shares = {task_id: calls.jitter_share(conn, task_id) for task_id in ids}
        occurrences = world.rows("select * from ordinaut.occurrence order by scheduled_for")
        finished = {row.run_id: row for row in world.rows("select * from ordinaut.task_run")}

    rows: dict[UUID, list[Any]] = {task_id: [] for task_id in ids}
    for row in occurrences:
        run, done = world.worker.runs.get(row.run_id), finished.get(row.run_id)
        rows[row.task_id].append((
            row.scheduled_for, row.decision, row.reason, row.dst, row.decided_at,
            run.began if run else None,
            run.ended[0] if run and run.ended else done.finished_at if done else None,
            done.state == "cancelled" if done else False,
        ))  # fmt: skip

    faults = []
    for spec, task_id in zip(found, ids, strict=True):
        task = subject(
            dataclasses.asdict(tasks[task_id]), begin, share=shares[task_id],
            calendars=[QUIET] if "exclude" in spec.policy else (),
        )  # fmt: skip
        fates = simulate(task, begin + MICROSECOND, end, duration=spec.takes, outages=outages)
        told, happened = [told_by(fate, end) for fate in fates], rows[task_id]
        if told != happened:
            odd = [f"\n  {a}\n  {b}" for a, b in zip(told, happened, strict=False) if a != b]
            faults.append(f"{spec}: {len(told)} told, {len(happened)} rows{''.join(odd[:2])}")
    assert not faults, f"{len(faults)} of {len(found)}:\n" + "\n".join(faults[:5])
    return Counter(row.decision for row in occurrences)


def told_by(fate: Fate, end: datetime) -> tuple[Any, ...]:
    """A fate, as far as the engine knows it at the end."""
    times = [at if at and at < end else None for at in (fate.started_at, fate.ended_at)]
    return (
        fate.scheduled_for, fate.decision, fate.reason, fate.dst, fate.decided_at, *times,
        fate.is_cancelled and times[1] is not None,
    )  # fmt: skip


def play(fields: dict[str, Any], begin: str, end: str, **options: Any) -> list[Fate]:
    start = datetime.fromisoformat(begin)
    return simulate(subject(fields, start), start, datetime.fromisoformat(end), **options)


CRON = {"schedule_kind": "cron", "schedule_expr": "0 0 * * *", "timezone": "Europe/Berlin"}


def test_it_is_from_an_instant_on_and_before_another() -> None:
    fates = play(CRON, "2026-03-27T23:00Z", "2026-03-29T22:00Z")
    assert [str(fate.local) for fate in fates] == ["2026-03-28 00:00:00", "2026-03-29 00:00:00"]


def test_an_outage_that_outlasts_it_is_played_to_its_end() -> None:
    outage = (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC))
    fates = play(CRON, "2026-03-27T00:00Z", "2026-03-30T00:00Z", outages=[outage])
    assert [fate.decision for fate in fates] == ["fired", "missed", "missed"]


@pytest.mark.parametrize("kind", ["manual", "condition", None])
def test_what_nobody_knows_is_not_simulated(kind: str | None) -> None:
    with pytest.raises(InvalidSchedule, match="nobody knows when it occurs"):
        subject({"schedule_kind": kind}, BEGIN)


def test_months_in_a_window_are_refused() -> None:
    with pytest.raises(InvalidSchedule, match="catchup_window: months and years differ"):
        subject(CRON | {"catchup_window": "1 mon"}, BEGIN)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "expr"), [("cron", "* * * * * *"), ("interval", "1 s after end")])
def test_it_is_bounded(kind: str, expr: str) -> None:
    fields = {"schedule_kind": kind, "schedule_expr": expr}
    with pytest.raises(ValueError, match=f"more than {MAX_OCCURRENCES} times"):
        play(fields, "2026-03-01T00:00Z", "2026-03-20T00:00Z")


@pytest.mark.parametrize(
    ("begin", "end", "outages"),
    [(BEGIN, BEGIN, []), (BEGIN, END, [(END, BEGIN)]), (BEGIN, BEGIN + 100000 * DAY, [])],
)
def test_a_time_that_is_none_is_refused(begin: Any, end: Any, outages: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        simulate(subject(CRON, begin), begin, end, outages=outages)
