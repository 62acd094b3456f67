"""
Race: one exchange is in flight twice, because the worker sent it again before the first ended.

Twins take turns on the worker's lock, which another worker does not meet:

    first, twin            the twin waits, then gives the same answer and settles nothing
    first rolled back      the twin waits, then does it all
    first finds no work    the twin settles nothing, and leases what came since
    first settles failures the journal tells them once
    one worker, another    neither waits, nor is given the other's batch
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import events, exchange, kinds, places, unit


@pytest.fixture
def held(work, worker_id, boss):
    """The worker's lease of two units."""
    units = sorted(work(2))
    lease_id = uuid4()
    rows = boss.run(*exchange(worker_id, lease_id, 2))
    boss.commit()
    assert kinds(rows) == [("work", u) for u in units]
    return lease_id, units


@pytest.fixture
def first(at):
    return at("first", "12:00:10")


@pytest.fixture
def twin(at):
    return at("twin", "12:00:12")


def test_first_twin(held, work, worker_id, first, twin, boss):
    lease_id, (a, b) = held
    work(4)
    call = exchange(worker_id, uuid4(), 3, [(lease_id, a, "success"), (lease_id, b, "success")])

    batch = first.run(*call)
    twin.start(*call)
    twin.wait_blocked(by=first)
    first.commit()
    answer = twin.result()
    twin.commit()

    assert [row.kind for row in batch] == ["work"] * 3
    assert [row for row in answer if row.kind == "work"] == batch
    assert kinds(answer)[:2] == [("already", a), ("already", b)]
    assert sorted(places(boss).values()) == ["due_work", *["lease"] * 3, *["task_run"] * 2]


def test_first_rolled_back(held, work, worker_id, first, twin, boss):
    lease_id, (a, b) = held
    [c] = work()
    call = exchange(worker_id, uuid4(), 3, [(lease_id, a, "success"), (lease_id, b, "failed")])

    first.run(*call)
    twin.start(*call)
    twin.wait_blocked(by=first)
    first.rollback()

    assert kinds(twin.result()) == [("work", c)]
    twin.commit()
    assert places(boss) == {a: "task_run", b: "due_work", c: "lease"}


def test_first_finds_no_work(held, work, worker_id, first, twin, boss):
    lease_id, (a, b) = held
    call = exchange(worker_id, uuid4(), 3, [(lease_id, a, "success"), (lease_id, b, "success")])

    assert first.run(*call) == []
    [c] = work()
    twin.start(*call)
    twin.wait_blocked(by=first)
    first.commit()

    assert kinds(twin.result()) == [("already", a), ("already", b), ("work", c)]
    twin.commit()
    assert unit(boss, c).attempt == 1


def test_failures_are_told_once(held, worker_id, first, twin, boss):
    lease_id, (a, b) = held
    call = exchange(worker_id, uuid4(), 3, [(lease_id, a, "failed"), (lease_id, b, "timed_out")])

    assert first.run(*call) == []
    twin.start(*call)
    twin.wait_blocked(by=first)
    first.commit()
    twin.result()
    twin.commit()

    assert (unit(boss, a).failures, unit(boss, b).failures) == (1, 1)
    assert events(boss, a).count("failed") == events(boss, b).count("timed_out") == 1


def test_another_worker_does_not_wait(held, work, worker_id, first, twin, boss):
    lease_id, (a, b) = held
    [c] = work()
    other = uuid4()
    boss.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", other)
    boss.commit()

    first.run(*exchange(worker_id, None, 0, [(lease_id, a, "success"), (lease_id, b, "success")]))
    assert kinds(twin.run(*exchange(other, uuid4(), 3))) == [("work", c)]
    first.commit()
    twin.commit()


def test_another_worker_is_not_given_the_batch(held, first, boss):
    lease_id, _ = held
    other = uuid4()
    boss.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", other)
    boss.commit()

    assert first.run(*exchange(other, lease_id, 3)) == []
