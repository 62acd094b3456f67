"""
Race: a planner hands in a plan while somebody edits, pauses or ticks its task.

The task is `0 * * * *`, planned at 12:00 and due at 13:00:

    edit, plan            the plan of the old revision is refused, not waited for: nothing fires
    plan, edit            the edit waits for the plan, and drops it
    pause, plan           refused: a paused task has no next run
    plan, tick            the tick skips the row that is being planned
    tick, plan            the plan is refused; the next leaves out what the tick fired
    plan, plan            the second is refused
    edit, invalidate      the reason was about another expression: the task stays active
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
UNPLANNED = "select * from ordinaut.unplanned_tasks()"
EDIT = """select ordinaut.update_task('hourly', '{"schedule_expr": "30 * * * *"}')"""
PLAN = """select ordinaut.plan_task((select task_id from ordinaut.get_task('hourly')), 1,
  array['2026-03-29 13:00+00', '2026-03-29 14:00+00', '2026-03-29 15:00+00']::timestamptz[],
  '2026-03-29 15:59+00', '2026a')"""


@pytest.fixture(autouse=True)
def task(boss):
    boss.run(
        "select ordinaut.create_task('hourly', 'echo', p_schedule_kind => 'cron',"
        " p_schedule_expr => '0 * * * *', p_catchup => 'all')"
    )
    boss.commit()


@pytest.fixture
def planner(at):
    return at("planner", "12:00:00")


@pytest.fixture
def planned(planner):
    assert planner.run(PLAN) == [(True,)]
    planner.commit()


@pytest.fixture
def editor(at):
    return at("editor", "12:00:30")


def next_run(boss):
    [task] = boss.run("select * from ordinaut.get_task('hourly')")
    boss.commit()
    return task.next_run and f"{task.next_run:%H:%M}"


def fired(boss):
    rows = boss.run("select * from ordinaut.occurrence order by scheduled_for")
    boss.commit()
    return [f"{row.scheduled_for:%H:%M} {row.decision}" for row in rows]


def test_edit_plan(planner, editor, boss, at):
    editor.run(EDIT)
    assert planner.run(PLAN) == [(False,)]
    editor.commit()
    assert planner.run(PLAN) == [(False,)]
    planner.commit()

    assert next_run(boss) is None
    assert at("late", "14:00:00").run(TICK)[0].fired == 0


def test_plan_edit(planner, editor, boss, at):
    planner.run(PLAN)
    editor.start(EDIT)
    editor.wait_blocked(by=planner)
    planner.commit()
    editor.result()
    editor.commit()

    assert next_run(boss) is None
    assert at("late", "14:00:00").run(TICK)[0].fired == 0
    [task] = planner.run(UNPLANNED)
    assert (task.revision, task.schedule_expr) == (2, "30 * * * *")
    assert f"{task.plan_after:%H:%M:%S}" == "12:00:30"


def test_pause_plan(planner, editor, boss):
    editor.run("select ordinaut.pause_task('hourly')")
    assert planner.run(PLAN) == [(False,)]
    editor.commit()
    assert planner.run(PLAN) == [(False,)]
    planner.commit()
    assert next_run(boss) is None
    assert planner.run(UNPLANNED) == []


def test_a_pause_keeps_the_plan_and_skips_what_passed(planned, planner, editor, boss, at):
    editor.run("select ordinaut.pause_task('hourly')")
    editor.commit()
    assert next_run(boss) is None
    late = at("late", "14:30:00")
    late.run("select ordinaut.resume_task('hourly')")
    late.commit()
    assert next_run(boss) == "15:00"  # before any planner came


def test_plan_tick(planned, planner, at, boss):
    scheduler = at("scheduler", "13:00:00")
    planner.run(PLAN)
    assert scheduler.run(TICK)[0].fired == 0  # skips, does not wait
    planner.commit()
    assert scheduler.run(TICK)[0].fired == 1
    scheduler.commit()
    assert fired(boss) == ["13:00 fired"]


def test_tick_plan(planned, planner, at, boss):
    scheduler = at("scheduler", "13:00:00")
    assert scheduler.run(TICK)[0].fired == 1
    assert planner.run(PLAN) == [(False,)]
    scheduler.commit()
    assert planner.run(PLAN) == [(True,)]
    planner.commit()

    assert next_run(boss) == "14:00"
    assert scheduler.run(TICK)[0].fired == 0
    scheduler.commit()
    assert fired(boss) == ["13:00 fired"]


def test_plan_plan(planner, at, boss):
    other = at("other", "12:00:00")
    planner.run(PLAN)
    assert other.run(PLAN) == [(False,)]
    planner.commit()
    assert other.run(PLAN) == [(True,)]
    other.commit()
    assert next_run(boss) == "13:00"


def test_edit_invalidate(planner, editor, boss):
    invalidate = (
        "select ordinaut.invalidate_task((select task_id from ordinaut.get_task('hourly')), 1, 'x')"
    )
    editor.run(EDIT)
    assert planner.run(invalidate) == [(False,)]
    editor.commit()
    assert planner.run(invalidate) == [(False,)]
    planner.commit()
    assert boss.run("select status from ordinaut.get_task('hourly')") == [("active",)]
