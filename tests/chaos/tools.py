"""The tools of a chaos run: each writes what it does to a file that no rollback reaches."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from typing import Any

from ordinaut import Context, Permanent, Retry

# Workers with a shifted clock say so: the host is the name of a clock.
_BOOT = os.environ.get("CHAOS_CLOCK", socket.gethostname())


def write(context: Context, event: str, **more: Any) -> None:
    """Append one line, in one write, and have it on the disk before anything else happens."""
    scheduled = context.scheduled_for
    line = {
        "e": event,
        "run": str(context.run_id),
        "work": str(context.work_id),
        "step": context.step,
        "task": context.task_id and str(context.task_id),
        "attempt": context.attempt,
        "token": str(context.lease_id),
        "scheduled_for": scheduled and scheduled.isoformat(),
        "rt": time.time(),
        "mt": time.clock_gettime(time.CLOCK_MONOTONIC),
        "boot": _BOOT,
        "pid": os.getpid(),
        **more,
    }
    fd = os.open(os.environ["CHAOS_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def work(
    context: Context,
    key: str | None = None,
    seconds: float = 0.0,
    fails: int = 0,
    dies: int = 0,
    output: str = "",
    hopeless: bool = False,
    hold_gil: bool = False,
    secret: str = "",
) -> Any:
    """Work for a while; the first `dies` attempts kill the process, the next `fails` fail.

    secret: said aloud by a hopeless one, as a careless tool would.
    output: "big" (10 MB), "nul" (what PostgreSQL cannot store), "" (a small object).
    """
    write(context, "start", key=key)
    if hold_gil:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            re.match(r"(a+)+$", "a" * 22 + "b")
    else:
        time.sleep(seconds)
    if context.attempt <= dies:
        write(context, "end", key=key, outcome="died")
        os._exit(9)
    if hopeless:
        write(context, "end", key=key, outcome="failed")
        raise Permanent(f"hopeless {secret}")
    if context.failures < fails:
        write(context, "end", key=key, outcome="failed")
        raise Retry("not yet", after=0.2)
    small = {"n": context.attempt, "token": str(context.lease_id)}
    result: Any = small
    if output == "big":
        result = small | {"body": "x" * 10_000_000}
    elif output == "nul":
        result = small | {"body": "a\x00b\ud800", "nan": float("nan")}
    write(context, "end", key=key, outcome="success", result=small)
    return result
