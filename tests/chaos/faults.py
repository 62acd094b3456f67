"""
The faults: each is injected, kept up for a while, and healed, whatever happens meanwhile.

`@fault` names one by its function.  `scale` is 1 in a long run and less in a short one; a fault
that needs what this machine lacks raises Missing, is said and left out.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psycopg

from tests.chaos.lab import TTL, Lab, Process

Fault = Callable[[Lab, random.Random, float], None]
FAULTS: dict[str, Fault] = {}


class Missing(Exception):
    """This machine cannot do that; the sentence says what it lacks."""


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def _later(process: Process, dice: random.Random) -> None:
    """Start a process again, as systemd would."""
    time.sleep(dice.uniform(0.2, 2.0))
    process.start()


@fault
def kill_worker(lab: Lab, dice: random.Random, scale: float) -> None:
    """kill -9 of all of a worker: only its ttl tells."""
    worker = dice.choice(lab.workers)
    with lab.fault("kill_worker", worker.name):
        worker.kill()
        _later(worker, dice)


@fault
def kill_parent(lab: Lab, dice: random.Random, scale: float) -> None:
    """kill -9 of the parent only: its guard tells the database."""
    worker = dice.choice(lab.workers)
    with lab.fault("kill_parent", worker.name):
        for pid in worker.tree[1:2]:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(5)
        worker.kill()
        _later(worker, dice)


@fault
def kill_child(lab: Lab, dice: random.Random, scale: float) -> None:
    """kill -9 of a child that runs a tool."""
    worker = dice.choice(lab.workers)
    with lab.fault("kill_child", worker.name):
        for pid in worker.tree[2:3]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@fault
def kill_scheduler(lab: Lab, dice: random.Random, scale: float) -> None:
    scheduler = dice.choice(lab.schedulers)
    with lab.fault("kill_scheduler", scheduler.name):
        scheduler.kill()
        _later(scheduler, dice)


@fault
def stop_worker(lab: Lab, dice: random.Random, scale: float) -> None:
    """SIGTERM, as a deploy: it drains and says 0."""
    worker = dice.choice(lab.workers)
    with lab.fault("stop_worker", worker.name):
        code = worker.stop()
        if code != 0:
            raise AssertionError(f"{worker.name} answered SIGTERM with {code}")
        worker.start()


@fault
def zombie(lab: Lab, dice: random.Random, scale: float) -> None:
    """SIGSTOP of everything past the lease, then SIGCONT: a host that slept."""
    worker = dice.choice(lab.workers)
    with lab.fault("zombie", worker.name):
        try:
            worker.signal(signal.SIGSTOP)
            time.sleep(2.5 * TTL)
        finally:
            worker.signal(signal.SIGCONT)


@fault
def zombie_parent(lab: Lab, dice: random.Random, scale: float) -> None:
    """SIGSTOP of the parent alone: the children go on until the guard ends them."""
    worker = dice.choice(lab.workers)
    with lab.fault("zombie_parent", worker.name):
        parents = worker.tree[1:2]
        try:
            for pid in parents:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(2.5 * TTL)
        finally:
            for pid in parents:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        # A guard that had to kill its parent exits, and is started again.
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(3)
            worker.kill()
            _later(worker, dice)


@fault
def frozen_scheduler(lab: Lab, dice: random.Random, scale: float) -> None:
    scheduler = dice.choice(lab.schedulers)
    with lab.fault("frozen_scheduler", scheduler.name):
        try:
            scheduler.signal(signal.SIGSTOP)
            time.sleep(dice.uniform(3, 8))
        finally:
            scheduler.signal(signal.SIGCONT)


def _restart(lab: Lab, how: str, down: float) -> None:
    with lab.fault(how, f"down for {down:.1f} s"):
        try:
            if how == "crash_server":
                lab.server.crash()
            else:
                pid = int((lab.server.cluster / "postmaster.pid").read_text().split()[0])
                os.kill(pid, signal.SIGKILL)
                lab.server.crash()
            time.sleep(down)
        finally:
            lab.server.start()


@fault
def crash_server(lab: Lab, dice: random.Random, scale: float) -> None:
    """pg_ctl stop -m immediate, and a start."""
    _restart(lab, "crash_server", dice.choice((0.0, 1.0, 8.0 * scale)))


@fault
def kill_postmaster(lab: Lab, dice: random.Random, scale: float) -> None:
    """SIGKILL of the postmaster."""
    _restart(lab, "kill_postmaster", dice.choice((0.0, 2.0)))


@fault
def terminate_backends(lab: Lab, dice: random.Random, scale: float) -> None:
    """pg_terminate_backend of whoever is there, again and again."""
    with lab.fault("terminate_backends"), lab.connect() as conn:
        for _ in range(20):
            conn.execute(
                "select pg_terminate_backend(a.pid) from pg_stat_activity as a"
                " where a.pid <> pg_backend_pid() and a.backend_type = 'client backend'"
                " and random() < 0.3"
            )
            time.sleep(dice.uniform(0.05, 0.4))


@fault
def lose_answers(lab: Lab, dice: random.Random, scale: float) -> None:
    """The server commits, and nobody hears."""
    with lab.fault("lose_answers"):
        for _ in range(4):
            lab.proxy.swallow(5)
            until = time.monotonic() + 3
            while lab.proxy.swallowing and time.monotonic() < until:
                time.sleep(0.02)
        lab.proxy.swallow(0)


@fault
def half_open(lab: Lab, dice: random.Random, scale: float) -> None:
    """Nothing passes and nobody is told, longer than the ttl; then it all begins anew."""
    with lab.fault("half_open"):
        lab.proxy.stall()
        try:
            time.sleep(dice.choice((3.0, 2 * TTL)))
        finally:
            lab.proxy.unstall()


@fault
def reset_connections(lab: Lab, dice: random.Random, scale: float) -> None:
    """RST, many times, and a while without new connections."""
    with lab.fault("reset_connections"):
        for _ in range(8):
            lab.proxy.reset()
            time.sleep(dice.uniform(0.05, 0.5))
        lab.proxy.refuse = True
        try:
            lab.proxy.reset()
            time.sleep(2)
        finally:
            lab.proxy.refuse = False


@fault
def slow_network(lab: Lab, dice: random.Random, scale: float) -> None:
    with lab.fault("slow_network"):
        lab.proxy.delay = 0.15
        try:
            time.sleep(5)
        finally:
            lab.proxy.delay = 0.0


@fault
def locked_tables(lab: Lab, dice: random.Random, scale: float) -> None:
    """ACCESS EXCLUSIVE on a hot table, as an ALTER or VACUUM FULL takes it, for three leases."""
    table = dice.choice(("due_work", "lease", "task_run", "worker", "step", "task_schedule"))
    with lab.fault("locked_tables", table), lab.connect() as conn, conn.transaction():
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            conn.execute("set local lock_timeout = '5s'")
            conn.execute(f"lock table ordinaut.{table} in access exclusive mode".encode())
            time.sleep(3 * TTL * min(1.0, scale + 0.4))


@fault
def open_transaction(lab: Lab, dice: random.Random, scale: float) -> None:
    """Somebody's open transaction holds what it touched: runs, schedules, keys."""
    with lab.fault("open_transaction"), lab.connect() as conn:
        for query in (
            "select from ordinaut.task_run where finished_at is null for update skip locked",
            "select from ordinaut.task_schedule for update skip locked",
            "select from ordinaut.hold for update skip locked",
        ):
            with conn.transaction():
                conn.execute(query.encode())
                time.sleep(3)


@fault
def old_snapshot(lab: Lab, dice: random.Random, scale: float) -> None:
    """A transaction that sees the world of three minutes ago: nothing dead can be removed."""
    with lab.fault("old_snapshot"), lab.connect() as conn, conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select count(*) from ordinaut.due_work")
        time.sleep(180 * scale)


@fault
def starved_cpu(lab: Lab, dice: random.Random, scale: float) -> None:
    """Sixteen busy processes, and a tool that holds the GIL."""
    with lab.fault("starved_cpu"):
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL)
            for _ in range(16)
        ]
        try:
            from tests.chaos.load import TOOL

            with lab.connect() as conn:
                for _ in range(4):
                    conn.execute(
                        'select ordinaut.enqueue(%s, \'{"hold_gil": true, "seconds": 4}\')', [TOOL]
                    )
            time.sleep(3 * TTL * min(1.0, scale + 0.4))
        finally:
            for process in busy:
                process.kill()
                process.wait()


@fault
def two_schedulers(lab: Lab, dice: random.Random, scale: float) -> None:
    """Five schedulers at once, each of which believes in its mission."""
    extra = [lab.scheduler(f"scheduler-extra-{time.time_ns()}") for _ in range(3)]
    with lab.fault("two_schedulers"):
        time.sleep(4)
        for process in extra:
            process.kill()
            lab.processes.remove(process)
