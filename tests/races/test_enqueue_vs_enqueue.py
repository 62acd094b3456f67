"""
Race: two producers enqueue with the same idempotency key.

    enqueue, enqueue          the second waits for the first, and is told of its run
    enqueue rolled back       the second waits, and is new
    bulk, enqueue             the same, whatever way it came in
    bulk, bulk crosswise      keys are claimed in one order: no deadlock
    enqueue, settle           the settle of the first run waits for nobody
    enqueue, run_now          a task's run and an ad-hoc run share the keys
    ended, enqueue            the key outlives its run by its time, and is then free again
    ended, enqueue, enqueue   at the end of its time only one takes it over
    ended, prune, enqueue     a key that prune forgot is free
    enqueue, prune            a key that is being taken over is skipped
    prune, enqueue            an enqueue that finds its key being forgotten waits, and is new
"""

from __future__ import annotations

import json

import pytest

from tests.places import places

ENQUEUE = """select * from ordinaut.enqueue('echo', p_idempotency_key => %s,
  p_idempotent_for => '1 hour')"""
BULK = "select * from ordinaut.enqueue_many(%s, 'echo') order by ord"


@pytest.fixture
def first(at):
    return at("first", "12:00:00")


@pytest.fixture
def second(at):
    return at("second", "12:00:00")


def enqueue(session, key="order 1"):
    [row] = session.run(ENQUEUE, key)
    return row.run_id, row.outcome


@pytest.fixture
def ended(boss):
    """A run whose key has an hour from noon."""
    run_id, _ = enqueue(boss)
    [row] = boss.run("select * from ordinaut.lease_work('w')")
    boss.run("select * from ordinaut.complete_work(%s)", row.lease_id)
    boss.commit()
    return run_id


def test_enqueue_enqueue(first, second, boss):
    run_id, outcome = enqueue(first)
    assert outcome == "new"
    second.start(ENQUEUE, "order 1")
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(run_id, "existing")]
    second.commit()
    assert places(boss) == {run_id: "due_work"}


def test_enqueue_rolled_back(first, second, boss):
    run_id, _ = enqueue(first)
    second.start(ENQUEUE, "order 1")
    second.wait_blocked(by=first)
    first.rollback()

    [row] = second.result()
    second.commit()
    assert (row.run_id != run_id, row.outcome) == (True, "new")
    assert places(boss) == {row.run_id: "due_work"}


def test_bulk_enqueue(first, second, boss):
    items = [{"idempotency_key": key} for key in ("order 2", "order 1")]
    rows = first.run(BULK, json.dumps(items))
    second.start(ENQUEUE, "order 1")
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(rows[1].run_id, "existing")]
    assert len(places(boss)) == 2


def test_bulk_bulk_crosswise(first, second, boss):
    items = [{"idempotency_key": key} for key in ("order 1", "order 2")]
    rows = first.run(BULK, json.dumps(items))
    second.start(BULK, json.dumps(items[::-1]))
    second.wait_blocked(by=first)
    first.commit()

    told = second.result()
    assert [row.run_id for row in told] == [row.run_id for row in rows][::-1]
    assert {row.outcome for row in told} == {"existing"}


def test_enqueue_settle(first, second, boss):
    run_id, _ = enqueue(boss)
    [row] = boss.run("select * from ordinaut.lease_work('w')")
    boss.commit()
    assert enqueue(first) == (run_id, "existing")  # stays open

    second.run("select * from ordinaut.complete_work(%s)", row.lease_id)
    second.commit()
    assert places(boss) == {run_id: "task_run"}


def test_enqueue_run_now(first, second, boss):
    boss.run("select ordinaut.create_task('t', 'echo')")
    boss.commit()
    run_id, _ = enqueue(first)
    second.start("select * from ordinaut.run_now('t', p_idempotency_key => 'order 1')")
    second.wait_blocked(by=first)
    first.commit()
    assert second.result() == [(run_id, "existing")]


def test_ended_enqueue(ended, first, at):
    assert enqueue(at("soon", "12:59:59")) == (ended, "existing")
    late = at("late", "13:00:00")
    run_id, outcome = enqueue(late)
    late.commit()
    assert (run_id != ended, outcome) == (True, "new")
    assert enqueue(at("later", "23:00:00")) == (run_id, "existing")  # it waits: no end yet


def test_ended_enqueue_enqueue(ended, at, boss):
    one, two = at("one", "13:00:01"), at("two", "13:00:01")
    run_id, outcome = enqueue(one)
    assert outcome == "new"
    two.start(ENQUEUE, "order 1")
    two.wait_blocked(by=one)
    one.commit()
    assert two.result() == [(run_id, "existing")]
    assert places(boss) == {ended: "task_run", run_id: "due_work"}


def test_ended_prune_enqueue(ended, at, boss):
    late = at("late", "13:00:01")
    late.run("select * from ordinaut.prune()")
    late.commit()
    assert boss.one("select count(*) from ordinaut.hold") == 0
    boss.commit()
    assert enqueue(late)[1] == "new"


def test_enqueue_prune(ended, at, boss):
    housekeeper, producer = at("housekeeper", "13:00:01"), at("producer", "13:00:01")
    run_id, outcome = enqueue(producer)
    assert outcome == "new"
    assert housekeeper.run("select * from ordinaut.prune()")  # does not wait, or fail
    housekeeper.commit()
    producer.commit()
    assert enqueue(producer) == (run_id, "existing")


def test_prune_enqueue(ended, at, boss):
    housekeeper, producer = at("housekeeper", "13:00:01"), at("producer", "13:00:01")
    housekeeper.run("select * from ordinaut.prune()")
    producer.start(ENQUEUE, "order 1")
    producer.wait_blocked(by=housekeeper)
    housekeeper.commit()
    [row] = producer.result()
    producer.commit()
    assert (row.run_id != ended, row.outcome) == (True, "new")
