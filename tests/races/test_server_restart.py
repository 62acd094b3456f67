"""
Race: the server comes back after an outage, and the reaper is faster than the workers.

While the server was away nobody could be seen.  A test makes it a new server run by giving the one
row of server_epoch another name: from the first reap that notices, silence counts anew.

    outage, reap                nobody is judged within one ttl of the new run
    outage, heartbeat           who comes back within it keeps what it holds
    outage, silence             who does not is reaped when it is over
    outage, settle              a result that waited for the server is stored
    outage, ad-hoc lease        has an end of its own: it is not prolonged
    outage, reap, reap          a reaper beside the one that notes the new run judges nobody
    the first reap of all       a reaper beside it does not wait for it
    noticed late                the ttl counts from the reap that noticed, not from the start
"""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from ordinaut.errors import WorkerUnknown
from tests.places import exchange, places

REAP = "select ordinaut.reap()"


@pytest.fixture
def held(work, worker_id, boss) -> tuple[UUID, UUID, UUID]:
    """A worker with a ttl of a minute, last seen at noon, and what it holds; then the outage."""
    [work_id] = work()
    lease_id = uuid4()
    boss.run(REAP)
    boss.run(*exchange(worker_id, lease_id, 1))
    boss.run("update ordinaut.server_epoch set server_run = 'the run before'")
    boss.commit()
    return worker_id, lease_id, work_id


def reap(session):
    n = session.one(REAP)
    session.commit()
    return n


def test_outage_reap(held, at, boss):
    assert reap(at("first", "13:00:00")) == 0
    assert reap(at("second", "13:01:00")) == 0
    assert places(boss) == {held[2]: "lease"}


def test_outage_heartbeat(held, at, boss):
    assert reap(at("reaper", "13:00:00")) == 0
    worker = at("worker", "13:00:59")
    beat = "select * from ordinaut.heartbeat(%s, p_lease_ids => %s::uuid[])"
    assert worker.run(beat, held[0], [held[1]]) == []
    worker.commit()
    assert reap(at("later", "13:01:30")) == 0
    assert places(boss) == {held[2]: "lease"}


def test_outage_silence(held, at, boss):
    assert reap(at("first", "13:00:00")) == 0
    assert reap(at("second", "13:01:01")) == 1
    assert places(boss) == {held[2]: "due_work"}
    with pytest.raises(WorkerUnknown):
        at("worker", "13:01:02").run("select * from ordinaut.heartbeat(%s, '1 min', '{}')", held[0])


def test_outage_settle(held, at, boss):
    assert reap(at("reaper", "13:00:00")) == 0
    worker = at("worker", "13:00:01")
    assert worker.run(*exchange(held[0], None, 0, [(held[1], held[2], "success")])) == []
    worker.commit()
    assert places(boss) == {held[2]: "task_run"}


def test_outage_ad_hoc_lease(work, at, boss):
    [work_id] = work()
    boss.run(REAP)
    boss.run("select * from ordinaut.lease_work('w', p_for => '1 min')")
    boss.run("update ordinaut.server_epoch set server_run = 'the run before'")
    boss.commit()
    assert reap(at("reaper", "13:00:00")) == 1
    assert places(boss) == {work_id: "due_work"}


def test_outage_reap_reap(held, at, boss):
    first, second = at("first", "13:00:00"), at("second", "13:00:00")
    assert first.one(REAP) == 0  # notes the new run, uncommitted
    assert second.one(REAP) == 0  # neither waits for it nor judges by the old one
    second.commit()
    first.commit()
    assert places(boss) == {held[2]: "lease"}


def test_noticed_late(held, at):
    assert reap(at("first", "18:00:00")) == 0
    assert reap(at("second", "18:01:00")) == 0
    assert reap(at("third", "18:01:01")) == 1


def test_the_first_reap_of_all(work, at):
    first, second = at("first", "13:00:00"), at("second", "13:00:00")
    first.run(REAP)
    assert second.one(REAP) == 0
    second.commit()
    first.commit()
    assert reap(second) == 0
