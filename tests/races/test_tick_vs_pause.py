"""
Race: an operator pauses, resumes or cancels a task at the moment when it fires.

    tick, pause         the pause waits; the run that fired goes on, and it is the last
    pause, tick         the tick skips the row; nothing fires while the task is paused
    paused, resume      from the next occurrence on: no burst of what passed
    resume, tick        the tick skips, and fires nothing of the pause
    tick, cancel        the cancel waits, and cancels the run that fired
    cancel, tick        nothing fires
    snooze, tick        the tick skips, and the snoozed occurrence never fires
    run_now, pause      the pause waits for the run to be there; then run_now is refused
"""

from __future__ import annotations

import pytest

from ordinaut.errors import WrongState

TICK = "select * from ordinaut.tick()"
PAUSE = "select ordinaut.pause_task('beat', 'deploying')"
RESUME = "select ordinaut.resume_task('beat')"
CANCEL = "select ordinaut.cancel_task('beat')"


@pytest.fixture(autouse=True)
def task(boss):
    boss.run(
        "select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 min', p_catchup => 'all')"
    )
    boss.commit()


@pytest.fixture
def scheduler(at):
    return at("scheduler", "12:01:00")


@pytest.fixture
def operator(at):
    return at("operator", "12:01:00")


def states(boss):
    rows = boss.run("select state from ordinaut.list_runs('beat')")
    boss.commit()
    return [row.state for row in rows]


def tick_at(at, time):
    late = at(f"tick at {time}", time)
    [row] = late.run(TICK)
    late.commit()
    return row.fired


def test_tick_pause(scheduler, operator, at, boss):
    scheduler.run(TICK)
    operator.start(PAUSE)
    operator.wait_blocked(by=scheduler)
    scheduler.commit()
    assert operator.result() == [("paused",)]
    operator.commit()

    assert tick_at(at, "12:30:00") == 0
    assert states(boss) == ["pending"]


def test_pause_tick(scheduler, operator, at, boss):
    operator.run(PAUSE)
    assert scheduler.run(TICK)[0].fired == 0  # skips, does not wait
    operator.commit()
    scheduler.commit()

    assert tick_at(at, "12:30:00") == 0
    assert states(boss) == []


def test_paused_resume(operator, at, boss):
    operator.run(PAUSE)
    operator.commit()
    late = at("late", "12:30:30")
    late.run(RESUME)
    late.commit()

    assert tick_at(at, "12:30:59") == 0
    assert tick_at(at, "12:31:00") == 1
    assert states(boss) == ["pending"]


def test_resume_tick(operator, at, boss):
    operator.run(PAUSE)
    operator.commit()
    late = at("late", "12:30:30")
    late.run(RESUME)
    assert tick_at(at, "12:31:00") == 0  # skips, does not wait
    late.commit()
    assert tick_at(at, "12:31:00") == 1


def test_tick_cancel(scheduler, operator, boss):
    scheduler.run(TICK)
    operator.start(CANCEL)
    operator.wait_blocked(by=scheduler)
    scheduler.commit()
    assert operator.result() == [("cancelled",)]
    operator.commit()
    assert states(boss) == ["cancelled"]


def test_cancel_tick(scheduler, operator, at, boss):
    operator.run(CANCEL)
    assert scheduler.run(TICK)[0].fired == 0
    scheduler.commit()
    operator.commit()
    assert tick_at(at, "12:30:00") == 0
    assert states(boss) == []


def test_snooze_tick(scheduler, operator, at, boss):
    operator.run("select ordinaut.snooze_task('beat', '5 min')")
    assert scheduler.run(TICK)[0].fired == 0
    operator.commit()
    scheduler.commit()
    assert tick_at(at, "12:05:59") == 0
    assert tick_at(at, "12:06:00") == 1


def test_run_now_pause(operator, at, boss):
    eager = at("eager", "12:01:00")
    eager.run("select * from ordinaut.run_now('beat')")
    operator.start(PAUSE)
    operator.wait_blocked(by=eager)
    eager.commit()
    operator.result()
    operator.commit()

    assert states(boss) == ["pending"]
    with pytest.raises(WrongState):
        eager.run("select * from ordinaut.run_now('beat')")
