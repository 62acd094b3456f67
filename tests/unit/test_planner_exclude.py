"""Unions and exclusions through planner and tick, on a clock that the test turns."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from ordinaut import Ordinaut, calls, db, planner
from ordinaut.recurrence import Calendar, InvalidSchedule, excluding, parse
from tests.unit.test_planner import NEW_YORK, World

NIGHTS = {"weekly": [{"from": "22:00", "to": "06:00"}]}


@pytest.fixture
def world(dsn):
    """A database at noon of 1 June 2026, with the calendar nights."""
    with db.connect(dsn, name="test") as conn:
        world = World(conn)
        world.at("2026-06-01 12:00:00+00")
        calls.set_calendar(conn, "nights", NIGHTS)
        yield world


def union(*members):
    return json.dumps([{"kind": kind, "expr": expr} for kind, expr in members])


def test_a_union_fires_what_its_members_do_and_an_instant_once(world):
    members = union(
        ("cron", "0 14,16 * * *"), ("interval", "2 hours"), ("once", "2026-06-01T15:30"),
        ("rrule", "FREQ=DAILY;BYHOUR=17;BYMINUTE=0;BYSECOND=0"),
    )  # fmt: skip
    world.create("t", "union", members)

    world.run_until("2026-06-01 18:30:00+00:00")

    assert world.decisions("t") == [
        "01 14:00 fired", "01 15:30 fired", "01 16:00 fired", "01 17:00 fired", "01 18:00 fired"
    ]  # fmt: skip
    assert calls.get_task(world.conn, "t").fired_count == 5


def test_the_policy_of_summer_time_is_for_the_members_that_have_one(world):
    world.at("2026-03-08 05:00:00+00")
    world.create(
        "t", "union", union(("cron", "30 2 * * *"), ("interval", "3 hours")),
        timezone=NEW_YORK, dst_gap="skip",
    )  # fmt: skip

    world.run_until("2026-03-08 12:00:00+00:00")

    assert world.decisions("t") == ["08 08:00 fired", "08 11:00 fired"]


def test_what_is_excluded_has_a_row_with_the_reason(world):
    calls.set_calendar(world.conn, "holidays", {"dates": ["2026-06-02"]})
    world.create("t", "cron", "0 */4 * * *", exclude=["nights", "holidays"])

    world.run_until("2026-06-03 09:00:00+00:00")

    assert world.decisions("t") == [
        "01 16:00 fired", "01 20:00 fired", "02 00:00 excluded", "02 04:00 excluded",
        "02 08:00 excluded", "02 12:00 excluded", "02 16:00 excluded", "02 20:00 excluded",
        "03 00:00 excluded", "03 04:00 excluded", "03 08:00 fired",
    ]  # fmt: skip
    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.excluded_count, task.missed_count) == (3, 8, 0)
    reasons = world.conn.execute(
        "select distinct reason from ordinaut.occurrence where decision = 'excluded' order by 1"
    ).fetchall()
    assert [r for (r,) in reasons] == [
        "calendar holidays", "calendar nights", "calendar nights, holidays"
    ]  # fmt: skip


@pytest.mark.parametrize("start", [None, "2026-06-01 13:20:00.25+00"])
def test_an_interval_that_excludes_has_the_instants_that_sql_gives_it(world, start):
    calls.set_calendar(world.conn, "never", {"dates": ["2030-01-01"]})
    world.at("2026-06-01 12:00:00.123456+00")
    for name, exclude in (("plain", None), ("planned", ["never"])):
        world.create(
            name, "interval", "1 hour 30 min", exclude=exclude, catchup="all", start_at=start,
            end_at="2026-06-02 00:00:00+00",
        )  # fmt: skip

    world.run_until("2026-06-02 12:00:00+00:00")

    rows = {
        name: world.conn.execute(
            "select o.scheduled_for, o.decision from ordinaut.occurrence as o"
            " join ordinaut.task as t using (task_id) where t.name = %s order by 1",
            [name],
        ).fetchall()
        for name in ("plain", "planned")
    }
    assert rows["plain"] == rows["planned"]
    assert len(rows["plain"]) == (7 if start is None else 8)
    for name in rows:
        assert calls.get_task(world.conn, name).status == "completed"


@pytest.mark.parametrize(
    ("expr", "zone", "exclude", "expected"),
    [
        ("2026-06-02T08:00", "UTC", "nights", ["02 08:00 fired"]),
        ("2026-06-02T03:00", "UTC", "nights", ["02 03:00 excluded"]),
        ("2026-06-01T11:59:30", "UTC", "nights", ["01 11:59 fired"]),  # past, within the grace
        ("2026-06-02T02:30+02:00", "Europe/Berlin", "nights", ["02 00:30 excluded"]),
    ],
)
def test_a_once_is_excluded_or_fires_once(world, expr, zone, exclude, expected):
    world.create(
        "t", "once", expr, timezone=zone, exclude=[exclude], start_at="2026-07-01 00:00+00"
    )

    world.run_until("2026-06-03 00:00:00+00:00")

    assert world.decisions("t") == expected
    assert calls.get_task(world.conn, "t").status == "completed"


def test_a_once_that_passed_while_it_was_paused_is_made_up_for(world):
    world.create("t", "once", "2026-06-01T13:00", exclude=["nights"])
    world.settle()
    calls.pause_task(world.conn, "t")
    world.at("2026-06-01 14:00:00+00")
    calls.resume_task(world.conn, "t")

    world.settle()

    assert world.decisions("t") == ["01 13:00 fired"]


def test_an_outage_is_caught_up_with_around_what_is_excluded(world):
    world.create("t", "interval", "1 hour", exclude=["nights"], catchup="all")
    world.settle()
    world.at("2026-06-04 12:00:30+00")

    world.settle()

    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.excluded_count, task.missed_count) == (48, 24, 0)


def test_a_minutely_cron_that_is_frozen_for_two_weeks_is_bounded_and_keeps_every_row(world):
    calls.set_calendar(
        world.conn, "freeze", {"ranges": [["2026-06-01T12:30:00Z", "2026-06-15T12:30:00Z"]]}
    )
    world.create("t", "cron", "* * * * *", exclude=["freeze"])
    world.settle()
    [size] = world.conn.execute(
        "select cardinality(upcoming) from ordinaut.task_schedule"
    ).fetchone()
    assert size == 16
    world.run_until("2026-06-01 12:40:00+00:00")
    [reason, *_] = calls.why(world.conn, "t")
    assert (reason.reason, reason.subject) == ("excluded", "calendar freeze")
    assert calls.get_task(world.conn, "t").next_run is None

    world.at("2026-06-15 12:29:30+00")
    world.settle()

    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.excluded_count) == (29, 14 * 1440)
    world.run_until("2026-06-15 12:31:00+00:00")
    assert world.decisions("t")[-2:] == ["15 12:30 fired", "15 12:31 fired"]


def test_of_which_nothing_is_left_lives_on_and_says_so(world):
    calls.set_calendar(world.conn, "always", {"weekly": [{}]})
    world.create("t", "cron", "0 * * * *", exclude=["always"])
    world.create("once", "once", "2026-06-01T13:00", exclude=["always"])
    world.settle()

    [reason, *_] = calls.why(world.conn, "t")
    assert reason.reason == "excluded"
    assert "nor does any other that is planned" in reason.detail
    [reason, *_] = calls.why(world.conn, "once")
    assert "and none that does is left" in reason.detail
    world.run_until("2026-06-03 12:30:00+00:00")

    assert calls.get_task(world.conn, "t").excluded_count == 48
    assert calls.get_task(world.conn, "t").status == "active"
    assert world.decisions("once") == ["01 13:00 excluded"]
    assert [r.reason for r in calls.why(world.conn, "once")] == ["exhausted", "excluded"]


def test_a_change_of_a_calendar_counts_at_once(world):
    world.create("t", "cron", "0 * * * *", exclude=["nights"])
    world.run_until("2026-06-01 14:30:00+00:00")
    calls.set_calendar(
        world.conn, "nights", {"ranges": [["2026-06-01T15:00Z", "2026-06-01T16:00Z"]]}
    )
    assert calls.tick(world.conn).next_run is None

    world.run_until("2026-06-01 23:30:00+00:00")

    assert world.decisions("t") == [
        "01 13:00 fired", "01 14:00 fired", "01 15:00 excluded",
        *(f"01 {hour}:00 fired" for hour in range(16, 24)),
    ]  # fmt: skip


def test_a_calendar_that_only_sql_could_read_makes_its_tasks_invalid_until_it_is_changed(world):
    world.conn.execute(
        "insert into ordinaut.calendar values"
        " ('default', 'odd', '{\"weekly\": [{\"days\": \"MON#2\"}]}', 'UTC', null, now(), 'me')"
    )
    world.create("t", "cron", "0 * * * *", exclude=["odd"])
    world.create("good", "cron", "0 * * * *")
    world.settle()

    [reason, *_] = calls.why(world.conn, "t")
    assert (reason.reason, "calendar odd" in reason.detail) == ("task_invalid", True)
    assert calls.get_task(world.conn, "good").next_run is not None
    calls.set_calendar(world.conn, "odd", {"weekly": [{"days": "MON"}]})
    world.settle()
    assert calls.get_task(world.conn, "t").status == "active"


def test_python_refuses_a_union_and_a_calendar_before_they_are_stored(dsn):
    with Ordinaut(dsn) as ordinaut:
        with pytest.raises(InvalidSchedule, match=r"member 2 \(cron\), minute: 61"):
            ordinaut.create_task(
                "t", "echo", schedule_kind="union",
                schedule_expr=union(("interval", "5 min"), ("cron", "61 * * * *")),
            )  # fmt: skip
        with pytest.raises(InvalidSchedule, match="calendar odd"):
            ordinaut.set_calendar("odd", {"dates": ["30 February"]})
        assert ordinaut.set_calendar("odd", {"dates": ["2026-12-25"]}) == "created"


def test_a_plan_of_what_is_excluded_is_as_quick_as_another():
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    calendars = [
        Calendar.read(
            {
                "name": f"c{n}",
                "ranges": [[f"20{y}-06-01T13:00", f"20{y}-07-01"] for y in range(26, 99)],
                "weekly": [{"days": "SUN", "from": "22:00", "to": "23:00"}] * 5,
            }
        )
        for n in range(20)
    ]
    schedule = excluding(parse("cron", "* * * * * *", "UTC"), calendars)
    started = time.perf_counter()

    planned = planner.plan(schedule, now + timedelta(minutes=55), None, now + timedelta(days=9))

    assert time.perf_counter() - started < 2
    assert (len(planned.upcoming), len(planned.excluded)) == (1000, 701)
    assert not planned.exhausted
