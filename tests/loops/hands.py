"""The tools of these tests: what they did is written where no rollback reaches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path


def work(witness: str, label: str = "", seconds: float = 0.0, again: float | None = None) -> str:
    """Write "start", work for a while (`again`: that long if it is not the first time)."""
    if again is not None and os.path.exists(witness):
        seconds = again
    note(witness, "start", label)
    time.sleep(seconds)
    note(witness, "end", label)
    return label


def deaf(witness: str, seconds: float = 60.0) -> None:
    """Ignore TERM, and start a process that does too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with subprocess.Popen(["sleep", str(seconds)]) as process:
        note(witness, "start", str(process.pid))
        process.wait()
    note(witness, "end", "")


def dies(witness: str, first_only: bool = True) -> str:
    """Die without a word; with `first_only` only the first time."""
    again = os.path.exists(witness)
    note(witness, "start", "")
    if not (again and first_only):
        os._exit(9)
    note(witness, "end", "")
    return "alive"


def hog(witness: str, seconds: float = 1.0) -> None:
    """Hold the GIL as firmly as Python can."""
    note(witness, "start", "")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100_000))
    note(witness, "end", "")


async def waits(
    witness: str,
    label: str = "",
    seconds: float = 1.0,
    again: float | None = None,
    deaf: bool = False,
) -> str:
    """Write "start", wait on the event loop (`again`: that long if it is not the first time).

    `deaf` ignores every cancellation.
    """
    if again is not None and f" {label}\n" in Path(witness).read_text():
        seconds = again
    note(witness, "start", label)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError) if deaf else contextlib.nullcontext():
            await asyncio.sleep(left)
    note(witness, "end", label)
    return label


async def hogs(witness: str) -> None:
    """Write "start", then hold the GIL for ever: the child hears nothing any more."""
    note(witness, "start", "")
    re.match(r"(a+)+$", "a" * 60 + "b")


def note(witness: str, event: str, label: str) -> None:
    """Append one line in one write: lines of several processes do not mix."""
    fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{event} {os.getpid()} {time.monotonic()} {label}\n".encode())
    finally:
        os.close(fd)


def call(witness: str, service: str) -> str:
    """Call a service, which is up if there is a file of that name."""
    if not os.path.exists(service):
        note(witness, "refused", "")
        raise ConnectionRefusedError("the service is down")
    note(witness, "answered", "")
    return "ok"


def eats(witness: str, megabytes: int) -> None:
    """Need memory, and touch it."""
    note(witness, "start", "")
    eaten = bytearray(megabytes << 20)
    for at in range(0, len(eaten), 4096):
        eaten[at] = 1
    note(witness, "end", "")
