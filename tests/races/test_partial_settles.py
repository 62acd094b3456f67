"""
Race: two sessions settle parts of one batch.

    part, other part       the second waits for the row, then ends the lease
    part, same part        the second is told `already`
    part, whole batch      the second settles the rest and is told `already` of the part
    whole batch, part      the second is told `already`
    part rolled back, rest the lease stands for what was not settled
    part, reap             only what is left is taken back and charged
"""

from __future__ import annotations

import pytest

from tests.places import places, run

COMPLETE = "select * from ordinaut.complete_work(%s, %s)"
WHOLE = (
    "select kind, lease_id, work_id from ordinaut._settle(%s, %s, %s, %s, %s, %s, ordinaut.now())"
)


@pytest.fixture
def units(work):
    return sorted(work(3))


@pytest.fixture
def lease(units, lend):
    return lend(3)


@pytest.fixture
def first(at):
    return at("first", "12:00:30")


@pytest.fixture
def second(at):
    return at("second", "12:00:31")


def whole(lease, units):
    n = len(units)
    return WHOLE, lease, units, ["success"] * n, [None] * n, [None] * n, [None] * n


def leases(boss):
    return boss.one("select count(*) from ordinaut.lease")


def test_part_other_part(lease, units, first, second, boss):
    a, b, c = units
    first.run(COMPLETE, lease, a)
    first.commit()
    first.run(COMPLETE, lease, b)
    second.start(COMPLETE, lease, c)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(c, "success")]
    second.commit()
    assert leases(boss) == 0
    assert set(places(boss).values()) == {"task_run"}


def test_part_same_part(lease, units, first, second, boss):
    a = units[0]
    first.run(COMPLETE, lease, a)
    second.start(COMPLETE, lease, a)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(a, "already")]
    second.commit()
    assert leases(boss) == 1


def test_part_whole(lease, units, first, second, boss):
    a = units[0]
    first.run(COMPLETE, lease, a)
    second.start(*whole(lease, units))
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [("already", lease, a)]
    second.commit()
    assert leases(boss) == 0
    assert set(places(boss).values()) == {"task_run"}


def test_whole_part(lease, units, first, second, boss):
    a = units[0]
    assert first.run(*whole(lease, units)) == []
    second.start(COMPLETE, lease, a)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(a, "already")]
    second.commit()
    assert leases(boss) == 0


def test_part_rolled_back_rest(lease, units, first, second, boss):
    a, b, c = units
    first.run(COMPLETE, lease, a)
    second.start(COMPLETE, lease, b)
    second.wait_blocked(by=first)
    first.rollback()

    assert second.result() == [(b, "success")]
    second.commit()
    assert places(boss) == {a: "lease", b: "task_run", c: "lease"}


def test_part_reap(lease, units, first, at, boss):
    a, b, c = units
    reaper = at("reaper", "12:01:01")
    first.run(COMPLETE, lease, a)
    assert reaper.one("select ordinaut.reap()") == 0  # skips the lease that is being settled
    first.commit()

    assert reaper.one("select ordinaut.reap()") == 2
    reaper.commit()
    assert places(boss) == {a: "task_run", b: "due_work", c: "due_work"}
    assert [run(boss, u).crashes for u in units] == [0, 1, 1]
