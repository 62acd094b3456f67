"""The lower bound of a lease follows the last batch, and sweeps look below it."""

from __future__ import annotations

import random

from ordinaut.floors import SECOND, Floors

NOW = 800_000_000 * SECOND


class Middle(random.Random):
    """Jitter without surprise."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def swept(now: float = 0.0) -> Floors:
    floors = Floors(Middle())
    floors.ask(now)
    return floors


def test_the_first_question_is_a_sweep():
    assert Floors(Middle()).ask(0.0) is None


def test_the_bound_is_the_last_batch_less_a_second_per_priority():
    floors = swept()
    floors.learn([(5, NOW), (5, NOW + 7), (1, NOW - 3)])

    asked = floors.ask(1.0)

    assert asked is not None
    assert (asked[0], asked[4]) == (NOW - 3 - SECOND, NOW + 7 - SECOND)
    assert [asked[i] for i in (1, 2, 3, 5, 6, 7, 8)] == [None] * 7


def test_every_five_seconds_the_margin_is_a_minute():
    floors = swept()
    floors.learn([(5, NOW)])

    margins = [NOW - floors.ask(at)[4] for at in (4.9, 5.0, 5.1, 10.1)]

    assert margins == [SECOND, 60 * SECOND, SECOND, 60 * SECOND]


def test_every_minute_and_on_request_there_is_no_bound():
    floors = swept()
    floors.learn([(5, NOW)])

    assert floors.ask(59.0) is not None
    assert floors.ask(60.0) is None
    assert floors.ask(61.0) is not None
    floors.sweep()
    assert floors.ask(61.5) is None


def test_older_work_moves_the_bound_down():
    floors = swept()
    floors.learn([(5, NOW)])
    floors.learn([(5, NOW - 90 * SECOND)])

    assert floors.ask(1.0)[4] == NOW - 91 * SECOND


def test_jitter_keeps_workers_apart():
    times = set()
    for seed in range(20):
        floors = Floors(random.Random(seed))
        floors.ask(0.0)
        floors.learn([(5, NOW)])
        times.add(next(t for t in range(1, 700) if floors.ask(t / 100)[4] < NOW - SECOND))
    assert len(times) > 10
    assert min(times) >= 400
    assert max(times) <= 600


def test_a_backlog_looks_back_less_but_for_every_tenth_of_a_second():
    floors = swept()
    floors.learn([(5, NOW)], backlog=True)

    margins = [NOW - floors.ask(at)[4] for at in (1.0, 1.05, 1.09, 1.1, 1.15)]

    assert margins == [SECOND, SECOND // 100, SECOND // 100, SECOND, SECOND // 100]


def test_a_batch_that_was_not_full_ends_the_backlog():
    floors = swept()
    floors.learn([(5, NOW)], backlog=True)
    floors.ask(1.0)
    floors.learn([])

    assert floors.ask(1.01)[4] == NOW - SECOND
