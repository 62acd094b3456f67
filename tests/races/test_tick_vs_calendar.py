"""
Race: somebody changes a calendar while a task that excludes it is ticked, planned, made or edited.

The task is `0 * * * *` without holidays, planned at 12:00 and due at 13:00; the change, at 13:00
too, makes the whole day a holiday:

    tick, set              the change waits for the tick; what was decided stays
    set, tick              the tick skips the row, and the old plan never fires
    set rolled back        the old plan fires
    read, set, plan        a planner that read the old calendar is refused quietly
    plan, set              the change waits for the plan, and drops it
    create, set            the change waits for the new task, and drops its plan
    set, create            the new task waits for the change
    create, drop           the drop waits, and is refused: there is a task now
    drop, create           the new task waits, and is refused: there is no calendar
    edit, set              the change waits for the edit, and takes the task as it is then
    edit (at the task), set   both lock the calendar first: no deadlock
    edit (at the task), set   and any edit the schedule row before the task
    set, set               the second waits; the plan is dropped twice
"""

from __future__ import annotations

import psycopg
import pytest

from ordinaut.errors import WrongState

TICK = "select * from ordinaut.tick()"
SET = """select ordinaut.set_calendar('holidays', '{"dates": ["2026-03-29"]}')"""
SET_NO_MORE = "select ordinaut.set_calendar('holidays', '{}')"
DROP = "select ordinaut.drop_calendar('holidays')"
CREATE = """select ordinaut.create_task('new', 'echo', p_schedule_kind => 'interval',
  p_schedule_expr => '1 h', p_exclude => '{holidays}')"""
PLAN = """select ordinaut.plan_task((select task_id from ordinaut.get_task('hourly')), %s,
  array['2026-03-29 13:00+00', '2026-03-29 14:00+00']::timestamptz[],
  '2026-03-29 14:59+00', '2026a')"""


@pytest.fixture(autouse=True)
def calendar(boss):
    boss.run(SET_NO_MORE)
    boss.commit()


@pytest.fixture
def task(boss):
    boss.run(
        "select ordinaut.create_task('hourly', 'echo', p_schedule_kind => 'cron',"
        " p_schedule_expr => '0 * * * *', p_catchup => 'all', p_exclude => '{holidays}')"
    )
    boss.commit()


@pytest.fixture
def planned(boss, task):
    assert boss.run(PLAN, 1) == [(True,)]
    boss.commit()


@pytest.fixture
def scheduler(at):
    return at("scheduler", "13:00:00")


@pytest.fixture
def editor(at):
    return at("editor", "13:00:00")


def fired(boss):
    rows = boss.run("select * from ordinaut.occurrence order by scheduled_for")
    boss.commit()
    return [f"{row.scheduled_for:%H:%M} {row.decision}" for row in rows]


def plan_of(boss, name):
    [row] = boss.run(
        "select s.next_run, s.upcoming, s.revision = t.revision as is_current"
        " from ordinaut.task_schedule as s join ordinaut.task as t using (task_id)"
        " where t.name = %s",
        name,
    )
    boss.commit()
    return row


def test_tick_set(planned, scheduler, editor, boss, at):
    assert scheduler.run(TICK)[0].fired == 1
    editor.start(SET)
    editor.wait_blocked(by=scheduler)
    scheduler.commit()
    assert editor.result() == [("updated",)]
    editor.commit()

    assert fired(boss) == ["13:00 fired"]
    assert at("late", "14:00:00").run(TICK)[0].fired == 0
    [unplanned] = editor.run("select * from ordinaut.unplanned_tasks()")
    assert f"{unplanned.plan_after:%H:%M}" == "13:00"  # it is not decided again


def test_set_tick(planned, scheduler, editor, boss, at):
    editor.run(SET)
    assert scheduler.run(TICK)[0].fired == 0  # skips, does not wait
    scheduler.commit()
    editor.commit()

    assert at("late", "14:00:00").run(TICK)[0].fired == 0
    assert fired(boss) == []
    [unplanned] = editor.run("select * from ordinaut.unplanned_tasks()")
    assert f"{unplanned.plan_after:%H:%M}" == "12:00"  # and none is lost
    assert unplanned.calendars[0]["dates"] == ["2026-03-29"]


def test_set_rolled_back(planned, scheduler, editor, boss):
    editor.run(SET)
    editor.rollback()
    assert scheduler.run(TICK)[0].fired == 1
    scheduler.commit()
    assert fired(boss) == ["13:00 fired"]


def test_read_set_plan(task, scheduler, editor, boss):
    [read] = scheduler.run("select * from ordinaut.unplanned_tasks()")
    scheduler.commit()
    editor.run(SET)
    assert scheduler.run(PLAN, read.revision) == [(False,)]  # a planner waits for nobody
    scheduler.commit()
    editor.commit()
    assert scheduler.run(PLAN, read.revision) == [(False,)]
    scheduler.commit()
    assert plan_of(boss, "hourly") == (None, None, True)


def test_plan_set(task, scheduler, editor, boss):
    scheduler.run(PLAN, 1)
    editor.start(SET)
    editor.wait_blocked(by=scheduler)
    scheduler.commit()
    editor.result()
    editor.commit()
    assert plan_of(boss, "hourly") == (None, None, True)


def test_create_set(editor, boss, at):
    maker = at("maker", "13:00:00")
    maker.run(CREATE)
    editor.start(SET)
    editor.wait_blocked(by=maker)
    maker.commit()
    assert editor.result() == [("updated",)]
    editor.commit()
    # A planner that read the task before it knew of the change would hand in revision 1.
    assert boss.run("select revision from ordinaut.get_task('new')") == [(2,)]


def test_set_create(editor, boss, at):
    maker = at("maker", "13:00:00")
    editor.run(SET)
    maker.start(CREATE)
    maker.wait_blocked(by=editor)
    editor.commit()
    maker.result()
    maker.commit()
    assert boss.run("select revision from ordinaut.get_task('new')") == [(1,)]


def test_create_drop(editor, at):
    maker = at("maker", "13:00:00")
    maker.run(CREATE)
    editor.start(DROP)
    editor.wait_blocked(by=maker)
    maker.commit()
    with pytest.raises(WrongState, match="excluded by new"):
        editor.result()


def test_drop_create(editor, at):
    maker = at("maker", "13:00:00")
    editor.run(DROP)
    maker.start(CREATE)
    maker.wait_blocked(by=editor)
    editor.commit()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is no calendar of namespace"):
        maker.result()


@pytest.mark.parametrize("patch", ["holidays", "others"])
def test_edit_set(task, editor, boss, at, patch):
    other = at("other", "13:00:00")
    boss.run("select ordinaut.set_calendar('others', '{}')")
    boss.commit()
    other.run(
        f"""select ordinaut.update_task('hourly', '{{"exclude": ["{patch}"], "priority": 1}}')"""
    )
    editor.start(SET)
    editor.wait_blocked(by=other)
    other.commit()
    editor.result()
    editor.commit()
    assert plan_of(boss, "hourly").is_current
    # Raised by the edit; and by the change, if the task still excludes it.
    revision = 3 if patch == "holidays" else 2
    assert boss.run("select revision from ordinaut.get_task('hourly')") == [(revision,)]


def test_edit_locks_calendars_first(task, editor, boss, at):
    other, edit = at("other", "13:00:00"), at("edit", "13:00:00")
    boss.run("select ordinaut.set_calendar('others', '{}')")
    boss.commit()
    other.run("select from ordinaut.task where name = 'hourly' for update")
    edit.start("""select ordinaut.update_task('hourly', '{"exclude": ["holidays", "others"]}')""")
    edit.wait_blocked(by=other)  # it holds the schedule row, for which the change will ask
    editor.start(SET)
    editor.wait_blocked(by=edit)
    other.commit()
    assert edit.result() == [(2,)]
    edit.commit()
    assert editor.result() == [("updated",)]
    editor.commit()
    assert plan_of(boss, "hourly") == (None, None, True)


def test_set_locks_schedules_before_tasks(task, editor, boss, at):
    edit = at("edit", "13:00:00")
    edit.run("select from ordinaut.task_schedule for update")  # as every edit begins
    editor.start(SET)
    editor.wait_blocked(by=edit)
    edit.run("select ordinaut.update_task('hourly', '{\"priority\": 1}')")
    edit.commit()
    assert editor.result() == [("updated",)]
    editor.commit()
    assert plan_of(boss, "hourly") == (None, None, True)


def test_set_set(planned, editor, boss, at):
    other = at("other", "13:00:00")
    editor.run(SET)
    other.start(SET_NO_MORE)
    other.wait_blocked(by=editor)
    editor.commit()
    assert other.result() == [("updated",)]
    other.commit()
    assert plan_of(boss, "hourly") == (None, None, True)
    assert boss.run("select revision from ordinaut.get_task('hourly')") == [(3,)]
