"""
The worker's parent process: one loop that owns the conversation with the database.

It never runs a tool and never waits in a call: one `select` over its children, the database's
socket, the guard and an alarm that signals and threads ring.  Everything it knows about work is
in three places, `crew` (units), `ledger` (leases) and `_call` (the exchange whose answer is not
known); `agenda` decides what to ask next.

    children run batch k  |  one exchange settles k-1 and leases k+1  |  k waits in crew.local

Connecting and registering block, so a short-lived thread does them.  Started by the guard as
`python -m ordinaut.worker`; exits 0 after a stop, 75 on version skew, 78 on bad configuration.

Prior art: graphile-worker's local queue and batched completion, Oban's producer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import errors

from ordinaut import db
from ordinaut.agenda import Agenda
from ordinaut.crew import Crew, Misconfigured
from ordinaut.enlist import NOT_INSTALLED, enlist
from ordinaut.errors import ConfigurationError, VersionSkew, sentence
from ordinaut.exchange import UNIT, Call, Line, Refused
from ordinaut.guard import Link
from ordinaut.heartbeat import Beat, Heartbeat, clock
from ordinaut.ledger import Ledger
from ordinaut.listener import Listener
from ordinaut.logs import logging_to_stderr
from ordinaut.workerconfig import WorkerConfig

__all__ = ["WorkerConfig", "run_worker"]

log = logging.getLogger(__name__)

EX_TEMPFAIL = 75
EX_CONFIG = 78
_PATIENCE = 15.0  # seconds for an answer before the connection counts as dead
_HALF_NEW = ("0A", "42", "XX")  # classes of SQLSTATE: what cannot be, unless the catalog changed
_UPGRADE = 6  # attempts, 3 s in all, before an exchange that cannot be is a bug
_LAST_WORDS = 5.0  # seconds that a stop waits for a database that is away


class Worker:
    """The loop.  Use `run_worker`."""

    def __init__(self, config: WorkerConfig, link: Link) -> None:
        self._config = config
        self._link = link
        self._selector = selectors.DefaultSelector()
        self._ledger = Ledger()
        self._crew = Crew(config, dict(os.environ), self._selector, self._ledger, link.tell)
        self._agenda = Agenda(config, self._crew, self._ledger)
        self._heartbeat = Heartbeat(config, self._ledger, lambda b: self._post(self._heard, b))
        self._listener = Listener(config, lambda: self._post(self._agenda.wake))

        self._worker_id: bytes | None = None
        self._line: Line | None = None
        self._call: Call | None = None  # not answered; sent if the line is busy
        self._sent_at = 0.0
        self._again_at = 0.0  # not before, after a refusal or a lost connection
        self._backoff = db.Backoff(base=0.05, cap=10.0)
        self._connecting = False
        self._seen = 0.0  # clock() of the last proof that the database knows us
        self._former: bytes | None = None  # the id we had before we were fenced

        self._skewed = False
        self._stops = 0
        self._obeyed = 0
        self._drain_until = float("inf")
        self._give_up_at = float("inf")
        self._inbox: deque[Any] = deque()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)

    def run(self) -> int:
        """Work until told to stop; return the exit code."""
        self._selector.register(self._alarm, selectors.EVENT_READ, (self._rung, None))
        if self._link.fileno() >= 0:
            self._selector.register(self._link, selectors.EVENT_READ, (self._guarded, None))
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._stop)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._heartbeat.start()
        if self._config.notify and self._config.listen_dsn is not None:
            self._listener.start()
        try:
            while not self._done(time.monotonic()):
                wake = self._step(time.monotonic())
                self._link.ping()
                wait = min(0.5, max(0.0, wake - time.monotonic()))
                for key, mask in self._selector.select(wait):
                    handler, arg = key.data
                    handler(arg, mask)
            return EX_TEMPFAIL if self._skewed else 0
        finally:
            signal.set_wakeup_fd(-1)
            self._leave()

    # One turn

    def _step(self, now: float) -> float:
        while self._inbox:
            handler, *message = self._inbox.popleft()
            handler(*message)
        if self._stops > self._obeyed:
            self._obey(now)
        if self._worker_id is not None and clock() - self._seen > self._config.fence:
            self._fence(f"no sign from the database for {self._config.fence:g} s")
        if now >= self._drain_until:
            self._drain_until = float("inf")
            self._crew.kill_all(self._config.grace, "released", "the drain limit was reached")
        wake = self._crew.check(now)
        self._crew.hand_back()
        if self._line is None:
            if not self._connecting and self._crew.tools and now >= self._again_at:
                self._connect()
            return min(wake, self._again_at if self._again_at > now else wake)
        if self._line.busy:
            if now - self._sent_at > _PATIENCE:
                self._lost(psycopg.OperationalError("no answer"))
            return wake
        if self._call is None and self._worker_id is not None:
            self._call, due = self._agenda.next(self._worker_id, now)
            wake = min(wake, due)
        if self._call is not None:
            if now < self._again_at:
                return min(wake, self._again_at)
            self._send(self._call, now)
        return wake

    # The exchange

    def _send(self, call: Call, now: float) -> None:
        assert self._line is not None
        self._sent_at = now
        try:
            if not self._line.send(call):
                mask = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._selector.modify(self._line, mask, (self._spoken, None))
        except psycopg.OperationalError as exc:
            self._lost(exc)

    def _spoken(self, _: None, mask: int) -> None:
        """Serve the database's socket."""
        line = self._line
        if line is None:
            return
        try:
            if mask & selectors.EVENT_WRITE and line.flush():
                self._selector.modify(line, selectors.EVENT_READ, (self._spoken, None))
            rows = line.receive()
        except Refused as exc:
            return self._refused(exc)
        except psycopg.OperationalError as exc:
            return self._lost(exc)
        if rows is not None and self._call is not None:
            call, self._call = self._call, None
            self._answered(call, rows)
        if line.notified():
            self._agenda.wake()

    def _answered(self, call: Call, rows: list[tuple[Any, ...]]) -> None:
        self._backoff.reset()
        work = [row for row in rows if row[0] == b"work"]
        if call.settle:
            busy = {row[2] for row in rows if row[0] == b"busy"}
            if busy:
                kept = [r for r in call.settle if r[1] in busy]
                self._crew.outbox.put_aside(kept, time.monotonic())
            self._ledger.settled([r[0] for r in call.settle if r[1] not in busy])
        if call.lease_id is not None:
            self._ledger.answered(call.lease_id, len(work))
        self._agenda.answered(call, rows, work, time.monotonic())
        if len(work) < len(rows):
            for row in rows:
                if row[0] == b"lost":
                    self._lose(row[1])
                elif row[0] == b"cancel":
                    self._crew.cancel(row[2])
                elif row[0] == b"skew" and not self._skewed:
                    log.error("another version was installed: leaving, to be started anew")
                    self._skewed = True
                    self._stops += 1
        if work:
            self._crew.add([row[UNIT] for row in work])
            if self._crew.draining:
                self._crew.recall()

    def _lose(self, lease_id: bytes) -> None:
        if lease_id in self._ledger:
            log.warning("lease lost", extra={"lease_id": lease_id.hex()})
            self._crew.lose(lease_id)

    def _refused(self, exc: Refused) -> None:
        """Do what the SQLSTATE asks for; the call is still in `_call`."""
        call, state = self._call, exc.sqlstate
        assert call is not None
        if state == "OR022":
            self._fence("the database does not know this worker")
        elif state in ("40001", "40P01", "55P03", "57014") or state.startswith("53"):
            self._again_at = time.monotonic() + self._backoff.next()
            if self._backoff.failures == 3:
                log.warning("exchange is refused", extra={"error": sentence(exc)})
        elif state[:2] in ("22", "23", "54"):
            log.warning("exchange is unstorable", extra={"error": sentence(exc)})
            if not call.careful:
                self._call = call.carefully()
            elif call.notes is not None:
                self._call = replace(call, notes=None)
            else:
                raise exc.error
        elif db.is_gone(exc.error):
            self._lost(exc.error)
        elif state[:2] in _HALF_NEW and self._backoff.failures < _UPGRADE:
            # An install was committed while the call ran: old code met new tables, or new types.
            self._again_at = time.monotonic() + self._backoff.next()
            log.warning("exchange failed, trying again", extra={"error": sentence(exc.error)})
        else:
            raise exc.error

    # The connection

    def _connect(self) -> None:
        """Begin to connect; the outcome comes as a message to `_connected`."""
        self._connecting = True
        known = None if self._worker_id is None else (self._worker_id, self._seen)

        def work() -> None:
            try:
                line, worker_id, seen = enlist(self._config, self._crew.tools, known, self._former)
                self._post(self._connected, line, worker_id, seen, None)
            except Exception as exc:  # not handled here: raised again in the loop
                self._post(self._connected, None, None, 0.0, exc)

        threading.Thread(target=work, name="connect", daemon=True).start()

    def _connected(
        self, line: Line | None, worker_id: bytes | None, began: float, exc: Exception | None
    ) -> None:
        self._connecting = False
        if exc is not None:
            if isinstance(exc, NOT_INSTALLED):
                raise ConfigurationError(
                    f"this database cannot be used: {str(exc).strip()}",
                    "Run `ordinaut install` on it, and let this role call what is installed.",
                ) from exc
            if not (db.is_gone(exc) or isinstance(exc, db.AGAIN)):
                raise exc
            self._again_at = time.monotonic() + self._backoff.next()
            if self._backoff.failures == 1:
                log.warning("no database", extra={"error": sentence(exc)})
            self._link.notify(f"STATUS=no database, trying again: {sentence(exc)}")
            return
        assert line is not None and worker_id is not None
        if self._backoff.failures:
            log.info("database is back")
        self._backoff.reset()
        self._again_at = 0.0
        self._line = line
        self._agenda.reconnected(line.listens or self._listener.is_alive())
        self._selector.register(line, selectors.EVENT_READ, (self._spoken, None))
        if worker_id != self._worker_id:
            self._worker_id = worker_id
            self._seen = began
            self._heartbeat.adopt(worker_id)
            self._link.tell(f"worker {worker_id.hex()}")
            self._link.notify("READY=1", "STATUS=ready")
            log.info("registered", extra={"worker_id": str(uuid.UUID(bytes=worker_id))})

    def _lost(self, exc: Exception) -> None:
        """Drop the connection; results and the unanswered call wait for the next one."""
        self._hang_up()
        self._again_at = time.monotonic() + self._backoff.next()
        log.warning("database lost", extra={"error": sentence(exc)})
        self._link.notify(f"STATUS=database lost, trying again: {sentence(exc)}")

    def _hang_up(self) -> None:
        if self._line is not None:
            self._selector.unregister(self._line)
            self._line.close()
            self._line = None

    # What the heartbeat, the guard and the operator say

    def _heard(self, beat: Beat) -> None:
        if beat.worker_id != self._worker_id:
            return
        if beat.unknown:
            return self._fence("the database does not know this worker")
        self._seen = beat.began
        for lease_id in beat.lost:
            self._lose(lease_id)
        for work_id in beat.cancel:
            self._crew.cancel(work_id)
        if beat.sweep:
            self._agenda.sweep()
        crew = self._crew
        self._link.notify(
            "WATCHDOG=1",
            f"STATUS={'draining' if crew.draining else 'working'}: {crew.outstanding} in hand,"
            f" {crew.finished} finished",
        )

    def _fence(self, why: str) -> None:
        """Others may run what we hold: stop all of it, say nothing about it, begin anew."""
        log.error("fenced", extra={"why": why})
        self._crew.kill_all(0, None, why)
        self._ledger.clear()
        self._call = None
        self._former, self._worker_id = self._worker_id, None
        self._heartbeat.adopt(None)
        self._hang_up()

    def _guarded(self, _: None, mask: int) -> None:
        if self._link.is_gone():
            self._selector.unregister(self._link)
            log.error("the guard is gone")
            self._stops = 2

    def _stop(self, signum: int, frame: object) -> None:
        self._stops += 1

    def _obey(self, now: float) -> None:
        config = self._config
        if self._obeyed == 0:
            log.info("stopping", extra={"drain": config.drain})
            self._drain_until = now + config.drain
            self._give_up_at = self._drain_until + config.grace + _LAST_WORDS
            # TimeoutStopSec need not be kept in step with the drain limit; the guard has a last
            # word too.
            longest = self._give_up_at - now + 2 * _LAST_WORDS
            self._link.notify(
                "STOPPING=1",
                f"EXTEND_TIMEOUT_USEC={longest * 1e6:.0f}",
                f"STATUS=draining: {self._crew.outstanding} in hand, at most {config.drain:g} s",
            )
            self._crew.recall()
        if self._stops > 1:
            self._drain_until = float("inf")
            self._give_up_at = now + _LAST_WORDS
            self._crew.kill_all(0, "released", "told to stop now")
        self._obeyed = self._stops

    def _done(self, now: float) -> bool:
        """Say whether a stop is complete, or has waited long enough."""
        crew = self._crew
        if not crew.draining:
            return False
        if crew.busy or self._call is not None or crew.outbox:
            return now >= self._give_up_at or (self._worker_id is None and not crew.busy)
        return True

    def _leave(self) -> None:
        """Take leave: children first, then the database, if it can be reached at once."""
        self._heartbeat.stop()
        self._listener.stop()
        self._crew.close()
        self._heartbeat.join(2.0)
        if self._line is not None and self._worker_id is not None and not self._line.busy:
            try:
                self._line.deregister(uuid.UUID(bytes=self._worker_id))
                self._link.tell("worker -")
            except psycopg.Error as exc:
                log.warning("left without a word", extra={"error": sentence(exc)})
        self._hang_up()

    def _post(self, handler: Callable[..., None], *message: Any) -> None:
        """Let the loop call `handler`; from any thread."""
        self._inbox.append((handler, *message))
        with contextlib.suppress(BlockingIOError):  # it is ringing already
            self._bell.send(b"\0")

    def _rung(self, _: None, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._alarm.recv(4096):
                pass


def run_worker(config: WorkerConfig, link: Link | None = None) -> int:
    """Run a worker in this process until it is told to stop, and return its exit code.

    0 after SIGTERM; 75 when the database speaks another API; 78 when the configuration is
    wrong.  Anything unforeseen is raised: the guard reports us dead and systemd starts the next.
    """
    link = link or Link(None)
    try:
        config.check()
        return Worker(config, link).run()
    except VersionSkew as exc:
        log.error("version skew", extra={"error": sentence(exc)})
        link.notify(f"STATUS=version skew: {sentence(exc)}")
        return EX_TEMPFAIL
    except errors.InvalidParameterValue as exc:
        what, hint = sentence(exc), exc.diag.message_hint or ""
    except (ConfigurationError, Misconfigured) as exc:
        what, hint = str(exc).strip(), getattr(exc, "hint", "")
    log.error("bad configuration", extra={"error": what, "hint": hint})
    link.notify(f"STATUS=bad configuration: {what}")
    return EX_CONFIG


def main(argv: list[str]) -> int:
    """Be the parent that `guard.run` started: read the configuration, then work."""
    link_fd, config_fd = int(argv[0]), int(argv[1])
    with os.fdopen(config_fd) as pipe:
        config = WorkerConfig.from_json(pipe.read())
    logging_to_stderr(config.log_level, config.log_format)
    with contextlib.closing(Link(socket.socket(fileno=link_fd))) as link:
        return run_worker(config, link)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
