"""
Where in a queue to begin looking: a lower bound on run_at, per priority.

Under a held xmin horizon the head of a queue fills with dead entries, and whoever reads from the
start walks all of them at every lease.  So a worker passes the highest run_at of its last batch,
less a margin for work that commits late.  The bound is a hint and never needed for correctness:
what it hides, a sweep finds.

    every call of a backlog, while batches come full   bound - 10 ms
    other calls, and every 0.1 s   bound - 1 s
    every 5 s                      bound - 60 s
    every 60 s, at the start, after a reconnect, and on request   no bound

A second of a backlog is tens of thousands of dead entries: looking back so far at every call
halves a drain.  Who commits late then waits for 0.1 s, where it would have waited anyway.

Pure: the caller brings the time and the dice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

PRIORITIES = 9
SECOND = 1_000_000
_BRIEF = SECOND // 100


class Floors:
    """The bounds of one queue."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()
        self._top: list[int | None] = [None] * PRIORITIES
        self._backlog = False
        self._full_at = 0.0
        self._wide_at = 0.0
        self._late_at = 0.0

    def sweep(self) -> None:
        """Make the next question one without a bound."""
        self._full_at = 0.0

    def ask(self, now: float) -> Sequence[int | None] | None:
        """Return the bounds of the next lease, in microseconds; None for a sweep.

        Args:
            now: monotonic seconds.
        """
        if now >= self._full_at:
            self._full_at = now + 60 * self._dice.uniform(0.8, 1.2)
            self._wide_at = now + 5 * self._dice.uniform(0.8, 1.2)
            return None
        margin = _BRIEF
        if now >= self._wide_at:
            self._wide_at = now + 5 * self._dice.uniform(0.8, 1.2)
            margin = 60 * SECOND
        elif not self._backlog or now >= self._late_at:
            self._late_at = now + 0.1 * self._dice.uniform(0.8, 1.2)
            margin = SECOND
        return [None if top is None else top - margin for top in self._top]

    def learn(self, batch: Iterable[tuple[int, int]], backlog: bool = False) -> None:
        """Take the (priority, run_at) of a leased batch; backlog: it was all that was asked for.

        The bound is the highest of the *last* batch, so it also moves down: a sweep that finds
        old work continues from there.
        """
        self._backlog = backlog
        found: dict[int, int] = {}
        for priority, run_at in batch:
            if run_at > found.get(priority, run_at - 1):
                found[priority] = run_at
        for priority, run_at in found.items():
            self._top[priority - 1] = run_at
