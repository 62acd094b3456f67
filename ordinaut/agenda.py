"""
What to ask the database next, and when: which exchange is due.

    settle   soon after the first result, so that others join it; at once when nothing runs
    lease    when a child is free, or a good part of a batch is missing; a settle takes a lease
             along anyway, it costs next to nothing
    idle     a queue that answered less than it was asked for is empty.  When all are: declare
             ourselves idle (from then on an enqueue notifies us), look once more (work may have
             come before the flag was committed), then wait for the NOTIFY or the poll

Decides by what it is told; sends nothing, waits for nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ordinaut.crew import Crew
from ordinaut.exchange import PRIORITY, RUN_AT, Call
from ordinaut.floors import Floors
from ordinaut.ledger import Ledger
from ordinaut.prefetch import BATCH
from ordinaut.workerconfig import WorkerConfig

Row = tuple[Any, ...]

_COALESCE = 0.004  # seconds that a result waits for others
_FAR = 3600.0


@dataclass(slots=True)
class Queue:
    """What we know of a queue.

    Attributes:
        hot: worth asking at once.
        swept_at: the last request to sweep that was obeyed, by the database's clock.
    """

    name: str
    floors: Floors = field(default_factory=Floors)
    hot: bool = True
    poll_at: float = 0.0
    swept_at: int = 0


class Agenda:
    """The queues of a worker, and its own idleness as the database has it."""

    def __init__(self, config: WorkerConfig, crew: Crew, ledger: Ledger) -> None:
        self._config = config
        self._crew = crew
        self._ledger = ledger
        self._listen = False
        self._queues = deque(Queue(name) for name in config.queues)
        self._idle = False
        self._full = False  # the last lease got all that it asked for, and that was not just one
        self._pending_since: float | None = None
        self._busy_since: float | None = None

    def wake(self) -> None:
        """There may be new work in any queue."""
        for queue in self._queues:
            queue.hot = True

    def sweep(self) -> None:
        """There may be old work in any queue."""
        for queue in self._queues:
            queue.floors.sweep()
            queue.hot = True

    def reconnected(self, listen: bool) -> None:
        """Look everywhere; whether the flag reached the database is not known.

        Args:
            listen: a NOTIFY would reach us: worth asking for one when there is nothing to do.
        """
        self._listen = listen
        self._idle = False
        self.sweep()

    def next(self, worker_id: bytes, now: float) -> tuple[Call | None, float]:
        """Return the exchange that is due, if one is, and when to ask again."""
        crew = self._crew
        wake = now + _FAR
        want = 0 if crew.draining else crew.want()
        settle, wake = self._settle_due(now)
        queue: Queue | None = None
        idle: bool | None = None
        if want:
            self._busy_since = None
            queue = self._choose(now)
            if crew.spare > 0 or want >= BATCH // 4:
                if queue is None and self._listen and not self._idle:
                    queue, idle = self._queues[0], True
                if queue is None:
                    wake = min(wake, *(queue.poll_at for queue in self._queues))
            elif not settle:
                queue = None  # not worth a call of its own
            if queue is None and settle:
                queue = self._queues[0]
        if self._idle and (self._full or self._is_busy(want, now)):
            idle = False
        if not want and self._idle:
            # Nobody should notify a worker that could not start anything.
            wake = min(wake, (self._busy_since or now) + self._config.poll)
        if settle or queue is not None or (idle is False and not want):
            return self._call(worker_id, queue, want, idle, now), now
        return None, wake

    def answered(self, call: Call, rows: Sequence[Row], work: Sequence[Row], now: float) -> None:
        """Learn from the answer to a call: all its rows, and those that are work."""
        queue = next(queue for queue in self._queues if queue.name == call.queue)
        if call.lease_id is not None:
            queue.hot = len(work) >= call.limit
            queue.poll_at = now + self._config.poll * random.uniform(0.8, 1.2)
            self._full = queue.hot and call.limit > 1
            queue.floors.learn([(row[PRIORITY], row[RUN_AT]) for row in work], queue.hot)
        if call.idle is not None:
            self._idle = call.idle
            if call.idle:
                self.wake()
        if len(work) < len(rows):
            for row in rows:
                # Answered for a while after each request: only a new one counts.
                if row[0] == b"sweep" and row[RUN_AT] > queue.swept_at:
                    queue.swept_at = row[RUN_AT]
                    queue.floors.sweep()
                    queue.hot = True

    def _settle_due(self, now: float) -> tuple[bool, float]:
        outbox = self._crew.outbox
        if not outbox.results:
            self._pending_since = None
            return outbox.noted, now + _FAR
        if self._pending_since is None:
            self._pending_since = now
        at = self._pending_since + _COALESCE
        many = len(outbox.results) >= BATCH // 2
        return many or not self._crew.busy or outbox.noted or now >= at, at

    def _is_busy(self, want: int, now: float) -> bool:
        """Have all slots been taken for a while?"""
        if want:
            return False
        self._busy_since = self._busy_since or now
        return now - self._busy_since >= self._config.poll

    def _choose(self, now: float) -> Queue | None:
        """Return the next queue that is worth asking, in turn; None: not now."""
        for queue in self._queues:
            if queue.hot or now >= queue.poll_at:
                return queue
        return None

    def _call(
        self, worker_id: bytes, queue: Queue | None, want: int, idle: bool | None, now: float
    ) -> Call:
        lease_id, floors = None, None
        if queue is not None:
            lease_id, floors = self._ledger.ask(), queue.floors.ask(now)
            self._queues.remove(queue)
            self._queues.append(queue)
        results, notes = self._crew.outbox.take()
        call = Call(
            worker_id,
            queue.name if queue is not None else self._queues[0].name,
            lease_id,
            want if queue is not None else 0,
            results,
            floors,
            idle,
            notes,
            timeout_us=int((self._config.timeout or 0) * 1e6),
            since=self._pending_since,
        )
        self._pending_since = None
        return call
