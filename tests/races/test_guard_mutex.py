"""
Race: a key's mutex is held while another session leases, settles or sweeps that key.

Nobody waits for it, and nobody acts without it:

    mutex, lease     the unit goes back for a moment, neither parked nor leased
    mutex, settle    the run ends, its slot is left to the sweep
    mutex, sweep     the key is passed over
    sweep, mutex     a key that is well is not locked
    move, settle     the slot passes over a row that another session holds
    tools, tools     two sweeps of what waits for tools: the second skips what the first moves
    reap, heartbeat  who waited for its own end is told of it
    settle, cancel   who came too late forgets the request, and no other
    step back        a row that another session holds is skipped
    reap, reap       one notes the server, the other does not wait
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from ordinaut.errors import WorkerUnknown
from tests.places import places

MUTEX = "select ordinaut._try_key('k')"


@pytest.fixture
def holder(at):
    return at("holder", "12:00:00")


@pytest.fixture
def slots(boss):
    def of(key):
        count = "select count(*) from ordinaut.hold where key = %s and slot >= 1"
        return boss.one(count, key)

    return of


def test_mutex_lease(work, holder, boss, slots, at):
    [unit] = work(key="k")
    assert holder.one(MUTEX)

    assert boss.run("select * from ordinaut.lease_work('w1')") == []
    boss.commit()
    assert places(boss) == {unit: "due_work"}
    assert slots("k") == 0
    holder.commit()
    [leased] = at("later", "12:00:00.020").run("select * from ordinaut.lease_work('w1')")
    assert leased.attempt == 1


def test_mutex_settle(work, lend, holder, boss, slots):
    [first] = work(key="k")
    lease = lend(1)
    [second] = work(key="k")
    assert boss.run("select * from ordinaut.lease_work('w1')") == []  # parks it
    boss.commit()
    assert holder.one(MUTEX)

    boss.run("select * from ordinaut.complete_work(%s)", lease)
    boss.commit()
    assert places(boss) == {first: "task_run", second: "parked"}
    assert boss.one("select ordinaut._sweep_holds()") == 0
    boss.commit()
    assert slots("k") == 1
    holder.commit()
    assert boss.one("select ordinaut._sweep_holds()") == 1
    boss.commit()
    assert places(boss) == {first: "task_run", second: "due_work"}


def test_a_sweep_locks_no_key_that_is_well(work, lend, holder, boss):
    work(key="k")
    lend(1)
    work(key="k")
    assert boss.run("select * from ordinaut.lease_work('w1')") == []  # parks it
    boss.commit()
    boss.run("select ordinaut._sweep_holds()")  # uncommitted

    assert holder.one(MUTEX)
    boss.commit()
    holder.commit()


def test_a_sweep_mends_only_keys_whose_mutex_it_has(boss, holder, slots):
    insert = "insert into ordinaut.hold (key, slot, run_id) values (%s, 1, gen_random_uuid())"
    boss.run(insert, "a")
    boss.run(insert, "k")
    boss.commit()
    assert holder.one(MUTEX)

    boss.run("select ordinaut._sweep_holds()")
    assert (slots("a"), slots("k")) == (0, 1)
    boss.rollback()
    holder.rollback()


def test_a_key_passes_over_who_is_being_moved(work, lend, holder, boss):
    [first] = work(key="k")
    lease = lend(1)
    [second] = work(key="k")
    [third] = work(key="k", priority=9)
    assert boss.run("select * from ordinaut.lease_work('w1', p_limit => 2)") == []  # parks them
    boss.commit()
    holder.run("select from ordinaut.parked where work_id = %s for update", second)

    boss.run("select * from ordinaut.complete_work(%s)", lease)  # does not wait
    boss.commit()
    holder.rollback()
    assert places(boss) == {first: "task_run", second: "parked", third: "due_work"}


def test_tools_tools(work, lend, holder, boss, at):
    [unit] = work()
    lease = lend(1)
    boss.run(
        "select * from ordinaut._settle(%s, %s, '{declined}', '{null}', '{null}', '{1}',"
        " ordinaut.now())",
        lease,
        [unit],
    )
    boss.commit()
    assert places(boss) == {unit: "parked"}
    register = "select ordinaut.register_worker(%s, '{default}', '{echo}')"
    holder.run(register, uuid4())  # uncommitted: moves the unit

    boss.run(register, uuid4())  # skips it, does not wait
    boss.commit()
    holder.commit()
    assert places(boss) == {unit: "due_work"}


def test_reap_note(holder, boss):
    holder.run("select ordinaut.reap()")
    holder.commit()
    holder.run("select from ordinaut.server_epoch for update")

    assert boss.one("select ordinaut.reap()") == 0  # does not wait
    boss.commit()
    holder.rollback()


def test_a_reap_that_cannot_note_trusts_the_note_of_this_server_alone(holder, boss, at, worker_id):
    boss.run("select ordinaut.reap()")
    boss.run("update ordinaut.server_epoch set server_run = 'before'")
    boss.commit()
    late = at("late", "12:02:00")
    holder.run("select from ordinaut.server_epoch for update")

    late.run("select ordinaut.reap()")
    assert late.one("select count(*) from ordinaut.worker") == 1  # who knows since when it is up
    late.rollback()
    holder.rollback()
    boss.run("update ordinaut.server_epoch set server_run = ordinaut._server_run()")
    boss.commit()
    holder.run("select from ordinaut.server_epoch for update")
    late.run("select ordinaut.reap()")
    assert late.one("select count(*) from ordinaut.worker") == 0
    late.rollback()


def test_a_step_back_skips_what_is_locked(work, holder, boss, at):
    work(2)
    boss.run("select ordinaut.reap()")
    boss.commit()
    earlier = at("earlier", "11:00:00")
    holder.run("select from ordinaut.due_work limit 1 for update")

    earlier.run("select ordinaut.reap()")  # does not wait
    assert earlier.one("select count(*) from ordinaut.due_work where run_at <= ordinaut.now()") == 1
    earlier.rollback()
    holder.rollback()


def test_a_beat_that_waited_for_its_end_is_told(worker_id, at):
    reaper, worker = at("reaper", "12:01:01"), at("worker", "12:00:59")
    reaper.run("select ordinaut.reap()")  # uncommitted: the worker is dead
    worker.start("select * from ordinaut.heartbeat(%s)", worker_id)
    worker.wait_blocked(by=reaper)
    reaper.commit()

    with pytest.raises(WorkerUnknown):
        worker.result()
    worker.rollback()


def test_a_cancel_that_came_too_late_forgets_its_own_request(work, lend, holder, boss):
    [other] = work()
    lend(1)
    assert boss.one("select ordinaut.cancel_run(%s)", other) == "requested"
    boss.commit()
    [unit] = work()
    [leased] = holder.run("select * from ordinaut.lease_work('w2')")
    holder.run("select * from ordinaut.complete_work(%s)", leased.lease_id)  # uncommitted
    boss.start("select ordinaut.cancel_run(%s)", unit)
    boss.wait_blocked(by=holder)
    holder.commit()

    assert boss.result() == [("too_late",)]
    assert boss.run("select run_id from ordinaut.cancel_request") == [(other,)]
    boss.commit()


def test_two_first_reaps(holder, boss):
    holder.run("select ordinaut.reap()")  # uncommitted: the note is there, unseen

    assert boss.one("select ordinaut.reap()") == 0  # does not wait
    boss.commit()
    holder.commit()
    assert boss.one("select count(*) from ordinaut.server_epoch") == 1
