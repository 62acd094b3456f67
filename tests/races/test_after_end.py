"""
Race: the run that a task waits for ends at the moment when somebody looks, or changes the task.

The task is `10 min after end`; its run fired at 12:10 and is leased:

    settle, look       to a look before the commit the run is live; the next counts from its end
    look, look         the second skips the row: nobody waits
    look, pause        the pause waits, and takes the next run away
    pause, look        the look skips; nothing is due while the task is paused
    look, edit         the edit waits, and counts the new duration from the same end
    tick, look         the look skips the row that fires; it sees the new run as live
    look, run_now      neither waits for the other: the run beside is nothing to wait for
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
COMPLETE = "select * from ordinaut.complete_work(%s)"
PAUSE = "select ordinaut.pause_task('follow')"
EDIT = """select ordinaut.update_task('follow', '{"schedule_expr": "30 min after end"}')"""


@pytest.fixture
def unit(boss, at):
    boss.run(
        "select ordinaut.create_task('follow', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '10 min after end')"
    )
    boss.commit()
    first = at("first", "12:10:00")
    assert first.run(TICK)[0].fired == 1
    [unit] = first.run("select * from ordinaut.lease_work('w1', p_for => '2 hours')")
    first.commit()
    return unit


@pytest.fixture
def ended(unit, at):
    worker = at("worker", "12:20:00")
    worker.run(COMPLETE, unit.lease_id)
    worker.commit()


@pytest.fixture
def looker(at):
    return at("looker", "12:21:00")


@pytest.fixture
def operator(at):
    return at("operator", "12:21:00")


def next_run(boss):
    [task] = boss.run("select * from ordinaut.get_task('follow')")
    boss.commit()
    return task.next_run and f"{task.next_run:%H:%M:%S}"


def fired(at, time):
    session = at(f"tick at {time}", time)
    [row] = session.run(TICK)
    session.commit()
    return row.fired


def test_settle_look(unit, at, looker, boss):
    worker = at("worker", "12:20:00")
    worker.run(COMPLETE, unit.lease_id)
    looker.run(TICK)  # does not wait for the settle
    looker.commit()
    worker.commit()
    assert next_run(boss) is None
    assert fired(at, "12:29:59.9") == 0  # the look comes a second before anything could be due
    assert fired(at, "12:31:00") == 1
    assert boss.run("select max(scheduled_for)::text from ordinaut.occurrence") == [
        ("2026-03-29 12:30:00+00",)
    ]


def test_look_look(ended, looker, operator, boss):
    looker.run(TICK)
    operator.run(TICK)  # skips, does not wait
    looker.commit()
    operator.commit()
    assert next_run(boss) == "12:30:00"


def test_look_pause(ended, looker, operator, boss, at):
    looker.run(TICK)
    operator.start(PAUSE)
    operator.wait_blocked(by=looker)
    looker.commit()
    operator.result()
    operator.commit()
    assert next_run(boss) is None
    assert fired(at, "12:40:00") == 0


def test_pause_look(ended, looker, operator, boss, at):
    operator.run(PAUSE)
    looker.run(TICK)  # skips, does not wait
    operator.commit()
    looker.commit()
    assert next_run(boss) is None
    assert fired(at, "12:40:00") == 0


def test_look_edit(ended, looker, operator, boss):
    looker.run(TICK)
    operator.start(EDIT)
    operator.wait_blocked(by=looker)
    looker.commit()
    operator.result()
    operator.commit()
    assert next_run(boss) == "12:50:00"


def test_tick_look(ended, looker, at, boss):
    looker.run(TICK)
    looker.commit()
    scheduler, other = at("scheduler", "12:30:00"), at("other", "12:30:00")
    assert scheduler.run(TICK)[0].fired == 1
    assert other.run(TICK)[0].fired == 0
    scheduler.commit()
    other.run(TICK)
    other.commit()
    assert next_run(boss) is None
    assert fired(at, "12:45:00") == 0


def test_look_run_now(ended, looker, operator, boss):
    looker.run(TICK)
    operator.run("select * from ordinaut.run_now('follow')")
    operator.commit()
    looker.commit()
    assert next_run(boss) == "12:30:00"
