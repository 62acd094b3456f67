"""
Race: several schedulers ask one condition, while somebody pauses, edits or snoozes its task.

The condition is asked every 10 s; at 12:00:10 it was false, and at 12:00:20 it is true:

    report, report    the second waits, and is ignored: one edge fires once
    pause, report     void: a paused task does not become due
    report, pause     the pause waits; what became due and had not fired fires after the resume
    edit, report      void: it was another query
    snooze, report    void: what was asked before the snooze
    report, tick      the tick skips the row; the next one fires
    tick, report      the next report waits for the tick, and it fires once
    defect, defect    the second waits: the task is invalid already
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
POLLS = "select * from ordinaut.unpolled_conditions()"
REPORT = "select ordinaut.report_condition(%s, %s, %s, %s)"
DEFECT = "select ordinaut.report_condition(%s, %s, %s, null, 'no such table', true)"


@pytest.fixture(autouse=True)
def task(boss):
    boss.run(
        "select ordinaut.create_task('unpaid', 'echo', p_schedule_kind => 'condition',"
        " p_schedule_expr => 'every 10 s: select exists (select from invoice)')"
    )
    boss.commit()


@pytest.fixture
def asked(task, at):
    """Ask at noon and ten seconds later: false; return the poll of 12:00:20."""
    for time in ("12:00:00", "12:00:10"):
        session = at(f"asked at {time}", time)
        assert session.run(REPORT, *poll(session), False) == [(True,)]
        session.commit()
    return poll(at("looks", "12:00:20"))


@pytest.fixture
def one(at):
    return at("one", "12:00:20")


@pytest.fixture
def other(at):
    return at("other", "12:00:20")


def poll(session):
    [row] = session.run(POLLS)
    session.commit()
    return row.task_id, row.revision, row.polled_for


def fired(at, time="12:00:21"):
    session = at(f"tick at {time}", time)
    [row] = session.run(TICK)
    session.commit()
    return row.fired


def test_report_report(asked, one, other, at):
    assert one.run(REPORT, *asked, True) == [(True,)]
    other.start(REPORT, *asked, False)
    other.wait_blocked(by=one)
    one.commit()
    assert other.result() == [(False,)]
    other.commit()
    assert fired(at) == 1
    assert fired(at, "12:00:22") == 0
    late = at("late", "12:00:30")
    assert late.run(REPORT, *poll(late), True) == [(True,)]
    late.commit()
    assert fired(at, "12:00:31") == 0


@pytest.mark.parametrize(
    "verb",
    [
        "select ordinaut.pause_task('unpaid')",
        "select ordinaut.snooze_task('unpaid', '1 min')",
        """select ordinaut.update_task('unpaid', '{"schedule_expr": "every 10 s: select true"}')""",
        "select ordinaut.cancel_task('unpaid')",
    ],
)
def test_pause_edit_snooze_report(asked, one, other, at, verb):
    one.run(verb)
    other.start(REPORT, *asked, True)
    other.wait_blocked(by=one)
    one.commit()
    assert other.result() == [(False,)]
    other.commit()
    assert fired(at) == 0


def test_report_pause(asked, one, other, at):
    one.run(REPORT, *asked, True)
    other.start("select ordinaut.pause_task('unpaid')")
    other.wait_blocked(by=one)
    one.commit()
    other.result()
    other.commit()
    assert fired(at) == 0

    late = at("late", "12:10:00")
    late.run("select ordinaut.resume_task('unpaid')")
    assert late.run(REPORT, *poll(late), True) == [(True,)]
    late.commit()
    assert fired(at, "12:10:01") == 1


def test_report_tick(asked, one, other, at):
    one.run(REPORT, *asked, True)
    assert other.run(TICK)[0].fired == 0
    one.commit()
    assert other.run(TICK)[0].fired == 1
    other.commit()
    assert fired(at) == 0


def test_tick_report(asked, one, other, at):
    one.run(REPORT, *asked, True)
    one.commit()
    late = at("late", "12:00:30")
    following = poll(late)
    assert other.run(TICK)[0].fired == 1
    late.start(REPORT, *following, True)
    late.wait_blocked(by=other)
    other.commit()
    assert late.result() == [(True,)]
    late.commit()
    assert fired(at, "12:00:31") == 0


def test_defect_defect(task, at, boss):
    one, other = at("one", "12:00:00"), at("other", "12:00:00")
    first = poll(one)
    assert one.run(DEFECT, *first) == [(True,)]
    other.start(DEFECT, *first)
    other.wait_blocked(by=one)
    one.commit()
    assert other.result() == [(False,)]
    other.commit()
    assert boss.run("select status from ordinaut.get_task('unpaid')") == [("invalid",)]
