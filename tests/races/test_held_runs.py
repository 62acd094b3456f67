"""
Race: workers lease and settle the steps of a run that somebody's open transaction holds.

    hold, exchange          what cannot be settled now is busy, stays leased, and is settled later;
                            a lost answer says so again
    hold, part              so it is with a part of a lease; the rest stays leased
    hold, reap              the lease of a dead worker stays until its run can be had
    hold, lease             a step that is ready is leased all the same, once
    hold, wake              a step that slept is put off, and woken later
    wake, cancel            one that is being woken is left to be, and the run ends after it
"""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from tests.places import exchange, kinds, run
from tests.races.waits import (
    CANCEL,
    JOIN,
    LEASE,
    PAIR,
    due,
    lease,
    parked,
    started,
    state,
    states,
    step,
)

HOLD = "select ordinaut._lock_run(%s)"


@pytest.fixture
def ann(at):
    return at("ann", "12:00:10")


@pytest.fixture
def bob(at):
    return at("bob", "12:00:10")


@pytest.fixture
def run_id(boss):
    return started(boss, JOIN)


@pytest.fixture
def pair_id(boss):
    return started(boss, PAIR)


@pytest.fixture
def batch(boss, worker_id):
    """A lease of a registered worker: a step of each of two runs, and a unit of its own."""
    runs = [started(boss, [{"id": name, "uses": "echo"}]) for name in ("one", "two")]
    boss.run("select ordinaut.enqueue('echo')")
    held = uuid4()
    found = {row.step: row for row in boss.run(*exchange(worker_id, held, 3)) if row.kind == "work"}
    boss.commit()
    return held, [found[name] for name in ("one", "two", None)], runs


def test_hold_exchange(batch, worker_id, ann, bob, boss):
    held, (one, two, alone), (held_id, other_id) = batch
    beside, _ = lease(boss, started(boss, [{"id": "beside", "uses": "echo"}]), "beside")
    ann.run(HOLD, held_id)
    call = exchange(
        worker_id, uuid4(), 3, [(held, u.work_id, "success") for u in (one, two, alone)]
    )
    since = time.monotonic()
    assert kinds(bob.run(*call)) == [("busy", one.work_id)]
    assert time.monotonic() - since < 1, "it waited for the run"
    bob.commit()
    assert (state(boss, other_id), run(boss, alone.run_id).state) == ("success", "success")
    assert states(boss, held_id) == ("running", "in_progress")

    # The answer was lost; then the run is free.
    already = sorted((("already", u.work_id) for u in (two, alone)), key=str)
    assert kinds(bob.run(*call)) == [*already, ("busy", one.work_id)]
    bob.commit()
    ann.commit()
    assert bob.run(*exchange(worker_id, uuid4(), 3, [(held, one.work_id, "success")])) == []
    bob.commit()
    assert states(boss, held_id) == ("success", "complete")
    assert boss.run("select lease_id, settled from ordinaut.lease") == [(beside, [])]


def test_hold_part(batch, worker_id, ann, bob, boss):
    held, (one, two, alone), (held_id, other_id) = batch
    ann.run(HOLD, held_id)
    part = [(held, u.work_id, "success") for u in (one, two)]
    assert kinds(bob.run(*exchange(worker_id, uuid4(), 3, part))) == [("busy", one.work_id)]
    bob.commit()
    ann.commit()
    assert (state(boss, other_id), state(boss, held_id)) == ("success", "running")
    settled = boss.one("select settled from ordinaut.lease where lease_id = %s", held)
    assert settled == [two.work_id]
    boss.commit()
    rest = [(held, u.work_id, "success") for u in (one, alone)]
    assert bob.run(*exchange(worker_id, uuid4(), 3, rest)) == []
    bob.commit()
    assert (states(boss, held_id), run(boss, alone.run_id).state) == (
        ("success", "complete"),
        "success",
    )


def test_hold_reap(run_id, ann, at, boss):
    reaper = at("reaper", "12:02:00")
    _, step_id = lease(boss, run_id, "a")
    ann.run(HOLD, run_id)
    assert reaper.one("select ordinaut.reap()") == 0
    reaper.commit()
    assert states(boss, run_id) == ("running", "in_progress", "ready", "pending")
    ann.commit()
    assert reaper.one("select ordinaut.reap()") == 1
    reaper.commit()
    assert states(boss, run_id) == ("running", "waiting_for_retry", "ready", "pending")
    assert boss.one("select crashes from ordinaut.step where step_id = %s", step_id) == 1


def test_hold_lease(run_id, pair_id, ann, at, boss):
    late = at("late", "12:02:00")
    parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, pair_id)
    assert sorted(row.step for row in late.run(LEASE)) == ["a", "b", "b"]  # and wakes who slept
    late.commit()
    ann.commit()
    assert states(boss, pair_id) == ("running", "in_progress", "in_progress")
    assert states(boss, run_id) == ("running", "complete", "in_progress", "pending")
    assert due(boss) == []


def test_hold_wake(run_id, ann, at, boss):
    late = at("late", "12:02:00")
    boss.run("select ordinaut.skip_step(%s)", step(boss, run_id, "b").step_id)
    slept = parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, run_id)
    assert late.run(LEASE) == []
    late.commit()
    assert states(boss, run_id)[1] == "in_progress"
    assert boss.one("select attempt from ordinaut.due_work where work_id = %s", slept) == 1
    ann.commit()
    late.at("2026-03-29 12:02:01+00")
    assert [row.step for row in late.run(LEASE)] == ["j"]
    late.commit()
    assert states(boss, run_id) == ("running", "complete", "skipped", "in_progress")


def test_wake_cancel(run_id, ann, at, boss):
    late = at("late", "12:02:00")
    boss.run("select ordinaut.skip_step(%s)", step(boss, run_id, "b").step_id)
    parked(boss, run_id, "a", {"kind": "sleep", "seconds": 60})
    ann.run(HOLD, run_id)
    assert late.run(LEASE) == []  # uncommitted: it has the unit, and puts it off
    assert ann.run(CANCEL, run_id) == [("requested",)]
    ann.commit()
    late.commit()
    assert states(boss, run_id) == ("running", "in_progress", "skipped", "cancelled")
    late.at("2026-03-29 12:02:01+00")
    assert late.run(LEASE) == []
    late.commit()
    assert states(boss, run_id) == ("cancelled", "complete", "skipped", "cancelled")
