"""Faults of processes: killed, stopped, frozen, starved, with a wrong clock."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.faults import Missing, fault
from tests.chaos.lab import TTL, Lab, Process
from tests.chaos.load import TOOL, Caller


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
    worker.wait_up()
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
            lab.frozen = True
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


@fault
def two_schedulers(lab: Lab, dice: random.Random, scale: float) -> None:
    """Five schedulers at once, each of which believes in its mission."""
    extra = [lab.scheduler(f"scheduler-extra-{time.time_ns()}") for _ in range(3)]
    with lab.fault("two_schedulers"):
        time.sleep(4)
        for process in extra:
            process.kill()
            lab.processes.remove(process)


@fault
def starved_cpu(lab: Lab, dice: random.Random, scale: float) -> None:
    """Sixteen busy processes, and a tool that holds the GIL."""
    with lab.fault("starved_cpu"):
        busy: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(16):
                spin = [sys.executable, "-c", "while True: pass"]
                busy.append(subprocess.Popen(spin, stdin=subprocess.DEVNULL))
            with contextlib.closing(Caller(lab)) as caller:
                for _ in range(4):
                    payload = {"hold_gil": True, "seconds": 4}
                    caller.call("enqueue", tool=TOOL, payload=payload)
            time.sleep(3 * TTL * min(1.0, scale + 0.4))
        finally:
            for process in busy:
                process.kill()
                process.wait()


@fault
def skewed_clock(lab: Lab, dice: random.Random, scale: float) -> None:
    """A worker whose clock is wrong: nobody asks it."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        raise Missing("no libfaketime (Debian: faketime)")
    # It shifts the monotonic clock as well, and then timed waits of threads: forward they would
    # last as long as the shift, back they end at once.  No further back than any host has been up.
    off = dice.choice(("-60", "-45"))
    environ = {"LD_PRELOAD": str(library), "FAKETIME": off, "CHAOS_CLOCK": "skewed"}
    with lab.fault("skewed_clock", off):
        worker = lab.worker(f"worker-skewed-{time.time_ns()}", **environ)
        time.sleep(8 + 10 * scale)
        worker.wait_up()
        lab.processes.remove(worker)
        if (code := worker.stop()) != 0:
            raise AssertionError(f"{worker.name} answered SIGTERM with {code}")
