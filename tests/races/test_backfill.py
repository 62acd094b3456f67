"""
Race: backfills against planners, ticks, edits and one another.

`hourly` is `0 * * * *` and waits for a planner; `every` is an interval of 1 h, due at 13:00, and
catches up on all.  At 13:30 somebody asks for what was due from 12:30 to 13:30:

    plan, plan            two planners hand in one backfill: the second is refused, not waited for
    plan, fail            what one hands in, the other cannot fail
    tick, backfill        the backfill waits, and leaves alone what the tick fired
    backfill, tick        the tick skips the row; later it finds the occurrence decided
    backfill, backfill    the second waits, and leaves all alone
    edit, plan            refused while the edit is open; then the backfill fails, and nothing fires
    plan, edit            the edit waits; what was asked for before it fired
    edit, backfill        the backfill waits, and goes by what the edit left
    cancel, plan          refused; then there is nothing to plan
    pause, backfill       the backfill waits for the pause, and fires all the same
    cancel task, backfill the backfill waits, and is refused
"""

from __future__ import annotations

import pytest

from ordinaut.errors import WrongState

TICK = "select * from ordinaut.tick()"
ASK = "select ordinaut.backfill(%s, '2026-03-29 12:30+00', '2026-03-29 13:30+00')"
PLAN = """select ordinaut.plan_backfill(
  (select backfill_id from ordinaut.list_backfills('hourly')), '{2026-03-29 13:00+00}')"""
FAIL = """select ordinaut.fail_backfill(
  (select backfill_id from ordinaut.list_backfills('hourly')), 'x')"""
CANCEL = """select ordinaut.cancel_backfill(
  (select backfill_id from ordinaut.list_backfills('hourly')))"""
EDIT = """select ordinaut.update_task(%s, '{"schedule_expr": "%s"}')"""


@pytest.fixture(autouse=True)
def tasks(boss):
    boss.run(
        "select ordinaut.create_task('hourly', 'echo', p_schedule_kind => 'cron',"
        " p_schedule_expr => '0 * * * *')"
    )
    boss.run(
        "select ordinaut.create_task('every', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 h', p_catchup => 'all')"
    )
    boss.commit()


@pytest.fixture
def one(at):
    return at("one", "13:30:00")


@pytest.fixture
def two(at):
    return at("two", "13:30:00")


@pytest.fixture
def asked(one):
    one.run(ASK, "hourly")
    one.commit()


def fired(boss, name):
    """What was decided, the counters, and how many runs there are."""
    rows = boss.run(
        "select o.scheduled_for, o.decision from ordinaut.occurrence as o"
        " join ordinaut.task as t using (task_id) where t.name = %s order by 1",
        name,
    )
    [task] = boss.run("select * from ordinaut.get_task(%s)", name)
    runs = boss.one("select count(*) from ordinaut.due_work where task_id = %s", task.task_id)
    boss.commit()
    assert task.fired_count == runs == len(rows)
    return [f"{row.scheduled_for:%H:%M} {row.decision}" for row in rows]


def told(boss, name):
    rows = boss.run("select * from ordinaut.list_backfills(%s) order by created_at", name)
    boss.commit()
    return [(row.state, row.fired, row.left_alone) for row in rows]


def test_plan_plan(asked, one, two, boss):
    assert one.one(PLAN) is True
    assert two.one(PLAN) is False
    assert two.run("select * from ordinaut.unplanned_backfills()") == []
    one.commit()
    assert two.one(PLAN) is False
    two.commit()

    assert fired(boss, "hourly") == ["13:00 fired"]
    assert told(boss, "hourly") == [("done", 1, 0)]


def test_plan_fail(asked, one, two, boss):
    assert one.one(PLAN) is True
    assert two.one(FAIL) is False
    one.commit()
    assert two.one(FAIL) is False
    assert told(boss, "hourly") == [("done", 1, 0)]


def test_tick_backfill(one, two, boss):
    assert one.run(TICK)[0].fired == 1
    two.start(ASK, "every")
    two.wait_blocked(by=one)
    one.commit()
    two.result()
    two.commit()

    assert fired(boss, "every") == ["13:00 fired"]
    assert told(boss, "every") == [("done", 0, 1)]


def test_backfill_tick(one, two, boss, at):
    one.run(ASK, "every")
    assert two.run(TICK)[0].fired == 0
    one.commit()
    assert two.run(TICK)[0].fired == 0
    two.commit()

    assert fired(boss, "every") == ["13:00 fired"]
    assert told(boss, "every") == [("done", 1, 0)]
    assert at("late", "14:00:00").run(TICK)[0].fired == 1  # and on it goes


def test_backfill_backfill(one, two, boss):
    one.run(ASK, "every")
    two.start(ASK, "every")
    two.wait_blocked(by=one)
    one.commit()
    two.result()
    two.commit()

    assert fired(boss, "every") == ["13:00 fired"]
    assert sorted(told(boss, "every")) == [("done", 0, 1), ("done", 1, 0)]


def test_edit_plan(asked, one, two, boss):
    one.run(EDIT % ("'hourly'", "30 * * * *"))
    assert two.one(PLAN) is False
    assert two.run("select * from ordinaut.unplanned_backfills()") == []
    one.commit()
    assert two.one(PLAN) is True
    two.commit()

    assert fired(boss, "hourly") == []
    assert told(boss, "hourly") == [("failed", None, None)]


def test_plan_edit(asked, one, two, boss):
    one.run(PLAN)
    two.start(EDIT % ("'hourly'", "30 * * * *"))
    two.wait_blocked(by=one)
    one.commit()
    two.result()
    two.commit()

    assert fired(boss, "hourly") == ["13:00 fired"]
    assert told(boss, "hourly") == [("done", 1, 0)]


def test_edit_backfill(one, two, boss):
    one.run(EDIT % ("'every'", "20 min"))
    two.start(ASK, "every")
    two.wait_blocked(by=one)
    one.commit()
    two.result()
    two.commit()

    assert fired(boss, "every") == ["12:40 fired", "13:00 fired", "13:20 fired"]


def test_cancel_plan(asked, one, two, boss):
    assert one.one(CANCEL) == 0
    assert two.one(PLAN) is False
    one.commit()
    assert two.one(PLAN) is False
    assert fired(boss, "hourly") == []
    assert told(boss, "hourly") == [("cancelled", None, None)]


def test_pause_backfill(one, two, boss):
    one.run("select ordinaut.pause_task('every')")
    two.start(ASK, "every")
    two.wait_blocked(by=one)
    one.commit()
    two.result()
    two.commit()
    assert fired(boss, "every") == ["13:00 fired"]


def test_cancelled_task_backfill(one, two, boss):
    one.run("select ordinaut.cancel_task('every')")
    two.start(ASK, "every")
    two.wait_blocked(by=one)
    one.commit()
    with pytest.raises(WrongState):
        two.result()
    two.rollback()
    assert fired(boss, "every") == []
