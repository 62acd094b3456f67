"""
Race: a tool writes in a transaction of its own while the reaper takes its lease.

assert_lease() at its beginning holds the lease for it; complete_work() is its last statement, so
that writes and completion are one:

    assert, reap             the reaper skips: an open transaction keeps the lease, late or not
    reap, assert             the tool waits, then is fenced off before it writes
    reap, complete           a zombie that did not assert cannot commit either
    assert, rollback, reap   the lease is free again
    assert, other unit       a settle and a heartbeat of the same lease do not wait
    assert, settle by parent what ends the unit's lease waits for the tool
    assert, cancel           the cancel does not wait; the next assert raises
    settled, assert          a unit that is settled is held no more
"""

from __future__ import annotations

import pytest

from ordinaut.errors import LeaseLost, WorkCancelled
from tests.places import places, run

ASSERT = "select ordinaut.assert_lease(%s, %s)"
COMPLETE = "select * from ordinaut.complete_work(%s, %s)"
REAP = "select ordinaut.reap()"
WRITE = "insert into written values (1)"


@pytest.fixture
def tool(at, boss):
    boss.run("create table written (n integer)")
    boss.commit()
    return at("tool", "12:00:59")


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:01")


def written(boss):
    return boss.one("select count(*) from written")


def test_assert_reap(lease, unit, tool, reaper, boss):
    tool.run(ASSERT, lease, unit)
    tool.run(WRITE)
    assert reaper.one(REAP) == 0  # skips, does not wait
    assert tool.run(COMPLETE, lease, unit) == [(unit, "success")]
    tool.commit()

    assert reaper.one(REAP) == 0
    assert (run(boss, unit).state, written(boss)) == ("success", 1)


def test_reap_assert(lease, unit, tool, reaper, boss):
    assert reaper.one(REAP) == 1
    tool.start(ASSERT, lease, unit)
    tool.wait_blocked(by=reaper)
    reaper.commit()

    with pytest.raises(LeaseLost):
        tool.result()
    assert places(boss) == {unit: "due_work"}


def test_reap_complete(lease, unit, tool, reaper, boss):
    tool.run(WRITE)
    assert reaper.one(REAP) == 1
    reaper.commit()

    with pytest.raises(LeaseLost):
        tool.run(COMPLETE, lease, unit)
    tool.rollback()
    assert written(boss) == 0


def test_assert_rollback_reap(lease, unit, tool, reaper, boss):
    tool.run(ASSERT, lease, unit)
    tool.run(WRITE)
    tool.rollback()

    assert reaper.one(REAP) == 1
    reaper.commit()
    assert written(boss) == 0
    with pytest.raises(LeaseLost):
        tool.run(ASSERT, lease, unit)


def test_assert_other_unit(work, lend, tool, at, boss):
    a, b = sorted(work(2))
    lease = lend(2)
    other = at("other", "12:00:59")

    tool.run(ASSERT, lease, a)
    assert other.run(COMPLETE, lease, b) == [(b, "success")]
    assert other.run("select * from ordinaut.heartbeat(%s)", lease) == []
    other.commit()
    tool.run(COMPLETE, lease, a)
    tool.commit()

    assert set(places(boss).values()) == {"task_run"}


def test_assert_settle_by_parent(lease, unit, tool, at, boss):
    parent = at("parent", "12:00:59")
    tool.run(ASSERT, lease, unit)
    parent.start("select * from ordinaut.fail_work(%s, %s, 'timed out')", lease, unit)
    parent.wait_blocked(by=tool)
    tool.rollback()

    assert parent.result() == [(unit, "retry")]
    parent.commit()
    with pytest.raises(LeaseLost):
        tool.run(ASSERT, lease, unit)


def test_assert_cancel(lease, unit, tool, at, boss):
    operator = at("operator", "12:00:59")
    tool.run(ASSERT, lease, unit)
    assert operator.one("select ordinaut.cancel_run(%s)", unit) == "requested"
    operator.commit()

    with pytest.raises(WorkCancelled):
        tool.run(ASSERT, lease, unit)


def test_a_unit_settled_before_is_not_held(work, lend, tool):
    a, b = sorted(work(2))
    lease = lend(2)
    tool.run(COMPLETE, lease, a)
    tool.commit()

    tool.run(ASSERT, lease, b)
    with pytest.raises(LeaseLost):
        tool.run(ASSERT, lease, a)
