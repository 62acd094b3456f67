"""Backfills through the planner's expansion, on a clock that the test turns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from ordinaut import Ordinaut, backfill, calls, db, planner
from ordinaut.backfill import Backfills
from ordinaut.recurrence import InvalidSchedule
from tests.unit.test_planner import NEW_YORK, World


@pytest.fixture
def world(dsn):
    with db.connect(dsn, name="test") as conn:
        world = World(conn)
        world.at("2026-06-01 12:00:00+00")
        yield world


def ask(world, low, high, name="t", **arguments):
    """Ask for a backfill, expand what waits, and return what became of it."""
    backfill_id = calls.backfill(world.conn, name, low, high, **arguments)
    expander = Backfills()
    while expander.step(world.conn):
        pass
    [found] = [b for b in calls.list_backfills(world.conn, name) if b.backfill_id == backfill_id]
    return found


def test_a_week_of_the_past_fires_once(world):
    world.create("t", "cron", "30 6 * * 1-5")

    found = ask(world, "2026-05-25 00:00+00", "2026-06-01 00:00+00")

    assert (found.state, found.fired, found.left_alone) == ("done", 5, 0)
    assert (found.first_at, found.last_at) == (
        datetime(2026, 5, 25, 6, 30, tzinfo=UTC), datetime(2026, 5, 29, 6, 30, tzinfo=UTC)
    )  # fmt: skip
    assert world.decisions("t") == [f"{day} 06:30 fired" for day in (25, 26, 27, 28, 29)]
    again = ask(world, "2026-05-27 06:30+00", "2026-06-01 06:30+00")
    assert (again.fired, again.left_alone) == (0, 3)
    to_the_end = ask(world, "2026-06-01 06:30+00", "2026-06-01 06:30:00.000001+00")
    assert to_the_end.fired == 1


def test_the_night_of_the_change_keeps_its_note(world):
    world.create("t", "cron", "30 2 * * *", timezone=NEW_YORK)

    ask(world, "2026-03-08 05:00+00", "2026-03-09 05:00+00")

    assert world.decisions("t", NEW_YORK) == ["08 03:00 fired gap: 2026-03-08 02:30:00 was skipped"]


def test_what_a_calendar_excludes_is_not_made_up_for(world):
    calls.set_calendar(world.conn, "nights", {"weekly": [{"from": "22:00", "to": "06:00"}]})
    world.create("t", "cron", "0 */4 * * *", exclude=["nights"])

    ask(world, "2026-05-31 00:00+00", "2026-06-01 00:00+00")

    assert world.decisions("t") == [
        "31 08:00 fired", "31 12:00 fired", "31 16:00 fired", "31 20:00 fired"
    ]  # fmt: skip


def test_a_calendar_that_leaves_nothing_ends(world):
    calls.set_calendar(world.conn, "always", {"weekly": [{}]})
    world.create("t", "cron", "* * * * * *", exclude=["always"])

    found = ask(world, "2026-01-01 00:00+00", "2026-06-01 00:00+00")

    assert (found.state, found.fired) == ("done", 0)


def test_an_interval_that_excludes_is_made_up_for_as_sql_does_it(world):
    calls.set_calendar(world.conn, "never", {"dates": ["2030-01-01"]})
    world.at("2026-06-01 12:00:00.123456+00")
    for name, exclude in (("plain", None), ("planned", ["never"])):
        world.create(name, "interval", "1 hour 30 min", exclude=exclude)
    world.at("2026-06-02 12:00:00+00")

    plain = ask(world, "2026-06-01 00:00+00", "2026-06-02 12:00+00", "plain")
    planned = ask(world, "2026-06-01 00:00+00", "2026-06-02 12:00+00", "planned")

    assert (plain.fired, plain.first_at, plain.last_at) == (
        planned.fired, planned.first_at, planned.last_at
    )  # fmt: skip
    assert plain.fired == 15
    assert world.decisions("plain") == world.decisions("planned")


def test_a_union_and_a_rule_are_made_up_for(world):
    members = [{"kind": "cron", "expr": "0 9 * * *"}, {"kind": "once", "expr": "2026-05-31T10:00"}]
    world.create("t", "union", json.dumps(members))
    world.create("r", "rrule", "FREQ=DAILY;BYHOUR=7;BYMINUTE=0;BYSECOND=0",
                 start_at="2026-05-30 00:00+00")  # fmt: skip

    ask(world, "2026-05-31 00:00+00", "2026-06-01 00:00+00")
    ask(world, "2026-05-20 00:00+00", "2026-06-01 00:00+00", "r")

    assert world.decisions("t") == ["31 09:00 fired", "31 10:00 fired"]
    assert world.decisions("r") == ["30 07:00 fired", "31 07:00 fired"]


@pytest.mark.parametrize(
    ("high", "limit", "says"),
    [
        ("2026-05-31 01:00+00", 59, "the range holds 60 occurrences, the limit is 59"),
        ("2026-06-01 12:00+00", 60, "the range holds 2160 occurrences, the limit is 60"),
    ],
)
def test_too_many_fire_none(world, high, limit, says):
    world.create("t", "cron", "* * * * *")

    found = ask(world, "2026-05-31 00:00+00", high, limit=limit)

    assert (found.state, found.reason, found.fired) == ("failed", says, None)
    assert world.decisions("t") == []


def test_far_too_many_are_not_counted_to_the_end(world):
    world.create("t", "cron", "* * * * * *")

    found = ask(world, "1990-01-01 00:00+00", "2026-06-01 00:00+00")

    assert found.reason == "the range holds more than 10000 occurrences, the limit is 1000"


def test_a_long_one_is_expanded_in_slices(world, monkeypatch):
    monkeypatch.setattr(backfill, "_BUDGET", 0.0)
    world.create("t", "cron", "0 * * * *")
    calls.backfill(world.conn, "t", "2026-05-31 00:00+00", "2026-06-01 00:00+00")
    expander = Backfills()

    steps = 0
    while expander.step(world.conn):
        steps += 1
        waits = calls.list_backfills(world.conn)[0].state == "pending"
        assert waits == (steps < 25)

    assert steps == 25  # and each let a tick come between
    assert len(world.decisions("t")) == 24


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InvalidSchedule("schedule", "never fires"), "schedule: never fires"),
        (RuntimeError("odd"), "its calendar cannot be computed: RuntimeError('odd')"),
    ],
)
def test_a_calendar_that_fails_fails_its_backfill_and_no_other(world, monkeypatch, error, says):
    world.create("bad", "cron", "0 * * * *")
    world.create("t", "cron", "0 * * * *")
    sound = planner.of_unplanned

    def of_unplanned(task):
        if task.task_id == bad:
            raise error
        return sound(task)

    bad = calls.get_task(world.conn, "bad").task_id
    monkeypatch.setattr(planner, "of_unplanned", of_unplanned)
    calls.backfill(world.conn, "bad", "2026-05-31 00:00+00", "2026-06-01 00:00+00")
    found = ask(world, "2026-05-31 00:00+00", "2026-06-01 00:00+00")

    assert (found.state, found.fired) == ("done", 24)
    [failed] = calls.list_backfills(world.conn, "bad")
    assert (failed.state, failed.reason) == ("failed", says)


def test_an_edit_before_the_planner_came_fails_it(world):
    world.create("t", "cron", "0 * * * *")
    calls.backfill(world.conn, "t", "2026-05-31 00:00+00", "2026-06-01 00:00+00")
    calls.update_task(world.conn, "t", {"schedule_expr": "30 * * * *"})

    assert Backfills().step(world.conn)

    [found] = calls.list_backfills(world.conn)
    assert found.state == "failed"
    assert found.reason == (
        "task default/t was edited after this was asked for (revision 1, now 2)"
    )
    assert world.decisions("t") == []


def test_what_is_due_meanwhile_fires_once_whoever_comes_first(world):
    world.create("t", "cron", "0 * * * *", catchup="all")
    world.settle()
    world.at("2026-06-01 16:30:00+00")
    calls.backfill(world.conn, "t", "2026-06-01 14:00+00", "2026-06-01 16:30+00")
    Backfills().step(world.conn)
    world.settle()

    assert world.decisions("t") == [f"01 {hour}:00 fired" for hour in (13, 14, 15, 16)]
    task = calls.get_task(world.conn, "t")
    assert (task.fired_count, task.missed_count) == (4, 0)
    runs = world.conn.execute("select count(*) from ordinaut.due_work").fetchone()
    assert runs == (4,)


def test_the_client_asks_and_is_told(dsn):
    with Ordinaut(dsn) as ordinaut:
        ordinaut.create_task("t", "echo", schedule_kind="interval", schedule_expr="1 h",
                             start_at=datetime(2026, 1, 1, tzinfo=UTC))  # fmt: skip
        start = datetime(2026, 1, 2, tzinfo=UTC)
        backfill_id = ordinaut.backfill("t", start, start + timedelta(hours=3), rate=60, note="x")
        [found] = ordinaut.list_backfills("t")
    assert (found.backfill_id, found.fired, found.rate, found.note) == (backfill_id, 3, 60, "x")
