"""What could make a schedule stop without a word, tried: each goes on, or `why` says why not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ordinaut import calls, db
from tests.travel import World

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    with db.connect(dsn, name="test") as conn:
        yield World(conn, NOON)


def create(world: World, name: str, expr: str, kind: str = "cron", **arguments) -> None:
    calls.create_task(world.conn, name, "echo", schedule_kind=kind, schedule_expr=expr, **arguments)


def hours(world: World, name: str) -> list[str]:
    rows = world.rows(
        "select o.scheduled_for as at, o.decision from ordinaut.occurrence as o"
        " join ordinaut.task as t using (task_id) where t.name = %s order by 1",
        name,
    )
    return [f"{row.at:%d %H:%M} {row.decision}" for row in rows]


def reasons(world: World, name: str) -> list[str]:
    return [row.reason for row in calls.why(world.conn, name)]


@pytest.mark.parametrize(("catchup", "missed"), [("all", 0), ("latest", 7), ("none", 7)])
def test_ticks_without_a_planner_use_the_plan_up_and_nothing_is_lost(world, catchup, missed):
    create(world, "t", "0 * * * *", catchup=catchup)
    world.schedule()
    for n in range(24):
        world.at(NOON + (n + 1) * HOUR)
        calls.tick(world.conn)

    assert hours(world, "t") == [f"{NOON + n * HOUR:%d %H:%M} fired" for n in range(1, 17)]
    assert "not_planned" in reasons(world, "t")

    world.schedule()
    assert len(hours(world, "t")) == 24
    assert calls.get_task(world.conn, "t").missed_count == missed


def test_a_clock_that_ran_ahead_and_came_back(world):
    """What was decided stays decided; an edit, or a pause and resume, begins at the true time."""
    for name in ("left", "edited", "resumed"):
        create(world, name, "0 0 * * *", catchup="none")
    create(world, "interval", "1 day", "interval", catchup="none")
    world.schedule()
    world.at(NOON + 100 * DAY)
    world.schedule()
    world.at(NOON + HOUR)
    world.schedule()
    assert calls.get_task(world.conn, "left").next_run > NOON + 100 * DAY
    assert reasons(world, "left")[0] == "not_due"

    calls.update_task(world.conn, "edited", {"schedule_expr": "0 1 * * *"})
    calls.pause_task(world.conn, "resumed")
    calls.resume_task(world.conn, "resumed")
    world.schedule()

    assert calls.get_task(world.conn, "edited").next_run == NOON + 13 * HOUR
    assert calls.get_task(world.conn, "resumed").next_run == NOON + 12 * HOUR
    world.at(NOON + 13 * HOUR)
    world.schedule()
    assert hours(world, "edited")[1] == "02 01:00 fired"


def test_every_second_for_an_hour(world):
    create(world, "t", "* * * * * *", catchup="all")
    world.run_until(NOON + timedelta(minutes=12))

    assert calls.get_task(world.conn, "t").fired_count == 720


@pytest.mark.parametrize("kind", ["cron", "interval", "rrule"])
def test_a_start_far_ahead_an_end_and_nothing_after_it(world, kind):
    start = datetime(2199, 12, 30, tzinfo=UTC)
    expr = {"cron": "0 * * * *", "interval": "1 hour", "rrule": "FREQ=HOURLY"}[kind]
    create(world, "t", expr, kind, start_at=start, end_at=start + 3 * HOUR)
    world.schedule()
    assert calls.get_task(world.conn, "t").next_run == start
    assert reasons(world, "t")[0] == "not_due"

    world.run_until(start + 5 * HOUR)

    assert [line[3:] for line in hours(world, "t")] == [f"0{n}:00 fired" for n in range(4)]
    assert reasons(world, "t")[0] == "exhausted"


@pytest.mark.parametrize(
    ("kind", "expr"),
    [("cron", "0 * * * *"), ("rrule", "FREQ=HOURLY;UNTIL=20260601T100000Z"), ("once", "")],
)
def test_a_schedule_that_is_over_before_it_begins(world, kind, expr):
    arguments = {"end_at": NOON + HOUR / 2} if kind == "cron" else {"start_at": NOON - 9 * HOUR}
    if kind == "once":
        expr, arguments = "2026-06-01T11:00", {"allow_past": True, "catchup": "none"}
    create(world, "t", expr, kind, **arguments)
    world.run_until(NOON + DAY)

    assert calls.get_task(world.conn, "t").fired_count == 0
    assert reasons(world, "t")[0] == "exhausted"


def test_whatever_made_a_task_invalid_an_edit_is_tried(world):
    create(world, "t", "0 0 30 2 *")
    world.schedule()
    assert reasons(world, "t")[0] == "task_invalid"

    calls.update_task(world.conn, "t", {"description": "still wrong"})
    world.schedule()
    assert reasons(world, "t")[0] == "task_invalid"

    calls.update_task(world.conn, "t", {"schedule_expr": "0 * * * *"})
    world.run_until(NOON + HOUR)
    assert hours(world, "t") == ["01 13:00 fired"]


def test_new_zone_data_while_paused_snoozed_or_ended(world):
    for name in ("runs", "paused", "snoozed"):
        create(world, name, "0 * * * *")
    create(world, "ended", "0 * * * *", end_at=NOON + HOUR)
    world.run_until(NOON + 2 * HOUR)
    calls.pause_task(world.conn, "paused")
    calls.snooze_task(world.conn, "snoozed", 3 * HOUR)
    calls.outdate_plans(world.conn, "9999z")
    world.run_until(NOON + 4 * HOUR)
    calls.resume_task(world.conn, "paused")
    world.run_until(NOON + 7 * HOUR)

    assert [line[3:5] for line in hours(world, "runs")] == [
        "13",
        "14",
        "15",
        "16",
        "17",
        "18",
        "19",
    ]
    assert [line[3:5] for line in hours(world, "paused")] == ["13", "14", "17", "18", "19"]
    assert [line[3:5] for line in hours(world, "snoozed")] == ["13", "14", "18", "19"]
    assert reasons(world, "ended")[0] == "exhausted"


def test_a_zone_that_the_server_lost_stops_its_task_alone(world):
    calls.set_calendar(world.conn, "holidays", {"dates": ["2026-06-03"]})
    create(world, "lost", "2026-06-04T12:00", "once", exclude=["holidays"])
    create(world, "found", "0 * * * *")
    world.conn.execute("update ordinaut.task set timezone = 'Mars/Base' where name = 'lost'")
    world.schedule()

    assert calls.get_task(world.conn, "found").next_run == NOON + HOUR
    assert reasons(world, "lost")[0] == "task_invalid"
    assert "Mars/Base" in calls.why(world.conn, "lost")[0].detail
