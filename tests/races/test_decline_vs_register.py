"""
Race: a worker declines work whose tool it lacks while a worker that has it registers.

The work must not stay parked beside a live worker that could do it:

    register, decline     the decline does not see the worker yet, and parks: the sweep repairs
    decline, register     the register does not see the parked work yet: the sweep repairs
    registered, decline   it is back in a second
    declined, register    the register makes it due
    register rolled back  it stays parked
    two register          each unparks what the other does not hold; nothing moves twice
    another queue         does not count
    the worker falls silent   a decline after its ttl parks
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.places import exchange, places, unit

REGISTER = "select ordinaut.register_worker(%s, %s, '{echo,\"python:*\"}')"


@pytest.fixture
def leased(work, worker_id, boss):
    """Leased by a worker that has echo only."""
    [work_id] = work(1, tool="python:m.f")
    lease_id = uuid4()
    [row] = boss.run(*exchange(worker_id, lease_id, 5))
    boss.commit()
    assert row.work_id == work_id
    return worker_id, lease_id, work_id


@pytest.fixture
def lacking(at):
    return at("lacking", "12:00:30")


@pytest.fixture
def able(at):
    return at("able", "12:00:30")


def decline(session, leased):
    worker_id, lease_id, work_id = leased
    session.run(*exchange(worker_id, None, 0, [(lease_id, work_id, "declined")]))


def sweep(at):
    sweeper = at("sweeper", "12:00:31")
    sweeper.run("select ordinaut.reap()")
    sweeper.commit()


def test_register_decline(leased, lacking, able, at, boss):
    able.run(REGISTER, uuid4(), ["default"])
    decline(lacking, leased)  # neither waits for the other
    lacking.commit()
    able.commit()
    assert places(boss) == {leased[2]: "parked"}

    sweep(at)
    assert places(boss) == {leased[2]: "due_work"}


def test_decline_register(leased, lacking, able, at, boss):
    decline(lacking, leased)
    able.run(REGISTER, uuid4(), ["default"])
    able.commit()
    lacking.commit()
    assert places(boss) == {leased[2]: "parked"}

    sweep(at)
    assert places(boss) == {leased[2]: "due_work"}


def test_registered_decline(leased, lacking, able, boss):
    able.run(REGISTER, uuid4(), ["default"])
    able.commit()
    decline(lacking, leased)
    lacking.commit()

    assert places(boss) == {leased[2]: "due_work"}
    assert f"{unit(boss, leased[2]).run_at:%X}" == "12:00:31"


def test_declined_register(leased, lacking, able, boss):
    decline(lacking, leased)
    lacking.commit()
    assert (unit(boss, leased[2]).status, unit(boss, leased[2]).reason) == ("parked", "tool")

    able.run(REGISTER, uuid4(), ["default"])
    able.commit()
    assert places(boss) == {leased[2]: "due_work"}
    assert unit(boss, leased[2]).failures == 0


def test_register_rolled_back(leased, lacking, able, at, boss):
    decline(lacking, leased)
    lacking.commit()
    able.run(REGISTER, uuid4(), ["default"])
    able.rollback()

    sweep(at)
    assert places(boss) == {leased[2]: "parked"}


def test_two_register(leased, lacking, able, at, boss):
    decline(lacking, leased)
    lacking.commit()
    twin = at("twin", "12:00:30")
    able.run(REGISTER, uuid4(), ["default"])
    twin.run(REGISTER, uuid4(), ["default"])  # skips, does not wait
    twin.commit()
    able.commit()
    assert places(boss) == {leased[2]: "due_work"}


def test_another_queue(leased, lacking, able, boss):
    able.run(REGISTER, uuid4(), ["other"])
    able.commit()
    decline(lacking, leased)
    lacking.commit()
    assert places(boss) == {leased[2]: "parked"}


def test_a_silent_worker(leased, able, at, boss):
    able.run(REGISTER, uuid4(), ["default"])
    able.commit()
    late = at("late", "12:01:31")
    decline(late, leased)
    late.commit()
    assert places(boss) == {leased[2]: "parked"}
