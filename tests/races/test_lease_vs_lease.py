"""
Race: two workers lease from one queue at the same time.

Nobody waits, nobody shares, and what the first gives up the second may have:

    lease, lease              the second skips the locked rows and takes the next ones
    lease, lease of one unit  the second finds nothing
    lease rolled back, lease  the unit is there again, as if never leased
    lease, lease by rank      the second gets the lower priority, although it is older
"""

from __future__ import annotations

import pytest

LEASE = "select * from ordinaut.lease_work(%s, p_limit => %s)"


@pytest.fixture
def first(at):
    return at("first", "12:00:01")


@pytest.fixture
def second(at):
    return at("second", "12:00:01")


def ids(rows):
    return {row.work_id for row in rows}


def test_two_leases_never_share(work, first, second):
    units = work(5)

    mine = first.run(LEASE, "w1", 3)  # uncommitted: holds three rows
    theirs = second.run(LEASE, "w2", 3)  # skips them, does not wait
    first.commit()
    second.commit()

    assert (len(mine), len(theirs)) == (3, 2)
    assert ids(mine) | ids(theirs) == set(units)
    assert second.run(LEASE, "w2", 3) == []


def test_one_unit_is_leased_once(work, first, second):
    work()

    assert len(first.run(LEASE, "w1", 1)) == 1
    assert second.run(LEASE, "w2", 1) == []
    first.commit()
    assert second.run(LEASE, "w2", 1) == []


def test_a_lease_that_is_rolled_back_never_happened(work, first, second):
    work()

    first.run(LEASE, "w1", 1)
    first.rollback()
    [leased] = second.run(LEASE, "w2", 1)
    second.commit()

    assert leased.attempt == 1


def test_a_priority_is_taken_before_a_lower_one_that_is_older(work, first, second):
    [low] = work(priority=9)
    [high] = work(priority=1)

    assert ids(first.run(LEASE, "w1", 1)) == {high}
    assert ids(second.run(LEASE, "w2", 1)) == {low}
    first.commit()
    second.commit()


def test_what_is_not_due_is_leased_by_nobody(work, at, first):
    work(run_at="2026-03-29 12:00:10+00")
    later = at("later", "12:00:10")

    assert first.run(LEASE, "w1", 1) == []
    assert len(later.run(LEASE, "w2", 1)) == 1
    later.commit()
