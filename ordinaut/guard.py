"""
The process that watches the worker's parent: no user code, no database loop, almost nothing.

A process that crashes cannot say so, and one that hangs cannot stop.  The guard starts the
parent, is told the process group of every child, hears a ping from every turn of the parent's
loop, and when the pings end or the parent dies it kills what is left and reports the worker dead
to the database, so that its work is run again within seconds and not after the ttl.

It then exits with an error and does not start another: restarting is systemd's business, which
also counts restarts.  Signals are passed on.  If the guard itself is killed, the parent sees the
end of the link, kills its children, gives its work back and leaves.

    parent -> guard, one line each:  .   child PGID   gone PGID   worker UUID|-   notify A\\x1fB
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from uuid import UUID

from ordinaut import systemd
from ordinaut.workerconfig import WorkerConfig

log = logging.getLogger(__name__)

_PING = 0.2  # seconds between pings
_REPORT = 10.0  # seconds of trying to report a death
_START = 30.0  # seconds until a parent must have said its first word
_SEPARATOR = "\x1f"
EX_CRASHED = 70


class Link:
    """The parent's end.  Never blocks: a guard that does not listen is no reason to hang."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._out = bytearray()
        self._pinged = 0.0
        if sock is not None:
            sock.setblocking(False)

    def fileno(self) -> int:
        return -1 if self._sock is None else self._sock.fileno()

    def tell(self, line: str) -> None:
        if self._sock is None:
            return
        self._out += line.encode() + b"\n"
        self._flush()

    def ping(self) -> None:
        """Say that the loop turns; cheap enough for every turn."""
        now = time.monotonic()
        if now - self._pinged >= _PING:
            self._pinged = now
            if not self._out:
                self.tell(".")
            else:
                self._flush()

    def notify(self, *words: str) -> None:
        """Pass words to systemd, through the guard if there is one.  Each becomes one line."""
        words = tuple(" ".join(word.split()) for word in words)
        if self._sock is None:
            systemd.notify(*words)
        else:
            self.tell("notify " + _SEPARATOR.join(words))

    def is_gone(self) -> bool:
        """After the socket became readable: has the guard died?  (It never speaks.)"""
        if self._sock is None:
            return False
        try:
            return self._sock.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    def _flush(self) -> None:
        assert self._sock is not None
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # the end of the link is noticed where it is read
            self._out.clear()


class Guard:
    """One parent and what it told us."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._patience = max(2 * config.heartbeat, config.fence)
        # A parent that has not said a word holds nothing yet, and on a busy host imports for long.
        self._limit = max(_START, self._patience)
        self._groups: set[int] = set()
        self._worker_id: UUID | None = None
        self._buffer = b""
        self._heard = time.monotonic()
        self._sock, theirs = socket.socketpair()
        read, write = os.pipe()
        with theirs:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "ordinaut.worker", str(theirs.fileno()), str(read)],
                pass_fds=(theirs.fileno(), read),
                start_new_session=True,  # the terminal's Ctrl-C reaches us alone
                env=systemd.without_notify(dict(os.environ)),
            )
        os.close(read)
        with os.fdopen(write, "w") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(config.to_json())  # secrets neither in argv nor in the environment
        self._sock.setblocking(False)

    def run(self) -> int:
        """Watch until the parent has ended; return its exit code, or 70."""
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {signum: signal.signal(signum, self._pass_on) for signum in signals}
        try:
            while True:
                ended = self._listen(0.5)
                if ended or self._parent.poll() is not None:
                    break
                silence = time.monotonic() - self._heard
                if silence > self._limit:
                    log.error("the worker hangs", extra={"silent_for": round(silence, 1)})
                    break
            return self._bury()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _listen(self, wait: float) -> bool:
        """Read what the parent said; True when it has closed the link."""
        select.select([self._sock], [], [], wait)
        while True:
            try:
                data = self._sock.recv(1 << 16)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not data:
                return True
            self._heard = time.monotonic()
            self._limit = self._patience
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._obey(line.decode())

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "child":
            self._groups.add(int(rest))
        elif word == "gone":
            self._groups.discard(int(rest))
        elif word == "worker":
            self._worker_id = None if rest == "-" else UUID(rest)
        elif word == "notify":
            systemd.notify(*rest.split(_SEPARATOR))

    def _bury(self) -> int:
        """End the parent if it has not ended, and everything it started; report; say how."""
        # It closes the link just before it exits, or as it dies.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._parent.wait(0.0 if time.monotonic() - self._heard > self._limit else 2.0)
        _kill(self._parent.pid)
        code = self._parent.wait()
        self._listen(0.0)
        for group in self._groups:
            _kill(group)
        if self._worker_id is not None:
            # With 0 it stopped as told, but could not tell the database.
            what = "the worker died" if code else "the worker could not sign off"
            log.error(what, extra={"exit": code, "worker_id": str(self._worker_id)})
            systemd.notify(f"STATUS={what}; reporting it")
            self._report(self._worker_id)
        elif code == -signal.SIGTERM:  # before it could handle signals; it held nothing
            return 0
        return code if code >= 0 and (code or self._worker_id is None) else EX_CRASHED

    def _report(self, worker_id: UUID) -> None:
        """Tell the database; after a few seconds the ttl will have to."""
        import psycopg

        from ordinaut import calls, db
        from ordinaut.errors import sentence

        until = time.monotonic() + min(_REPORT, self._config.ttl)
        backoff = db.Backoff(base=0.1, cap=2.0)
        brief = timedelta(seconds=2)
        while True:
            try:
                with db.connect(
                    self._config.dsn,
                    name="ordinaut guard",
                    pooled=self._config.pooled,
                    connect_timeout=brief,
                    lock_timeout=brief,
                    statement_timeout=2 * brief,
                ) as conn:
                    units = calls.deregister_worker(conn, worker_id, "dead")
                log.info("reported the death", extra={"units": units})
                return
            except psycopg.Error as exc:
                wait = backoff.next()
                if time.monotonic() + wait > until:
                    log.error("could not report the death", extra={"error": sentence(exc)})
                    return
                time.sleep(wait)

    def _pass_on(self, signum: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._parent.pid, signal.SIGTERM)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run(config: WorkerConfig) -> int:
    """Run a worker under guard and return its exit code.

    0 stopped as told; 70 killed or hung; 75 version skew; 78 bad configuration; 1 a bug, with
    its traceback on stderr.
    """
    config.check()
    return Guard(config).run()
