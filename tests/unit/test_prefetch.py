"""A worker leases what it can start soon, and no more."""

from __future__ import annotations

import pytest

from ordinaut.prefetch import AHEAD, ASYNC_LIMIT, BATCH, HORIZON, PATIENCE, QUANTUM, Pace


def paced(**seconds: float) -> Pace:
    pace = Pace()
    for tool, cost in seconds.items():
        pace.learn(tool.encode(), 100, 100 * cost)
    return pace


@pytest.mark.parametrize("free", [0, 3, 8])
def test_of_unknown_work_it_takes_what_free_slots_can_start(free):
    assert Pace().want(8, free, 8 - free) == free


@pytest.mark.parametrize("free", [0, 3, 8])
def test_of_slow_work_it_takes_what_free_slots_can_start(free):
    assert paced(slow=2.0).want(8, free, 8 - free) == free


def test_of_fast_work_it_takes_what_starts_within_the_horizon():
    assert paced(fast=0.01 - 15e-6).want(8, 0, 8) == int(8 * HORIZON / 0.01) - 8


def test_it_never_holds_more_than_two_batches():
    pace = paced(noop=1e-6)

    assert pace.want(8, 8, 0) == BATCH
    assert pace.want(8, 0, BATCH) == AHEAD - BATCH
    assert pace.want(8, 0, AHEAD) == 0


def test_an_unknown_tool_in_a_batch_stops_leasing_ahead():
    pace = paced(noop=1e-6)

    pace.meet({b"noop", b"new"})

    assert pace.want(8, 2, 100) == 2


def test_a_sudden_slowness_is_believed_at_once():
    pace = paced(tool=0.001)

    pace.learn(b"tool", 1, 2.0)

    assert pace.cost(b"tool") == pytest.approx(2.0, rel=0.01)


def test_async_units_share_a_slot():
    pace = Pace()
    pace.shared.add(b"fetch")
    pace.learn(b"fetch", 1, 1.0)

    assert pace.cost(b"fetch") == pytest.approx(1.0 / ASYNC_LIMIT, rel=0.01)


def test_surplus_begins_where_the_wait_grows_too_long():
    pace = paced(slow=2.0, quick=PATIENCE / 10)

    assert pace.surplus([b"quick"] * 100, slots=2) == 19
    assert pace.surplus([b"quick", b"slow", b"quick"], slots=2) == 1
    assert pace.surplus([b"unknown"], slots=8) == 0
    assert pace.surplus([], slots=8) == 0


def test_shares_are_fair_and_worth_a_message():
    assert paced(noop=1e-6).share(10, 8) == QUANTUM
    assert paced(quick=0.01).share(100, 4) == pytest.approx(0.25, rel=0.01)
