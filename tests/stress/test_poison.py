"""
Poison: one bad task among ten thousand that are due in the same second.

All others fire in the same ticks, the bad one ends as invalid with its reason, and the price is
bounded: only its chunk is repeated.  The same for the planner, and an expression of which the
calendar raises, or that SQL cannot store, is not asked about again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from ordinaut import calls, db, planner

SIZE = int(os.environ.get("SIZE", "10000"))
NOON = datetime.fromisoformat("2026-06-01 12:00:00+00:00")
CREATE = """
select count(ordinaut.create_task(
  'task' || n, 'echo', p_schedule_kind => %s, p_schedule_expr => %s, p_overlap => 'skip'))
from generate_series(1, %s) as n
"""
STATUS = "select status, count(*)::integer from ordinaut.task group by status order by status"


@pytest.fixture
def conn(dsn: str) -> Iterator[db.Connection]:
    with db.connect(dsn, name="test") as conn:
        at(conn, "12:00:00")
        yield conn


def at(conn: db.Connection, time: str) -> None:
    conn.execute("select set_config('test.now', %s, false)", [f"2026-06-01 {time}+00"])


def tick_all(conn: db.Connection) -> tuple[int, float]:
    """Tick until nothing is due; return how many fired and in how many seconds."""
    fired, ticks, begin = 0, 0, time.monotonic()
    while True:
        done = calls.tick(conn, limit=1000)
        fired += done.fired
        ticks += 1
        assert ticks <= SIZE / 1000 + 2, "tick does not come on"
        if done.next_run is None or done.next_run > done.at:
            return fired, time.monotonic() - begin


@pytest.mark.slow
def test_one_that_cannot_fire(conn: db.Connection) -> None:
    conn.execute(CREATE, ["interval", "1 min", SIZE])
    at(conn, "12:01:00")
    clean, usual = tick_all(conn)
    conn.execute("delete from ordinaut.due_work")
    # A limit that grew narrower: a unit of work counts its attempts in two bytes.
    conn.execute(
        "update ordinaut.task set max_attempts = 40000 where name = %s", [f"task{SIZE // 2}"]
    )
    at(conn, "12:02:00")

    fired, poisoned = tick_all(conn)

    print(f"{SIZE} tasks: {usual:.2f} s, with one bad {poisoned:.2f} s")
    assert (clean, fired) == (SIZE, SIZE - 1)
    assert conn.execute(STATUS).fetchall() == [("active", SIZE - 1), ("invalid", 1)]
    [reason, *_] = calls.why(conn, f"task{SIZE // 2}")
    assert reason.reason == "task_invalid"
    assert "smallint" in reason.detail
    assert poisoned < 3 * usual + 3

    # It is not met again; once it is mended it fires.
    at(conn, "12:03:00")
    conn.execute("delete from ordinaut.due_work")
    assert tick_all(conn)[0] == SIZE - 1
    calls.update_task(conn, f"task{SIZE // 2}", {"max_attempts": 3})
    at(conn, "12:04:00")
    conn.execute("delete from ordinaut.due_work")
    assert tick_all(conn)[0] == SIZE


@pytest.mark.slow
def test_one_that_cannot_be_planned(conn: db.Connection) -> None:
    n = SIZE // 10
    conn.execute(CREATE, ["cron", "*/5 * * * *", n])
    bad = {
        "task7": "0 0 30 2 *",  # refused by the calendar
        "task77": "*/5 * * * *",  # refused by the database
        "task777": "0 0 29 2 MON#5",  # rare
    }
    for name, expr in bad.items():
        conn.execute("update ordinaut.task set schedule_expr = %s where name = %s", [expr, name])
    conn.execute(
        "alter table ordinaut.task_schedule add constraint not_task77 check (planned_at is null or"
        f" task_id <> '{calls.get_task(conn, 'task77').task_id}')"
    )

    slowest, rounds, more = 0.0, 0, True
    while more:
        begin = time.monotonic()
        more, _ = planner.step(conn)
        slowest = max(slowest, time.monotonic() - begin)
        rounds += 1
        assert rounds < n

    print(f"{n} tasks planned in {rounds} rounds, the longest {slowest:.3f} s")
    assert conn.execute(STATUS).fetchall() == [("active", n - 2), ("invalid", 2)]
    planned = "select count(next_run)::integer from ordinaut.task_schedule"
    assert conn.execute(planned).fetchall() == [(n - 2,)]
    assert slowest < 1  # a tick waits for it; 0.1 s, the last one, and a busy machine
