"""
Race: a worker settles its unit while the reaper takes the lease back.

At 12:00:59 by the worker's clock the lease stands; at 12:01:01 by the reaper's it has run out.
Exactly one of them may win, whichever commits first:

    settle, reap           the reaper skips the locked row, then finds it settled
    reap, settle           the worker waits for the row, then is fenced off
    reap rolled back       the worker waits, then settles
    reap, lease, settle    the first lessee is fenced off though another holds the unit now
    settle late, no reaper accepted: late alone is no reason to throw work away
    reap, reap             the second skips; the unit is charged once
    abandoned, settle      the end that the reaper wrote is no settle of the lessee's
    reap of a cancelled    neither is a cancel that the reaper carried out
"""

from __future__ import annotations

import pytest

from ordinaut.errors import LeaseLost
from tests.places import events, places, run

COMPLETE = "select * from ordinaut.complete_work(%s, %s, '1')"
REAP = "select ordinaut.reap()"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:59")


@pytest.fixture
def reaper(at):
    return at("reaper", "12:01:01")


def test_settle_reap(lease, unit, worker, reaper, boss):
    worker.run(COMPLETE, lease, unit)  # uncommitted: holds the row
    assert reaper.one(REAP) == 0  # skips, does not wait
    worker.commit()

    assert reaper.one(REAP) == 0  # nothing left to take
    assert run(boss, unit).state == "success"


def test_reap_settle(lease, unit, worker, reaper, boss):
    assert reaper.one(REAP) == 1  # uncommitted: holds the row
    worker.start(COMPLETE, lease, unit)
    worker.wait_blocked(by=reaper)
    reaper.commit()

    with pytest.raises(LeaseLost):
        worker.result()
    worker.rollback()
    assert places(boss) == {unit: "due_work"}
    assert run(boss, unit).crashes == 1


def test_reap_rolled_back(lease, unit, worker, reaper, boss):
    reaper.run(REAP)
    worker.start(COMPLETE, lease, unit)
    worker.wait_blocked(by=reaper)
    reaper.rollback()

    assert worker.result() == [(unit, "success")]
    worker.commit()
    assert run(boss, unit).crashes == 0


@pytest.mark.parametrize("verb", ["complete_work", "fail_work", "release_work"])
def test_a_zombie_is_fenced_off(lease, unit, worker, reaper, boss, verb):
    reaper.run(REAP)
    reaper.commit()
    [again] = reaper.run("select * from ordinaut.lease_work('w2')")
    reaper.commit()

    with pytest.raises(LeaseLost):
        worker.run(f"select * from ordinaut.{verb}(%s, %s)", lease, unit)
    worker.rollback()
    assert again.attempt == 2
    assert reaper.run(COMPLETE, again.lease_id, unit) == [(unit, "success")]
    reaper.commit()
    assert events(boss, unit) == ["enqueued", "crashed", "started", "finished"]


def test_settle_late_with_no_reaper(lease, unit, at, boss):
    late = at("late", "15:00:00")

    assert late.run(COMPLETE, lease, unit) == [(unit, "success")]
    late.commit()
    assert run(boss, unit).state == "success"


def test_reap_reap(lease, unit, reaper, at, boss):
    other = at("other", "12:01:01")
    boss.run(REAP)  # the first ever notes the server's epoch; then nobody waits for anybody
    boss.commit()

    assert reaper.one(REAP) == 1
    assert other.one(REAP) == 0
    reaper.commit()
    other.commit()

    assert run(boss, unit).crashes == 1


def test_abandoned_settle(unit, lend, worker, reaper, at, boss):
    for _ in range(3):
        lease = lend(1)
        reaper.run(REAP)
        reaper.commit()
    assert run(boss, unit).state == "abandoned"

    with pytest.raises(LeaseLost):
        worker.run(COMPLETE, lease, unit)
    worker.rollback()
    assert run(boss, unit).state == "abandoned"


def test_reap_of_a_cancelled_unit(lease, unit, worker, reaper, boss):
    assert boss.one("select ordinaut.cancel_run(%s)", unit) == "requested"
    boss.commit()
    reaper.run(REAP)
    reaper.commit()

    with pytest.raises(LeaseLost):
        worker.run(COMPLETE, lease, unit)
    worker.rollback()
    assert run(boss, unit).state == "cancelled"
