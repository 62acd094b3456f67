"""
Race: one lease is settled twice at once: by twins of one process, or by a call sent again.

    complete, complete     the second waits for the first, then is told `already`
    complete, fail         the first word stands; the second is told `already`
    fail, complete         the same: the unit is retried although its twin succeeded
    rollback, complete     the second waits, then settles: nothing had happened
    complete, then again   a repeat is answered `already`, and naming no unit says `lost`
"""

from __future__ import annotations

import pytest

from ordinaut.errors import LeaseLost
from tests.places import events, places, run

COMPLETE = "select * from ordinaut.complete_work(%s, %s, '1')"
FAIL = "select * from ordinaut.fail_work(%s, %s, 'broken')"


@pytest.fixture
def first(at):
    return at("first", "12:00:30")


@pytest.fixture
def second(at):
    return at("second", "12:00:31")


def test_complete_complete(lease, unit, first, second, boss):
    assert first.run(COMPLETE, lease, unit) == [(unit, "success")]
    second.start(COMPLETE, lease, unit)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(unit, "already")]
    assert run(boss, unit).state == "success"


def test_complete_fail(lease, unit, first, second, boss):
    first.run(COMPLETE, lease, unit)
    second.start(FAIL, lease, unit)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(unit, "already")]
    second.commit()
    assert run(boss, unit).state == "success"
    assert events(boss, unit) == ["enqueued", "started", "finished"]


def test_fail_complete(lease, unit, first, second, boss):
    assert first.run(FAIL, lease, unit) == [(unit, "retry")]
    second.start(COMPLETE, lease, unit)
    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == [(unit, "already")]
    second.commit()
    assert places(boss) == {unit: "due_work"}
    assert events(boss, unit) == ["enqueued", "failed"]


def test_rollback_complete(lease, unit, first, second, boss):
    first.run(FAIL, lease, unit)
    second.start(COMPLETE, lease, unit)
    second.wait_blocked(by=first)
    first.rollback()

    assert second.result() == [(unit, "success")]
    second.commit()
    assert run(boss, unit).failures == 0


def test_a_repeat_is_told_what_it_asks_for(lease, unit, first):
    first.run(COMPLETE, lease, unit)
    first.commit()

    assert first.run(COMPLETE, lease, unit) == [(unit, "already")]
    with pytest.raises(LeaseLost):
        first.run(COMPLETE, lease, None)
