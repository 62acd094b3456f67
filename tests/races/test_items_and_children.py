"""
Race: the last items of a map, or the children of a run, end on several workers at once.

    item, item            both are counted, and the map ends once
    item, item, rollback  an end that never was is not counted
    child, cancel         the child's end goes by the parent that is being cancelled
    cancel, child         the cancel of the parent waits for the child, and comes too late for it
    child, busy           the parent is held for long: a sweep tells it
    steps, cancel         the child is a run of steps: each holds what the other wants, and neither
                          waits for ever
"""

from __future__ import annotations

import pytest

from tests.races.waits import DONE, lease, parked, started, state, step, swept

CANCEL = "select ordinaut.cancel_run(%s)"


@pytest.fixture
def ann(at):
    return at("ann", "12:00:10")


@pytest.fixture
def bob(at):
    return at("bob", "12:00:10")


@pytest.fixture
def mapped(boss):
    """A run with a map over two items, and the leases of both."""
    run_id = started(boss, [
        {"id": "m", "uses": "echo", "map": {"over": "${params}"}}, {"id": "go", "uses": "echo"},
    ])  # fmt: skip
    parked(boss, run_id, "m", {"kind": "map", "items": [1, 2]})
    return run_id, lease(boss, run_id, "m[0]"), lease(boss, run_id, "m[1]")


def test_item_item(mapped, ann, bob, boss):
    run_id, first, second = mapped
    ann.run(DONE, *first)
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("success",)]
    bob.commit()
    assert (step(boss, run_id, "m").state, step(boss, run_id, "go").state) == ("complete", "ready")
    assert boss.one("select count(*) from ordinaut.due_work where step = 'go'") == 1


def test_item_item_rollback(mapped, ann, bob, boss):
    run_id, first, second = mapped
    ann.run(DONE, *first)
    bob.start(DONE, *second)
    bob.wait_blocked(by=ann)
    ann.rollback()
    bob.result()
    bob.commit()
    assert (step(boss, run_id, "m").state, step(boss, run_id, "m").waits_for) == ("in_progress", 1)
    ann.run(DONE, *first)
    ann.commit()
    assert step(boss, run_id, "m").state == "complete"


@pytest.fixture
def family(boss):
    """A run whose step waits for a child, and the child's lease."""
    boss.run("select ordinaut.create_task('child', 'echo', p_queue => 'subs')")
    run_id = started(boss, [{"id": "sub", "uses": "task"}])
    parked(boss, run_id, "sub", {"kind": "task", "task": "child"})
    [held] = boss.run("select * from ordinaut.lease_work('w', 'subs')")
    boss.commit()
    return run_id, held.run_id, (held.lease_id, held.work_id)


def test_child_cancel(family, ann, bob, boss):
    run_id, child_id, held = family
    bob.run(CANCEL, run_id)  # uncommitted
    ann.start(DONE, *held)  # may wait for the request about it, but not for the parent
    bob.commit()
    assert ann.result() == [("success",)]
    ann.commit()
    swept(ann)
    assert (state(boss, run_id), state(boss, child_id)) == ("cancelled", "success")
    assert boss.one("select count(*) from ordinaut.unheard_end") == 0


def test_cancel_child(family, ann, bob, boss):
    run_id, child_id, held = family
    ann.run(DONE, *held)  # uncommitted: holds the parent
    bob.start(CANCEL, run_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("too_late",)]
    bob.commit()
    assert (state(boss, run_id), state(boss, child_id)) == ("success", "success")


def test_child_busy(family, ann, bob, boss):
    run_id, child_id, held = family
    bob.run("select ordinaut._lock_run(%s)", run_id)
    assert ann.run(DONE, *held) == [("success",)]  # does not wait for the parent
    ann.commit()
    assert state(boss, child_id) == "success"
    swept(ann)
    assert state(boss, run_id) == "running"
    bob.commit()
    swept(ann)
    assert state(boss, run_id) == "success"


def test_steps_cancel(ann, bob, boss):
    boss.run(
        """select ordinaut.create_task('child', p_pipeline => '[{"id": "a", "uses": "echo"}]')"""
    )
    run_id = started(boss, [{"id": "sub", "uses": "task"}])
    parked(boss, run_id, "sub", {"kind": "task", "task": "child"})
    child_id = boss.one("select run_id from ordinaut.due_work where task_id is not null")
    boss.run("select ordinaut.start_run(%s)", child_id)
    boss.commit()
    held = lease(boss, child_id, "a")

    # The one holds the child and wants the parent, the other the reverse: no deadlock.
    ann.run("select ordinaut._lock_run(%s)", child_id)
    bob.start(CANCEL, run_id)
    bob.wait_blocked(by=ann)
    assert ann.run(DONE, *held) == [("success",)]
    ann.commit()
    assert bob.result() == [("cancelled",)]
    bob.commit()
    assert (state(boss, run_id), state(boss, child_id)) == ("cancelled", "success")
    swept(ann)
    assert boss.one("select count(*) from ordinaut.unheard_end") == 0
