"""
Race: somebody leaves a transaction open.  Who plans and ticks goes on with everything else.

`mine` is the task that the open transaction holds, `other` is not; both `0 * * * *`.

    edit open, plan             mine is left for later, other is planned; nobody waits
    edit open, outdate          so with new time zone data
    edit open, tick             other fires
    run_now open, tick          mine fires for the last time, and is completed
    run_now open, edit          the edit waits: the run has the definition of its start
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
EDIT = """select ordinaut.update_task('mine', '{"priority": 1}')"""
RUN_NOW = "select * from ordinaut.run_now('mine')"
UNPLANNED = "select name from ordinaut.unplanned_tasks() join ordinaut.task using (task_id)"
PLAN = """select ordinaut.plan_task((select task_id from ordinaut.get_task(%s)), 1,
  array['2026-03-29 13:00+00', '2026-03-29 14:00+00']::timestamptz[], '2026-03-29 14:59+00',
  '2026a')"""
OUTDATE = "select ordinaut.outdate_plans('2026b')"


@pytest.fixture(autouse=True)
def tasks(boss):
    for name in ("mine", "other"):
        boss.run(
            "select ordinaut.create_task(%s, 'echo', p_schedule_kind => 'cron',"
            " p_schedule_expr => '0 * * * *')",
            name,
        )
    boss.commit()


@pytest.fixture
def planned(boss):
    for name in ("mine", "other"):
        assert boss.run(PLAN, name) == [(True,)]
    boss.commit()


@pytest.fixture
def owner(at):
    return at("owner", "12:30:00")


@pytest.fixture
def scheduler(at):
    return at("scheduler", "12:30:00")


def test_edit_open_plan(owner, scheduler):
    owner.run(EDIT)
    assert scheduler.run(UNPLANNED) == [("other",)]
    assert scheduler.run(PLAN, "mine") == [(False,)]
    assert scheduler.run(PLAN, "other") == [(True,)]
    scheduler.commit()

    owner.rollback()
    assert scheduler.run(UNPLANNED) == [("mine",)]
    assert scheduler.run(PLAN, "mine") == [(True,)]


def test_edit_open_outdate(planned, owner, scheduler):
    owner.run(EDIT)
    assert scheduler.run(OUTDATE) == [(1,)]
    scheduler.commit()

    owner.commit()
    assert scheduler.run(OUTDATE) == [(1,)]


def test_edit_open_tick(planned, owner, at):
    owner.run(EDIT)
    late = at("late", "13:00:00")
    assert late.run(TICK)[0].fired == 1
    late.commit()

    owner.rollback()
    assert late.run(TICK)[0].fired == 1


def test_run_now_open_tick(planned, boss, owner, at):
    boss.run("""select ordinaut.update_task('mine', '{"payload": {}, "max_runs": 1}')""")
    boss.run(PLAN.replace("), 1", "), 2"), "mine")
    boss.commit()
    owner.run(RUN_NOW)
    late = at("late", "13:00:00")
    assert late.run(TICK)[0].fired == 2
    late.commit()

    owner.commit()
    assert boss.run("select status from ordinaut.get_task('mine')") == [("completed",)]


def test_run_now_open_edit(planned, boss, owner, scheduler):
    owner.run(RUN_NOW)
    scheduler.start(EDIT)
    scheduler.wait_blocked(by=owner)
    owner.commit()
    assert scheduler.result() == [(2,)]
