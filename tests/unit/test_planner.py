"""The planner on a database whose clock the test turns: plan, tick, and look at what fired."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ordinaut import Ordinaut, calls, db, planner
from ordinaut.recurrence import InvalidSchedule, parse, tzdata_version


class World:
    """One connection, one clock; `run_until` is a scheduler's loop without the waiting."""

    def __init__(self, conn: db.Connection) -> None:
        self.conn = conn

    def at(self, when: str | datetime) -> datetime:
        self.conn.execute("select set_config('test.now', %s, false)", [str(when)])
        found = self.conn.execute("select ordinaut.now()").fetchone()
        assert found
        return found[0]

    def create(self, name: str, kind: str, expr: str, **arguments: Any) -> None:
        calls.create_task(
            self.conn, name, "echo", schedule_kind=kind, schedule_expr=expr, **arguments
        )

    def plan(self) -> None:
        while planner.step(self.conn)[0]:
            calls.tick(self.conn)

    def settle(self) -> None:
        """Plan and tick until nothing is due."""
        while True:
            self.plan()
            done = calls.tick(self.conn)
            if not done.fired and not done.missed and not calls.unplanned_tasks(self.conn):
                return

    def run_until(self, end: str) -> None:
        stop = datetime.fromisoformat(end)
        while True:
            self.plan()
            done = calls.tick(self.conn)
            if done.next_run is None or done.next_run > stop:
                break
            if done.next_run > done.at:
                self.at(done.next_run)
        self.at(stop)
        self.settle()

    def decisions(self, name: str, zone: str = "UTC") -> list[str]:
        rows = self.conn.execute(
            "select to_char(o.scheduled_for at time zone %s, 'DD HH24:MI'), o.decision, o.dst"
            " from ordinaut.occurrence as o join ordinaut.task as t using (task_id)"
            " where t.name = %s order by o.scheduled_for",
            [zone, name],
        ).fetchall()
        return [" ".join(filter(None, row)) for row in rows]


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with db.connect(dsn, name="test") as conn:
        world = World(conn)
        world.at("2026-06-01 12:00:00+00")
        yield world


NEW_YORK = "America/New_York"


@pytest.mark.parametrize(
    ("kind", "expr", "policy", "night", "expected"),
    [
        ("cron", "30 2 * * *", {}, "2026-03-07",
         ["07 02:30 fired", "08 03:00 fired gap: 2026-03-08 02:30:00 was skipped",
          "09 02:30 fired"]),
        ("cron", "30 2 * * *", {"dst_gap": "skip"}, "2026-03-07",
         ["07 02:30 fired", "09 02:30 fired"]),
        ("cron", "30 1 * * *", {}, "2026-10-31",
         ["31 01:30 fired", "01 01:30 fired overlap first", "02 01:30 fired"]),
        ("cron", "30 1 * * *", {"dst_overlap": "both"}, "2026-10-31",
         ["31 01:30 fired", "01 01:30 fired overlap first", "01 01:30 fired overlap second",
          "02 01:30 fired"]),
        ("rrule", "FREQ=DAILY;BYHOUR=2;BYMINUTE=30;BYSECOND=0", {}, "2026-03-07",
         ["07 02:30 fired", "08 03:30 fired gap: 2026-03-08 02:30:00 was skipped",
          "09 02:30 fired"]),
        ("rrule", "FREQ=DAILY;BYHOUR=1;BYMINUTE=30;BYSECOND=0", {"dst_overlap": "second"},
         "2026-10-31",
         ["31 01:30 fired", "01 01:30 fired overlap second", "02 01:30 fired"]),
    ],
)  # fmt: skip
def test_the_nights_of_new_york(world, kind, expr, policy, night, expected):
    start = datetime.fromisoformat(f"{night} 05:00:00+00:00")
    world.at(start)
    world.create("t", kind, expr, timezone=NEW_YORK, **policy)

    world.run_until(f"{start + timedelta(days=3)}")

    assert world.decisions("t", NEW_YORK) == expected


@pytest.mark.parametrize(("night", "hours"), [("2026-03-08", 23), ("2026-11-01", 25)])
@pytest.mark.parametrize(("kind", "expr"), [("cron", "0 * * * *"), ("rrule", "FREQ=HOURLY")])
def test_a_day_has_as_many_hours_as_it_has(world, kind, expr, night, hours):
    at = world.conn.execute(
        "select %s::timestamp at time zone %s", [f"{night} 00:00", NEW_YORK]
    ).fetchone()[0]
    world.at(at - timedelta(seconds=1))
    world.create("t", kind, expr, timezone=NEW_YORK, start_at=at - timedelta(days=1))

    world.run_until(str(at + timedelta(hours=hours) - timedelta(seconds=1)))

    assert len(world.decisions("t")) == hours


@pytest.mark.parametrize(
    ("catchup", "fired", "missed"), [("all", 72, 0), ("latest", 1, 71), ("none", 1, 71)]
)
def test_an_outage_of_three_days_is_caught_up_with(world, catchup, fired, missed):
    world.create("t", "cron", "0 * * * *", catchup=catchup)
    world.settle()
    world.at("2026-06-04 12:00:30+00")

    world.settle()

    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.missed_count) == (fired, missed)
    assert len(world.decisions("t")) == 72
    assert str(task.next_run) == "2026-06-04 13:00:00+00:00"


def test_a_long_outage_is_planned_piece_by_piece(world):
    world.create("t", "cron", "* * * * * *")
    world.settle()
    world.at("2026-06-01 13:00:00+00")
    calls.tick(world.conn)

    assert planner.step(world.conn)[0]  # a thousand seconds, and there are more
    assert not planner.step(world.conn)[0]  # not before these are used
    calls.tick(world.conn)
    world.settle()

    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.missed_count) == (1, 3599)


def test_what_sql_lets_pass_and_no_calendar_is_becomes_invalid_alone(world):
    world.create("february", "cron", "0 0 30 2 *")
    world.create("far", "cron", "99 * * * *")
    world.create("zone", "rrule", "FREQ=DAILY;TZID=1")
    world.create("good", "cron", "* * * * *")

    world.plan()

    tasks = {t.name: t for t in calls.list_tasks(world.conn)}
    assert {n: t.status for n, t in tasks.items()} == {
        "february": "invalid", "far": "invalid", "zone": "invalid", "good": "active"
    }  # fmt: skip
    assert "30" in (tasks["february"].status_note or "")
    assert "99" in (tasks["far"].status_note or "")
    assert tasks["good"].next_run is not None
    [reason, *_] = calls.why(world.conn, "far")
    assert reason.reason == "task_invalid"


def test_a_plan_that_cannot_be_stored_makes_its_task_invalid_alone(world):
    world.conn.execute(
        "alter table ordinaut.task_schedule add constraint full_of_ones"
        " check (extract(minute from planned_until) is distinct from 10)"
    )
    world.create("bad", "cron", "11 * * * *")  # planned until a moment before
    world.create("good", "cron", "12 * * * *")

    world.plan()

    assert calls.get_task(world.conn, "good").next_run is not None
    bad = calls.get_task(world.conn, "bad")
    assert bad.status == "invalid"
    assert "full_of_ones" in (bad.status_note or "")


def test_an_edit_is_planned_anew_and_the_old_calendar_never_fires(world):
    world.create("t", "cron", "*/5 * * * *")
    world.settle()
    world.at("2026-06-01 12:07:00+00")
    calls.update_task(world.conn, "t", {"schedule_expr": "*/20 * * * *"})
    assert calls.tick(world.conn).fired == 0

    world.run_until("2026-06-01 12:41:00+00")

    assert world.decisions("t") == ["01 12:20 fired", "01 12:40 fired"]


def test_other_edits_keep_the_plan(world):
    world.create("t", "cron", "0 * * * *")
    world.plan()
    calls.update_task(world.conn, "t", {"priority": 1})

    assert calls.unplanned_tasks(world.conn) == []
    assert calls.get_task(world.conn, "t").next_run is not None


def test_new_time_zone_data_replans_and_repeats_nothing(world):
    world.create("t", "cron", "* * * * *")
    world.run_until("2026-06-01 12:03:30+00")
    world.conn.execute("update ordinaut.task_schedule set tzdata = '1999a'")

    assert calls.outdate_plans(world.conn, tzdata_version()) == 1
    world.run_until("2026-06-01 12:05:30+00")

    assert world.decisions("t") == [f"01 12:0{n} fired" for n in range(1, 6)]
    assert calls.outdate_plans(world.conn, tzdata_version()) == 0


def test_start_end_count_and_the_end_of_all(world):
    world.create("t", "cron", "0 * * * *", start_at="2026-06-01 14:00Z", end_at="2026-06-01 16:00Z")
    world.create("r", "rrule", "FREQ=HOURLY;COUNT=3", start_at="2026-06-01 11:30Z")
    world.create("never", "rrule", "FREQ=DAILY;COUNT=3", start_at="2020-01-01 00:00Z")

    world.run_until("2026-06-01 20:00:00+00:00")

    assert world.decisions("t") == ["01 14:00 fired", "01 15:00 fired", "01 16:00 fired"]
    assert world.decisions("r") == ["01 12:30 fired", "01 13:30 fired"]
    assert world.decisions("never") == []
    for name in ("t", "r", "never"):
        assert calls.why(world.conn, name)[0].reason == "exhausted"


def test_a_plan_reaches_ten_minutes_or_sixteen_occurrences_and_ends():
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    every_second = planner.plan(parse("cron", "* * * * * *", "UTC"), now, None, now)
    daily = planner.plan(parse("cron", "@daily", "UTC"), now, None, now)
    late = planner.plan(parse("cron", "* * * * * *", "UTC"), now - timedelta(days=3), None, now)

    assert every_second.upcoming[-1] > now + timedelta(minutes=10)
    assert every_second.planned_until == every_second.upcoming[-1] + timedelta(microseconds=999999)
    assert len(daily.upcoming) == 16
    assert len(late.upcoming) == 1000
    assert not (every_second.exhausted or daily.exhausted or late.exhausted)


def test_python_refuses_a_calendar_before_it_is_stored(dsn):
    with Ordinaut(dsn) as ordinaut:
        with pytest.raises(InvalidSchedule, match="day of month"):
            ordinaut.create_task("t", "echo", schedule_kind="cron", schedule_expr="0 0 30 2 *")
        with pytest.raises(InvalidSchedule, match="timezone"):
            ordinaut.create_task(
                "t", "echo", schedule_kind="cron", schedule_expr="@daily", timezone="Mars/Base"
            )
        ordinaut.create_task("t", "echo", schedule_kind="cron", schedule_expr="@daily")
