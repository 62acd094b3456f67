"""
Race: the server's clock steps back an hour, from 13:00 to 12:00, while work and workers live.

What was stamped before the step lies in the future now.  The first reap after it repairs that:

    step, lease           before a reap, immediate work waits: it is `not due`
    step, reap, lease     immediate work runs, and the workers are told to sweep
    scheduled work        keeps its instant: it was never meant for now
    step, silence         a worker seen at 13:00 is not immortal: it has one ttl from 12:00
    step, ad-hoc lease    ends as long after the step as it would have ended
    step, reap, reap      the second does not wait, and repairs nothing twice
    step, settle          a run does not end before it began
    step, heartbeat       a lease of before the step is not taken for unknown
    a jitter of a second  is none
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import exchange, places, run, unit

LEASE = "select * from ordinaut.lease_work('w', p_limit => 10)"
REAP = "select ordinaut.reap()"


@pytest.fixture
def before(at):
    """13:00, and a reap that saw it."""
    before = at("before", "13:00:00")
    before.run(REAP)
    before.commit()
    return before


@pytest.fixture
def after(at):
    return at("after", "12:00:00")


@pytest.fixture
def stamped(before):
    work_id = before.one("select e.run_id from ordinaut.enqueue('echo') as e")
    before.commit()
    return work_id


def reap(session):
    n = session.one(REAP)
    session.commit()
    return n


def lease(session):
    rows = session.run(LEASE)
    session.commit()
    return [row.work_id for row in rows]


def test_step_lease(stamped, after):
    assert lease(after) == []
    [row] = after.run(
        "select reason from ordinaut.why(%s::text) where reason <> 'no_worker'", stamped
    )
    assert row.reason == "not_due"


def test_step_reap_lease(stamped, after, boss):
    assert reap(after) == 0
    assert boss.one("select count(*) from ordinaut.queue where sweep_requested_at is not null") == 1
    assert lease(after) == [stamped]
    assert boss.one("select count(*) from ordinaut.run_log where event = 'clock_stepped_back'") == 1


def test_scheduled_work(before, after, boss):
    wish = "select e.run_id from ordinaut.enqueue('echo', p_delay => '10 min') as e"
    scheduled = before.one(wish)
    before.commit()
    reap(after)
    assert f"{unit(boss, scheduled).run_at:%X}" == "13:10:00"


def test_step_silence(work, before, after, at, boss):
    [work_id] = work()
    worker_id = uuid4()
    before.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", worker_id)
    before.run(*exchange(worker_id, uuid4(), 1))
    before.commit()
    reap(after)

    assert reap(at("within its ttl", "12:01:00")) == 0
    assert reap(at("silent", "12:01:01")) == 1
    assert places(boss) == {work_id: "due_work"}


def test_step_ad_hoc_lease(work, before, after, at, boss):
    [work_id] = work()
    before.run("select * from ordinaut.lease_work('w', p_for => '1 min')")
    before.commit()
    reap(after)
    assert reap(at("early", "12:00:59")) == 0
    assert reap(at("late", "12:01:00")) == 1
    assert places(boss) == {work_id: "due_work"}


def test_step_reap_reap(stamped, after, at, boss):
    twin = at("twin", "12:00:00")
    after.run(REAP)
    assert twin.one(REAP) == 0  # does not wait
    twin.commit()
    after.commit()
    assert reap(twin) == 0
    assert boss.one("select count(*) from ordinaut.run_log where event = 'clock_stepped_back'") == 1
    assert places(boss) == {stamped: "due_work"}


def test_step_settle(stamped, before, after, boss):
    [held] = before.run(LEASE)
    before.commit()
    after.run("select * from ordinaut.complete_work(%s)", held.lease_id)
    after.commit()
    done = run(boss, stamped)
    assert done.state == "success"
    assert done.started_at <= done.finished_at


def test_step_heartbeat(work, before, after, at, boss):
    [work_id] = work()
    worker_id, lease_id = uuid4(), uuid4()
    before.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", worker_id)
    before.run(*exchange(worker_id, lease_id, 1))
    before.commit()
    reap(after)
    beat = "select * from ordinaut.heartbeat(%s, p_lease_ids => %s::uuid[])"
    assert after.run(beat, worker_id, [lease_id]) == []
    after.commit()
    assert places(boss) == {work_id: "lease"}


def test_a_jitter_of_a_second(stamped, at, boss):
    reap(at("jitter", "12:59:59.5"))
    assert boss.one("select count(*) from ordinaut.run_log where event = 'clock_stepped_back'") == 0
