"""
Listening past a pooler: a thread and a connection of its own, with the DSN that leads around it.

A pooler in transaction mode hands the server's session to somebody else after each transaction,
and what it was told to listen for with it.  Only latency depends on this connection: a worker
polls all the same, so a listener that is away costs at most the poll.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from datetime import timedelta

import psycopg

from ordinaut import calls, db
from ordinaut.workerconfig import WorkerConfig

log = logging.getLogger(__name__)

_STOP = 0.5  # seconds between two looks at whether we are to stop


class Listener(threading.Thread):
    """Listen until stopped.  `wake` is called in this thread."""

    def __init__(self, config: WorkerConfig, wake: Callable[[], None]) -> None:
        super().__init__(name="listener", daemon=True)
        self._config = config
        self._wake = wake
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        backoff = db.Backoff(base=0.2, cap=10.0)
        while not self._ended.is_set():
            try:
                with self._connect() as conn:
                    if db.is_pooled(conn):
                        log.error(
                            "listen_dsn leads to a pooler too: nothing is heard, polling instead"
                        )
                        return
                    calls.listen(conn)
                    if backoff.failures:
                        log.info("listening again")
                    backoff.reset()
                    self._wake()  # for what came before
                    self._hear(conn)
            except (psycopg.Error, OSError) as exc:
                if not backoff.failures:
                    log.warning("cannot listen, polling", extra={"error": str(exc).strip()})
                self._ended.wait(backoff.next())

    def _connect(self) -> db.Connection:
        return db.connect(
            self._config.listen_dsn or "",
            name=f"ordinaut listener {self._config.name or ''}".strip(),
            connect_timeout=timedelta(seconds=5),
        )

    def _hear(self, conn: db.Connection) -> None:
        pg = conn.pgconn
        while not self._ended.is_set():
            if not select.select([pg.socket], [], [], _STOP)[0]:
                continue
            pg.consume_input()
            heard = False
            while pg.notifies() is not None:
                heard = True
            if heard:
                self._wake()
