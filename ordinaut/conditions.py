"""
Conditions are asked on a connection and a thread of their own: a query that hangs costs its
timeout, and neither planning nor firing waits for it.

One that was slow ends the page it was on: who is due is looked up anew, the healthy first.  A
report names its poll, so any number of schedulers may ask, and one that dies half-way leaves the
poll to the next.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import psycopg

from ordinaut import calls, db
from ordinaut.errors import sentence

log = logging.getLogger(__name__)

_PAGE = 100
_SLOW = 0.25  # seconds: then others may be due that should go first


class Poller:
    """Asks what is due, in the background; opens its connection when the first condition is."""

    def __init__(
        self,
        dsn: str,
        *,
        pooled: bool = False,
        role: str | None = None,
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._dsn, self._pooled, self._role, self._timeout = dsn, pooled, role, timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conditions")
        self._page: Future[None] | None = None
        self._stopping = threading.Event()
        self._conn: db.Connection | None = None
        self._lost = db.Backoff()
        self._again = 0.0
        self._failing: dict[UUID | None, str] = {}

    def step(self, conn: db.Connection) -> None:
        """Look for conditions to be asked, unless some are being asked now; returns at once."""
        if self._page is not None:
            if not self._page.done():
                return
            self._page.result()
            self._page = None
        if time.monotonic() >= self._again and (due := calls.unpolled_conditions(conn, _PAGE)):
            self._page = self._thread.submit(self._ask, due)

    def close(self) -> None:
        """Stop, without waiting for a query that hangs."""
        self._stopping.set()
        if (conn := self._conn) is not None:
            try:
                conn.cancel_safe(timeout=2.0)
            except psycopg.Error as exc:
                log.debug("the query that is asked now cannot be cancelled: %s", exc)
        self._thread.shutdown()
        if self._conn is not None:
            self._conn.close()

    def _ask(self, due: list[calls.Unpolled]) -> None:
        try:
            if self._conn is None:
                self._conn = db.connect(self._dsn, name="ordinaut-conditions", pooled=self._pooled)
            for poll in due:
                begun = time.monotonic()
                self._ask_one(self._conn, poll)
                if self._stopping.is_set() or time.monotonic() - begun > _SLOW:
                    break
        except db.AGAIN:
            return  # the poll stays due
        except psycopg.Error as exc:
            # Ours alone, perhaps: whether the database is gone, the scheduler's connection tells.
            if self._conn is not None:
                self._conn.close()
                self._conn = None
            self._again = time.monotonic() + self._lost.next()
            self._say(None, sentence(exc))
        else:
            self._lost.reset()
            self._say(None, None)

    def _ask_one(self, conn: db.Connection, poll: calls.Unpolled) -> None:
        answer = calls.ask_condition(conn, poll.query, role=self._role, timeout=self._timeout)
        if self._stopping.is_set():
            return  # our own cancel may be what it died of
        if calls.report_condition(
            conn, poll.task_id, poll.revision, poll.polled_for,
            answer.is_true, answer.error, answer.is_defect,
        ):  # fmt: skip
            self._say(poll.task_id, answer.error)

    def _say(self, task_id: UUID | None, error: str | None) -> None:
        """Log what changed: a line per change, not per poll."""
        what = f"the condition of task {task_id}" if task_id else "asking conditions"
        if error is None:
            if self._failing.pop(task_id, None) is not None:
                log.info("%s works again", what)
        elif self._failing.get(task_id) != error:
            self._failing[task_id] = error
            log.error("%s fails: %s", what, error)
