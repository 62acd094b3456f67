"""
Race: tick has to cancel a run that somebody's open transaction holds (overlap cancel_other).

    cancel open, tick      the other task fires; mine is decided by a later tick
    enqueue open, tick     so when the transaction holds the key of the run that waits
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"


@pytest.fixture(autouse=True)
def tasks(boss, at):
    boss.run(
        "select ordinaut.create_task('mine', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 min', p_overlap => 'cancel_other', p_key => 'k')"
    )
    boss.run(
        "select ordinaut.create_task('other', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 min')"
    )
    boss.commit()
    first = at("first", "12:01:00")
    assert first.run(TICK)[0].fired == 2
    first.commit()


@pytest.fixture
def owner(at):
    return at("owner", "12:01:30")


@pytest.fixture
def late(at):
    late = at("late", "12:02:00")
    late.run("set lock_timeout = '5s'")  # as ordinaut.db sets it
    late.commit()
    return late


def others(boss):
    rows = boss.run("select run_id from ordinaut.list_runs('other')")
    boss.commit()
    return len(rows)


@pytest.mark.parametrize("hold", ["cancel", "enqueue"])
def test_open_tick(owner, late, boss, hold):
    if hold == "cancel":
        [run] = owner.run("select run_id from ordinaut.list_runs('mine')")
        owner.run("select ordinaut.cancel_run(%s)", run.run_id)
    else:
        owner.run("select * from ordinaut.enqueue('echo', p_key => 'k')")
    late.run(TICK)
    late.commit()
    assert others(boss) == 2  # the third party's transaction is still open

    owner.rollback()
    late.run(TICK)
    late.commit()
    rows = boss.run("select state from ordinaut.list_runs('mine') order by run_id")
    assert [row.state for row in rows] == ["cancelled", "pending"]
