"""
The sign of life: a thread and a connection of its own.

The loop may be busy and its connection may wait for a lock; neither may look like death.  The
thread decides nothing: it posts what it heard, and the loop, which never blocks, also watches the
age of the last success and fences itself.

It reaps too (leases of other workers that died), because a reaper that is a queued job would be
stuck with the queue.  And, if told so, it ticks.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import psycopg

from ordinaut import calls, db
from ordinaut.errors import WorkerUnknown, sentence
from ordinaut.ledger import Ledger
from ordinaut.workerconfig import WorkerConfig

log = logging.getLogger(__name__)


def clock() -> float:
    """Return seconds that also pass while the machine is suspended, where the system has them."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True, slots=True)
class Beat:
    """What one heartbeat brought.

    Attributes:
        began: `clock()` before it was sent: the database has seen us no earlier.
        unknown: the database has no such worker; everything held is lost.
        lost: leases that we held when it began, and the database lacks.
        cancel: units to stop.
        sweep: somebody asks for a look below the floor.
    """

    worker_id: bytes
    began: float
    unknown: bool = False
    lost: set[bytes] = field(default_factory=set)
    cancel: list[bytes] = field(default_factory=list)
    sweep: bool = False


class Heartbeat(threading.Thread):
    """Beat until stopped.  `post` is called in this thread."""

    def __init__(self, config: WorkerConfig, ledger: Ledger, post: Callable[[Beat], None]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._config = config
        self._ledger = ledger
        self._post = post
        self._worker_id: bytes | None = None
        self._wake = threading.Event()
        self._ended = False
        self._conn: db.Connection | None = None
        self._reap_at = 0.0
        self._tick_at = float("inf")

    def adopt(self, worker_id: bytes | None) -> None:
        """Beat for this worker from now on; None: for nobody."""
        self._worker_id = worker_id
        self._wake.set()

    def stop(self) -> None:
        self._ended = True
        self._wake.set()

    def run(self) -> None:
        config = self._config
        backoff = db.Backoff(base=0.2, cap=min(10.0, config.heartbeat))
        if config.tick:
            self._tick_at = 0.0
        while not self._ended:
            wait = config.heartbeat
            try:
                if self._worker_id is not None:
                    self._beat(self._worker_id)
                    self._keep_house()
                    wait = min(wait, max(0.0, self._tick_at - time.monotonic()))
                    if backoff.failures:
                        log.info("heartbeat is back")
                    backoff.reset()
            except db.AGAIN:
                wait = random.uniform(0.01, 0.1)  # nothing happened; the connection is fine
            except (psycopg.Error, OSError) as exc:
                wait = backoff.next()
                if backoff.failures == 1:
                    log.warning("heartbeat failed", extra={"error": sentence(exc)})
                self._hang_up()
            self._wake.wait(wait)
            self._wake.clear()
        self._hang_up()

    def _beat(self, worker_id: bytes) -> None:
        conn = self._connected()
        held, asked = self._ledger.snapshot()
        began = clock()
        try:
            heard = calls.heartbeat(
                conn,
                UUID(bytes=worker_id),
                timedelta(seconds=self._config.ttl),
                [UUID(bytes=lease_id) for lease_id in held | asked],
            )
        except WorkerUnknown:
            self._post(Beat(worker_id, began, unknown=True))
            self._worker_id = None if self._worker_id == worker_id else self._worker_id
            return
        lost = {h.lease_id.bytes for h in heard if h.kind == "lost" and h.lease_id}
        cancel = [h.work_id.bytes for h in heard if h.kind == "cancel" and h.work_id]
        sweep = any(h.kind == "sweep" for h in heard)
        self._post(Beat(worker_id, began, lost=lost & held, cancel=cancel, sweep=sweep))

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now >= self._reap_at:
            # Jitter: a thousand workers that started together must not reap together.
            self._reap_at = now + self._config.ttl / 4 * random.uniform(0.7, 1.3)
            while (taken := calls.reap(self._connected())) > 0:
                log.warning("took back the work of dead workers", extra={"units": taken})
        if now >= self._tick_at:
            calls.tick(self._connected())
            self._tick_at = now + 1.0

    def _connected(self) -> db.Connection:
        if self._conn is None:
            limit = timedelta(seconds=max(1.0, min(5.0, self._config.fence / 3)))
            self._conn = db.connect(
                self._config.dsn,
                name=f"ordinaut heartbeat {self._config.name or ''}".strip(),
                pooled=self._config.pooled,
                connect_timeout=limit,
                lock_timeout=limit,
                statement_timeout=2 * limit,
                peer_timeout=4 * limit,
            )
        return self._conn

    def _hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
