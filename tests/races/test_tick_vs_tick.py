"""
Race: two schedulers tick at the same moment.

Every task is due at 12:01:00.  Whoever locks a schedule row decides its occurrences; nobody waits:

    tick, tick                the second skips the row, and finds nothing due afterwards
    tick rolled back, tick    the second fires it
    tick of a part, tick      the second fires the rest
    tick, tick, clocks apart  each occurrence is decided once, whatever the schedulers think of time
    a chunk fails, tick       the other tasks of the chunk fire once, the broken one is invalid
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
DUE = "2026-03-29 12:01:00+00"


@pytest.fixture
def tasks(boss):
    for name in ("a", "b", "c"):
        boss.run(
            "select ordinaut.create_task(%s, 'echo', p_schedule_kind => 'interval',"
            " p_schedule_expr => '1 min', p_catchup => 'all')",
            name,
        )
    boss.commit()


@pytest.fixture
def first(at):
    return at("first", "12:01:00")


@pytest.fixture
def second(at):
    return at("second", "12:01:00")


def fired(boss):
    """Name each occurrence that has a run."""
    rows = boss.run(
        "select t.name || ' ' || to_char(w.scheduled_for at time zone 'UTC', 'HH24:MI')"
        " from ordinaut.due_work as w"
        " join ordinaut.occurrence as o on o.run_id = w.run_id"
        " join ordinaut.task as t on t.task_id = o.task_id and o.scheduled_for = w.scheduled_for"
        " order by 1"
    )
    boss.commit()
    return [row[0] for row in rows]


def test_tick_tick(tasks, first, second, boss):
    assert first.run(TICK)[0].fired == 3
    assert second.run(TICK)[0].fired == 0  # skips, does not wait
    first.commit()
    second.commit()

    assert second.run(TICK)[0].fired == 0
    second.commit()
    assert fired(boss) == ["a 12:01", "b 12:01", "c 12:01"]


def test_tick_rolled_back_tick(tasks, first, second, boss):
    first.run(TICK)
    first.rollback()
    assert fired(boss) == []

    assert second.run(TICK)[0].fired == 3
    second.commit()
    assert fired(boss) == ["a 12:01", "b 12:01", "c 12:01"]


def test_tick_of_a_part(tasks, first, second, boss):
    assert first.run("select * from ordinaut.tick(2)")[0].fired == 2
    assert second.run(TICK)[0].fired == 1
    second.commit()
    first.commit()
    assert fired(boss) == ["a 12:01", "b 12:01", "c 12:01"]


def test_clocks_apart(tasks, first, at, boss):
    ahead = at("ahead", "12:03:30")
    first.run(TICK)
    assert ahead.run(TICK)[0].fired == 0
    first.commit()
    ahead.commit()

    assert ahead.run(TICK)[0].fired == 6
    ahead.commit()
    assert first.run(TICK)[0].fired == 0  # behind: nothing is due by its clock
    first.commit()
    assert fired(boss) == [f"{name} 12:0{n}" for name in "abc" for n in (1, 2, 3)]


def test_a_chunk_fails(tasks, first, second, boss):
    # A table's owner broke one definition by hand: no function would accept it.
    boss.run("update ordinaut.task set schedule_expr = 'soon' where name = 'b'")
    boss.commit()

    assert first.run(TICK)[0].fired == 2
    assert second.run(TICK)[0].fired == 0
    first.commit()
    second.commit()
    assert fired(boss) == ["a 12:01", "c 12:01"]
    [b] = boss.run("select * from ordinaut.get_task('b')")
    assert (b.status, b.next_run) == ("invalid", None)
    assert "soon" in b.status_note
