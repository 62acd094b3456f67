"""
A slot's child process: spawn it, talk to it, kill it and all it started.

A child runs tools, so it may do anything: hold the GIL, fork, ignore signals, eat memory, die.
The parent asks nothing of it but bytes on a socket, and reads from a shared cell of 32 bytes
which unit it is running since when; so neither a deadline nor a kill needs its cooperation.  It
leads a session of its own: its process group is what is killed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ordinaut import wire
from ordinaut.doom import Doom
from ordinaut.prefetch import ASYNC_LIMIT
from ordinaut.wire import CELL, TIMEOUT, TOOL, WORK, Unit

_CHUNK = 1 << 18


class Child:
    """One child process and the units it was given.

    Attributes:
        held: the units sent and not reported, in the order of sending.
        shared: those of them that run on the child's event loop, since when (monotonic, ns).
        orphans: units of lost leases that it has not given up yet; nobody wants their results.
        told: units that the child was asked to cancel.
        told_at: since when async units of it have been asked to stop, and have not.
        tool: the tool of the last batch; None if it was mixed.
    """

    def __init__(self, slot: int, env: dict[str, str]) -> None:
        self.slot = slot
        self.held: dict[bytes, Unit] = {}
        self.shared: dict[bytes, int] = {}
        self.orphans: dict[bytes, Unit] = {}
        self.told: set[bytes] = set()
        self.told_at: float | None = None
        self.tool: bytes | None = None
        self.ready = False
        self.doom: Doom | None = None
        self.kill_at: float | None = None
        self.asked_back = -1  # the cell's counter at the time of ("return",)
        self._min_timeout = 0
        self._out = bytearray()
        self._reader = wire.Reader()

        cell = _memory(f"ordinaut-cell-{slot}")
        try:
            os.ftruncate(cell, CELL.size)
            self._cell = mmap.mmap(cell, CELL.size)
            self.sock, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "ordinaut.runner", "--slot", str(slot)),
                        *("--fd", str(theirs.fileno()), "--cell", str(cell)),
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), cell),
                    start_new_session=True,
                    env=env,
                )
        finally:
            os.close(cell)
        self.sock.setblocking(False)
        self.pid = self.process.pid  # and the id of its process group

    # What it does

    @property
    def free(self) -> bool:
        """May be given work: any, and nobody else's is running."""
        return self.ready and self.doom is None and not self.held and not self.orphans

    @property
    def room(self) -> int:
        """How many async units it still takes, 0 unless it runs nothing else."""
        if not self.ready or self.doom or self.orphans or len(self.shared) != len(self.held):
            return 0
        return max(0, ASYNC_LIMIT - len(self.held))

    def running(self) -> tuple[bytes, int, int] | None:
        """Return (work_id, started_ns, counter) of the sync unit that it runs, or None."""
        while True:
            before = self._cell[:]
            if before == self._cell[:]:  # not in the middle of being written
                break
        started, counter, work_id = CELL.unpack(before)
        if not started or not (work_id in self.held or work_id in self.orphans):
            return None
        return work_id, started, counter

    def spent(self, work_id: bytes) -> int:
        """Return for how many microseconds this unit has been running; 0: it is not."""
        running = self.running()
        since = running[1] if running and running[0] == work_id else self.shared.get(work_id)
        return 0 if since is None else (time.monotonic_ns() - since) // 1000

    def give(self, units: list[Unit]) -> bool:
        """Send units; see `send`."""
        self.held.update([(unit[WORK], unit) for unit in units])
        tool = units[0][TOOL]
        self.tool = tool if all([unit[TOOL] == tool for unit in units]) else None
        self._min_timeout = min([unit[TIMEOUT] or 1 << 62 for unit in units])
        return self.send(("run", units))

    def deadline(self) -> tuple[float, bytes | None]:
        """Return when to look again (monotonic), and the unit that is over its time, if one is."""
        if not self.held or self._min_timeout >= 1 << 62:
            return float("inf"), None
        now = time.monotonic_ns()
        running = self.running()
        if running is None:
            return (now + self._min_timeout * 1000) / 1e9, None
        work_id, started, _ = running
        limit = self.held[work_id][TIMEOUT] if work_id in self.held else 0
        ends = started + limit * 1000 if limit else now + self._min_timeout * 1000
        return ends / 1e9, work_id if limit and ends <= now else None

    # What it says

    def send(self, message: object) -> bool:
        """Send, or keep what the socket does not take; False when `flush` must follow."""
        self._out += wire.encode(message)
        return self.flush()

    def flush(self) -> bool:
        """Push what is left; True when nothing is."""
        try:
            while self._out:
                sent = self.sock.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            return False
        except OSError:  # it died; its end of the socket says so too
            self._out.clear()
        return True

    def receive(self) -> Iterator[Any]:
        """Yield the messages that have come.

        Raises:
            EOFError: after the last of them; the child has closed its end.
        """
        while True:
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise EOFError
            yield from self._reader.feed(data)

    # How it ends

    def kill(self, doom: Doom, grace: float) -> None:
        """TERM the group now, KILL it after `grace` seconds; the first reason stands."""
        if self.doom is None:
            self.doom = doom
        at = time.monotonic() + grace
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)
        self.signal(signal.SIGTERM if grace > 0 else signal.SIGKILL)

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)

    def bury(self) -> str:
        """Wait for the end of a child that is ending, kill what it leaves, say how it died."""
        try:
            code = self.process.wait(0.25)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            code = self.process.wait()
        self.signal(signal.SIGKILL)
        self.sock.close()
        return _how(code)

    def close(self) -> None:
        """Free what `running` needed; after `bury`, when nobody asks any more."""
        self._cell.close()


def _memory(name: str) -> int:
    """Return a descriptor of anonymous shared memory."""
    if sys.platform == "linux":
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by signal 9 (out of memory?)"
    if code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"
