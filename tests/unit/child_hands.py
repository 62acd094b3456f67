"""Tools that children run in these tests."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import ordinaut
from ordinaut import Context
from ordinaut.tools.registry import Permanent, Retry, Snooze


@ordinaut.tool
def greet(name: str, greeting: str = "Hello") -> str:
    return f"{greeting}, {name}"


@ordinaut.tool("math.add")
async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def whoami(context: Context) -> dict[str, Any]:
    context.log("looking", mirror=True)
    context.progress(50, "half")
    return {
        "run": context.run_id,
        "work": context.work_id,
        "task": context.task_id,
        "step": context.step,
        "attempt": context.attempt,
        "failures": context.failures,
        "max": context.max_attempts,
        "for": context.scheduled_for,
    }


def give(kind: str) -> Any:
    return {"none": None, "nan": float("nan"), "object": object(), "nul": "a\0b"}[kind]


def throw(kind: str) -> None:
    raise {
        "value": ValueError("bad"),
        "exit": SystemExit("bye"),
        "interrupt": KeyboardInterrupt(),
        "retry": Retry("busy", after=7),
        "permanent": Permanent("never"),
        "snooze": Snooze(30, "not yet"),
        "base": BaseException("base"),
    }[kind]


def chat() -> None:
    print("x" * 100_000)
    print("y" * 1000, file=sys.stderr)
    os.write(1, b"z\n")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def note_then_sleep(context: Context, seconds: float) -> None:
    """Say that it runs, so that the test need not guess."""
    context.log("running")
    time.sleep(seconds)


def fork() -> str:
    return "child" if os.fork() == 0 else "parent"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def environ() -> list[str]:
    return sorted(os.environ)


def descriptors() -> list[str]:
    """What a program sees that a careless tool starts."""
    run = subprocess.run(
        ["/bin/ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True
    )
    return [run.stdout]


def secret(password: str, context: Context) -> dict[str, str]:
    context.log(f"the password is {password}", password=password)
    if password == "fail":
        raise RuntimeError(password)
    return {"password": password, "length": str(len(password))}


def leak(password: str) -> None:
    raise RuntimeError(f"cannot log in with {password!r}")


async def nap(context: Context, seconds: float) -> str:
    context.log("asleep")
    await asyncio.sleep(seconds)
    return "woke"


async def stubborn(context: Context) -> None:
    context.log("asleep")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            context.log("no")


async def blocks(context: Context, seconds: float) -> None:
    context.log("blocking")
    time.sleep(seconds)


async def too_late() -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "done all the same"
    return ""


async def athrow(kind: str) -> None:
    await asyncio.sleep(0)
    throw(kind)


def write(context: Context, text: str, then: str = "") -> str:
    conn = context.connection
    conn.execute("insert into witness values (%s)", [text])
    if then == "raise":
        raise RuntimeError("after writing")
    if then == "commit":
        conn.commit()
    if then == "end":
        conn.execute("commit")
    if then == "die":
        conn.execute("select pg_terminate_backend(pg_backend_pid())")
    if then == "snooze":
        raise Snooze(5)
    if then == "savepoint":
        try:
            with conn.transaction():
                conn.execute("select 1 / 0")
        except ZeroDivisionError:
            pass
        except Exception as exc:
            return type(exc).__name__
    return text


async def awrite(context: Context, text: str) -> str:
    context.connection.execute("insert into witness values (%s)", [text])
    await asyncio.sleep(0.01)
    return text


def session(context: Context) -> dict[str, Any]:
    """Leave something in the session, and say what was found there."""
    row = context.connection.execute(
        "select current_user, current_setting('statement_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'),"
        " to_regclass('pg_temp.left_behind'), coalesce(current_setting('my.setting', true), ''),"
        " pg_backend_pid()"
    ).fetchone()
    context.connection.execute("create temp table left_behind ()")
    context.connection.execute("set my.setting = 'x'")
    return {"row": row}


async def hog(context: Context) -> None:
    """Hold the GIL in C, where no Python thread can interrupt it."""
    context.log("hogging")
    re.match(r"(a+)+$", "a" * 60 + "b")
