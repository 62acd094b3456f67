"""
Race: a task is due at the moment when its live run ends, for each overlap policy.

The run of 12:01 is leased; the task is due again at 12:02:

    settle, tick (skip)            before the settle commits the run is live: skipped
    settled, tick (skip)           fires
    tick (cancel_other), settle    it succeeds in spite of the request; then the new one starts
    tick (cancel_other), fail      it ends as cancelled, not retried; then the new one starts
    tick (cancel_other), reap      so it does when its lease ran out
    tick (buffer_all), lease       nobody gets the new run while the old one is live
"""

from __future__ import annotations

import pytest

TICK = "select * from ordinaut.tick()"
LEASE = "select * from ordinaut.lease_work('w2')"
COMPLETE = "select * from ordinaut.complete_work(%s)"


@pytest.fixture
def leased(boss, at):
    """Create the task with this policy, and lease its first run."""

    def make(overlap):
        boss.run(
            "select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval',"
            " p_schedule_expr => '1 min', p_overlap => %s)",
            overlap,
        )
        boss.commit()
        first = at("first", "12:01:00")
        assert first.run(TICK)[0].fired == 1
        [unit] = first.run("select * from ordinaut.lease_work('w1', p_for => '10 min')")
        first.commit()
        return unit

    return make


@pytest.fixture
def scheduler(at):
    return at("scheduler", "12:02:00")


@pytest.fixture
def worker(at):
    return at("worker", "12:02:00")


def decisions(boss):
    rows = boss.run("select * from ordinaut.occurrence order by scheduled_for")
    boss.commit()
    return [row.decision for row in rows]


def states(boss):
    rows = boss.run("select state from ordinaut.list_runs('beat')")
    boss.commit()
    return [row.state for row in rows]


def lease_at(at, time):
    """Lease as some worker would; return how many units it got."""
    other = at(f"lease at {time}", time)
    rows = other.run(LEASE)
    other.commit()
    return len(rows)


def test_settle_tick_skip(leased, scheduler, worker, boss):
    unit = leased("skip")
    worker.run(COMPLETE, unit.lease_id)
    assert scheduler.run(TICK)[0].fired == 0  # does not wait for the settle
    scheduler.commit()
    worker.commit()
    assert decisions(boss) == ["fired", "skipped"]


def test_settled_tick_skip(leased, scheduler, worker, boss):
    unit = leased("skip")
    worker.run(COMPLETE, unit.lease_id)
    worker.commit()
    assert scheduler.run(TICK)[0].fired == 1
    scheduler.commit()
    assert decisions(boss) == ["fired", "fired"]


def test_tick_cancel_other_settle(leased, scheduler, worker, at, boss):
    unit = leased("cancel_other")
    assert scheduler.run(TICK)[0].fired == 1
    scheduler.commit()
    assert lease_at(at, "12:02:01") == 0  # beside the live run it does not start

    worker.run(COMPLETE, unit.lease_id)
    worker.commit()
    assert lease_at(at, "12:02:02") == 1
    assert states(boss) == ["running", "success"]


def test_tick_cancel_other_fail(leased, scheduler, worker, at, boss):
    unit = leased("cancel_other")
    scheduler.run(TICK)
    scheduler.commit()
    assert lease_at(at, "12:02:01") == 0

    worker.run("select * from ordinaut.fail_work(%s, p_error => 'stopped')", unit.lease_id)
    worker.commit()
    assert lease_at(at, "12:02:02") == 1
    assert states(boss) == ["running", "cancelled"]


def test_tick_cancel_other_reap(leased, scheduler, at, boss):
    leased("cancel_other")
    scheduler.run(TICK)
    scheduler.commit()
    assert lease_at(at, "12:10:59") == 0

    reaper = at("reaper", "12:11:01")
    reaper.run("select ordinaut.reap()")
    reaper.commit()
    assert lease_at(at, "12:11:02") == 1
    assert states(boss) == ["running", "cancelled"]


def test_tick_buffer_all_lease(leased, scheduler, worker, at, boss):
    unit = leased("buffer_all")
    scheduler.run(TICK)
    scheduler.commit()
    assert decisions(boss) == ["fired", "buffered"]
    assert lease_at(at, "12:02:01") == 0

    worker.run(COMPLETE, unit.lease_id)
    assert lease_at(at, "12:02:02") == 0  # not before the end is committed
    worker.commit()
    assert lease_at(at, "12:02:03") == 1
