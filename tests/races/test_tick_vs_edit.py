"""
Race: somebody edits a task at the moment when it fires.

The task is due at 12:01; the edit, at 12:01 too, moves it to every 10 minutes, queue `slow`:

    tick, edit            the edit waits for the tick; the run keeps what it started with
    edit, tick            the tick skips the row, and the old calendar never fires
    edit rolled back      the old calendar fires
    edit, edit            the second waits; both are journalled, and the last revision fires
    edit by hand          a definition whose plan is of an older revision is not fired
    edit, run_now         run_now waits for the edit and starts the new definition
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
EDIT = """select ordinaut.update_task('beat',
  '{"schedule_expr": "10 min", "queue": "slow", "payload": {"edited": true}}')"""


@pytest.fixture(autouse=True)
def task(boss):
    boss.run(
        "select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 min')"
    )
    boss.commit()


@pytest.fixture
def scheduler(at):
    return at("scheduler", "12:01:00")


@pytest.fixture
def editor(at):
    return at("editor", "12:01:00")


def runs(boss):
    rows = boss.run("select queue, scheduled_for from ordinaut.due_work order by run_id")
    boss.commit()
    return [(row.queue, row.scheduled_for and f"{row.scheduled_for:%H:%M}") for row in rows]


def tick_at(at, time):
    late = at(f"tick at {time}", time)
    [row] = late.run(TICK)
    late.commit()
    return row.fired


def test_tick_edit(scheduler, editor, at, boss):
    assert scheduler.run(TICK)[0].fired == 1
    editor.start(EDIT)
    editor.wait_blocked(by=scheduler)
    scheduler.commit()
    assert editor.result() == [(2,)]
    editor.commit()

    assert runs(boss) == [("default", "12:01")]
    assert tick_at(at, "12:09:59") == 0
    assert tick_at(at, "12:10:00") == 1
    assert runs(boss) == [("default", "12:01"), ("slow", "12:10")]


def test_edit_tick(scheduler, editor, at, boss):
    editor.run(EDIT)
    assert scheduler.run(TICK)[0].fired == 0  # skips, does not wait
    editor.commit()
    scheduler.commit()

    assert tick_at(at, "12:09:59") == 0  # nine beats of the old calendar
    assert tick_at(at, "12:10:00") == 1
    assert runs(boss) == [("slow", "12:10")]


def test_edit_rolled_back(scheduler, editor, boss):
    editor.run(EDIT)
    editor.rollback()
    assert scheduler.run(TICK)[0].fired == 1
    scheduler.commit()
    assert runs(boss) == [("default", "12:01")]


def test_edit_edit(scheduler, editor, at, boss):
    other = at("other", "12:01:00")
    editor.run(EDIT)
    other.start("""select ordinaut.update_task('beat', '{"queue": "other"}')""")
    other.wait_blocked(by=editor)
    editor.commit()
    assert other.result() == [(3,)]
    other.commit()

    assert tick_at(at, "12:10:00") == 1
    assert runs(boss) == [("other", "12:10")]
    [(patches,)] = boss.run(
        "select count(*) from ordinaut.run_log where event = 'task_updated' and task_id is not null"
    )
    assert patches == 2


def test_edit_by_hand(scheduler, boss):
    boss.run("update ordinaut.task set revision = revision + 1, queue = 'slow'")
    boss.commit()
    assert scheduler.run(TICK)[0].fired == 0
    scheduler.commit()
    assert runs(boss) == []


def test_edit_run_now(editor, at, boss):
    eager = at("eager", "12:01:00")
    editor.run(EDIT)
    eager.start("select * from ordinaut.run_now('beat')")
    eager.wait_blocked(by=editor)
    editor.commit()
    [started] = eager.result()
    eager.commit()

    assert runs(boss) == [("slow", None)]
    assert boss.one("select payload from ordinaut.get_run(%s)", started.run_id) == {"edited": True}
