"""SQL and Python read the forms of an interval alike: one fires them, the other previews them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from ordinaut import calls, db, planner
from ordinaut.recurrence import InvalidSchedule, Union, describe
from ordinaut.recurrence.interval import Interval, read_interval
from ordinaut.recurrence.schedule import AfterEnd

NOW = datetime(2027, 3, 1, 12, 0, 30, tzinfo=UTC)
START = datetime(2027, 3, 2, 0, 0, 7, tzinfo=UTC)

GOOD = [
    "5 min", "90", "1.5 s", "PT15M", "01:30:00", "1 hour 30 min", "3650 days",
    "15 min phase 2 min", "1 hour phase 5 min", "1 hour phase 0 s", "7 days phase 4 days",
    "90 s phase 00:01:29", "2 hours phase PT30M", "1 s phase 0.5 s",
    "10 min after end", "PT1H after end", "1 hour 30 min after end",
]  # fmt: skip
BAD = [
    "", "5 parsecs", "1 month", "0 s", "-5 min", "3651 days", "100 ms", "P1Y", "infinity",
    "15 min phase 15 min", "15 min phase -1 s", "15 min phase 1 month", "15 min phase",
    "15 min phase ", "15 min phase soon", "phase 2 min", "15 min phase 1 min phase 1 min",
    "15 min PHASE 2 min", "after end", "1 month after end", "5 min after end after end",
    "5 min phase 1 min after end", "5 min AFTER END", "5 min after the end",
]  # fmt: skip


@pytest.mark.parametrize("expr", GOOD)
def test_what_is_one_to_both(conn, expr):
    [(every, phase)] = conn.execute(
        "select ordinaut._every(%(e)s), ordinaut._phase(%(e)s)"
        " from ordinaut._check_interval(%(e)s)",
        {"e": expr},
    ).fetchall()
    assert read_interval(expr) == Interval(every, phase, expr.endswith(" after end"))


@pytest.mark.parametrize("expr", BAD)
def test_what_is_none_to_either(conn, expr):
    with pytest.raises(InvalidSchedule):
        read_interval(expr)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute("select ordinaut._check_interval(%s)", [expr])


@pytest.mark.parametrize("start_at", [None, START])
@pytest.mark.parametrize("expr", [e for e in GOOD if not e.endswith("end") and e != "3650 days"])
def test_both_come_to_the_same_instants(conn, expr, start_at):
    conn.execute("select set_config('test.now', %s, true)", [str(NOW)])
    conn.execute(
        "select ordinaut.create_task('t', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => %s, p_start_at => %s)",
        [expr, start_at],
    )
    fired = []
    for _ in range(20):
        [(at,)] = conn.execute("select next_run from ordinaut.get_task('t')").fetchall()
        fired.append(at)
        conn.execute("select set_config('test.now', %s, true)", [str(at)])
        conn.execute("select ordinaut.tick()")

    schedule = planner.calendar("interval", expr, "UTC", dtstart=start_at or NOW, start_at=start_at)
    if start_at is None and "phase" not in expr:
        after = NOW
    else:
        after = max(NOW, (start_at or NOW) - timedelta(microseconds=1))
    assert [o.at for o in schedule.after(after, 20)] == fired


def test_five_past_every_hour(conn):
    schedule = planner.calendar("interval", "1 hour phase 5 min", "UTC", dtstart=NOW)
    assert [f"{o.at:%H:%M:%S}" for o in schedule.after(NOW, 2)] == ["12:05:00", "13:05:00"]
    assert describe(schedule) == (
        "Every 1:00:00 of elapsed time, counted from 1970-01-01 00:05:00 UTC, UTC."
    )


def test_after_the_end_is_no_calendar():
    schedule = planner.calendar("interval", "10 min after end", "UTC")
    assert isinstance(schedule, AfterEnd)
    assert schedule.after(NOW, 10) == []
    assert describe(schedule) == "0:10:00 of elapsed time after the end of its last run, UTC."
    with pytest.raises(InvalidSchedule, match="runs decide"):
        Union((schedule,))


PHASES = (
    '[{"kind": "interval", "expr": "1 hour phase 5 min"}, {"kind": "cron", "expr": "0 0 * * *"}]'
)


@pytest.mark.parametrize("start_at", [None, START])
@pytest.mark.parametrize(
    ("kind", "expr", "exclude"),
    [("interval", "1 hour phase 5 min", ["never"]), ("union", PHASES, None)],
)
def test_a_phase_is_the_same_in_a_plan(dsn, kind, expr, exclude, start_at):
    """A planner expands what excludes, and unions: from the anchor that SQL would take."""
    with db.connect(dsn, name="test") as conn:
        conn.execute("select set_config('test.now', %s, false)", [str(NOW)])
        calls.set_calendar(conn, "never", {"dates": ["2199-01-01"]})
        calls.create_task(
            conn, "t", "echo", schedule_kind=kind, schedule_expr=expr, exclude=exclude,
            start_at=start_at,
        )  # fmt: skip
        planner.step(conn)
        found = calls.get_task(conn, "t").next_run
    assert str(found) == ("2027-03-02 00:05:07+00:00" if start_at else "2027-03-01 12:05:00+00:00")


def test_the_end_of_a_run_and_a_condition_are_in_no_calendar(conn):
    union = '[{"kind": "interval", "expr": "10 min after end"}]'
    with pytest.raises(InvalidSchedule, match="runs decide"):
        planner.calendar("union", union, "UTC", dtstart=NOW)
    for kind, expr, exclude, says in [
        ("union", union, None, "the end of a run is in no calendar"),
        ("interval", "10 min after end", ["closed"], "exclude is for planned times"),
        ("condition", "every 30 s: select true", ["closed"], "exclude is for planned times"),
    ]:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=says), conn.transaction():
            calls.create_task(
                conn, "t", "echo", schedule_kind=kind, schedule_expr=expr, exclude=exclude
            )
