"""
Race: an event is emitted, and a step begins to wait for it.

    emit, wait            the waiter does not see the event yet: a sweep brings them together
    wait, emit            the emitter does not see the waiter yet: a sweep brings them together
    emit, wait, rollback  an event that never was wakes nobody
    wait, emit, rollback  a wait that never was is offered again, and finds the event
    busy, emit            the run of the waiter is held: the emitter goes by, a sweep wakes it
    emit, emit            two emitters of a topic do not wait for each other; the first counts
    repeatable read       an emitter with an old snapshot leaves it to the sweep
    task held, emit       a task that somebody edits is started when that has ended, once
"""

from __future__ import annotations

import json

import pytest

from tests.races.waits import WAIT, lease, parked, started, state, step, swept

EMIT = "select (e.waiters, cardinality(e.run_ids)) = (%s, %s) from ordinaut.emit_event('t') as e"
EVENT = {"kind": "event", "topic": "t"}


@pytest.fixture
def run_id(boss):
    return started(boss, [{"id": "w", "uses": "wait_for_event"}])


@pytest.fixture
def emitter(at):
    return at("emitter", "12:00:01")


@pytest.fixture
def worker(at):
    return at("worker", "12:00:01")


def test_emit_wait(run_id, boss, emitter, worker):
    held = lease(boss, run_id, "w")
    assert emitter.one(EMIT, 0, 0)  # uncommitted
    assert worker.one(WAIT, *held, json.dumps(EVENT)) == "waiting"  # and does not hang
    worker.commit()
    swept(worker)
    assert state(boss, run_id) == "running"  # nothing is known of it yet
    emitter.commit()
    swept(worker)
    assert state(boss, run_id) == "success"


def test_wait_emit(run_id, boss, emitter, worker):
    held = lease(boss, run_id, "w")
    assert worker.one(WAIT, *held, json.dumps(EVENT)) == "waiting"  # uncommitted
    assert emitter.one(EMIT, 0, 0)
    emitter.commit()
    swept(emitter)  # the waiter holds the topic: the event stays open
    worker.commit()
    assert state(boss, run_id) == "running"
    swept(emitter)
    assert state(boss, run_id) == "success"
    assert boss.one("select count(*) from ordinaut.event where is_open") == 0


def test_emit_wait_rollback(run_id, boss, emitter, worker):
    held = lease(boss, run_id, "w")
    assert emitter.one(EMIT, 0, 0)
    assert worker.one(WAIT, *held, json.dumps(EVENT)) == "waiting"
    worker.commit()
    emitter.rollback()
    swept(worker)
    assert state(boss, run_id) == "running"
    assert boss.one("select count(*) from ordinaut.parked where payload ? 'unsure'") == 0
    boss.commit()
    assert emitter.one(EMIT, 1, 0)  # the next one is seen at once
    emitter.commit()
    assert state(boss, run_id) == "success"


def test_wait_emit_rollback(run_id, boss, emitter, worker):
    held = lease(boss, run_id, "w")
    worker.run(WAIT, *held, json.dumps(EVENT))
    assert emitter.one(EMIT, 0, 0)
    emitter.commit()
    worker.rollback()
    assert worker.one(WAIT, *held, json.dumps(EVENT)) == "success"
    worker.commit()
    assert state(boss, run_id) == "success"


def test_busy_emit(run_id, boss, emitter, worker):
    parked(boss, run_id, "w", EVENT)
    worker.run("select ordinaut._lock_run(%s)", run_id)
    assert emitter.one(EMIT, 0, 0)  # does not wait
    emitter.commit()
    worker.commit()
    swept(worker)
    assert state(boss, run_id) == "success"


def test_emit_emit(run_id, boss, emitter, at):
    parked(boss, run_id, "w", EVENT)
    other = at("other", "12:00:02")
    assert emitter.one(EMIT, 1, 0)  # uncommitted: holds the run
    assert other.one(EMIT, 0, 0)
    other.commit()
    emitter.commit()
    assert step(boss, run_id, "w").output["at"] == "2026-03-29T12:00:01.000000Z"
    swept(other)
    assert state(boss, run_id) == "success"


def test_repeatable_read(run_id, boss, emitter):
    emitter.run("set transaction isolation level repeatable read")
    emitter.run("select 1")  # its snapshot is of now
    parked(boss, run_id, "w", EVENT)
    assert emitter.one(EMIT, 0, 0)
    emitter.commit()
    swept(boss)
    assert state(boss, run_id) == "success"


def test_task_held_emit(boss, emitter, worker):
    boss.run("select ordinaut.create_task('e', 'echo', '{}', 'event', 't')")
    boss.commit()
    worker.run("select ordinaut.update_task('e', '{\"priority\": 3}')")  # uncommitted
    assert emitter.one(EMIT, 0, 0)
    emitter.commit()
    swept(emitter)
    runs = "select priority from ordinaut.due_work where payload #>> '{event,topic}' = 't'"
    assert boss.run(runs) == []
    boss.commit()
    worker.commit()
    swept(emitter)
    swept(emitter)
    assert boss.run(runs) == [(3,)]
