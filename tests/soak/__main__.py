"""
make soak: real processes at a moderate rate for a long time; nothing may grow but history.

    python -m tests.soak [--minutes 60] [--rate 100] [--seed 1] [--folder DIR] [--server 15]

First idle, then busy, then until the last run has ended.  Samples every few seconds go to
samples.jsonl in the folder, with the logs of all processes.  Exit 1 when a bound is broken, or
something is left over.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg

from tests.soak.judge import judge, table
from tests.soak.lab import Lab, wait_for
from tests.soak.load import Load
from tests.soak.samples import Sampler

_LEFT = "select (select count(*) from ordinaut.run as r where r.finished_at is null)"
_ENDED = "select r.state, count(*) from ordinaut.task_run as r group by 1"


def main() -> int:
    words = argparse.ArgumentParser(prog="soak")
    words.add_argument("--minutes", type=float, default=60.0, help="busy; 1 to try it")
    words.add_argument("--rate", type=float, default=100.0, help="runs a second")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--folder", type=Path)
    words.add_argument("--server", type=int, help="major version")
    given = words.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ordinaut-soak-"))
    print(f"soak of {given.minutes:g} min at {given.rate:g} runs/s, in {folder}", flush=True)
    return soak(folder.absolute(), given.minutes * 60, given.rate, given.seed, given.server)


def soak(folder: Path, seconds: float, rate: float, seed: int, major: int | None) -> int:
    """Run it, print the figures, return the exit code."""
    every = min(5.0, max(1.0, seconds / 60))
    with Lab(folder, major) as lab:
        lab.start("scheduler", "scheduler")
        lab.start("worker0", "worker", "--concurrency", "3", "--name", "soak0")
        lab.start("worker1", "worker", "--concurrency", "2", "--name", "soak1", "--poll-only")
        sampler = Sampler(lab)
        load = Load(lab.server.dsn, rate, seed)
        with psycopg.connect(lab.server.dsn, autocommit=True) as conn:
            up = "select count(*) = 2 from ordinaut.worker"
            wait_for(lambda: conn.execute(up).fetchone() == (True,), 30, "both workers")
            _watch(sampler, "idle", max(15.0, seconds / 10), every)
            load.start()
            _watch(sampler, "busy", seconds, every, load)
            load.stop()
            # The events that waiting steps still wait for come no more: their timeout is a minute.
            wait_for(lambda: conn.execute(_LEFT).fetchone() == (0,), 120, "the end of the last run")
            sampler.take("end")
            states = Counter(dict(conn.execute(_ENDED).fetchall()))
        codes = lab.stop()
        sampler.close()
    lines = judge(sampler.taken, load.enqueued)
    table(lines, print)
    print(f"ended: {dict(states)}; exit codes: {codes}; samples and logs: {folder}")
    breaches = sum(line.is_breach for line in lines)
    breaches += any(codes.values())
    print("within all bounds" if not breaches else f"{breaches} bounds broken")
    return 1 if breaches else 0


def _watch(sampler: Sampler, phase: str, seconds: float, every: float, load: Load | None = None) \
        -> None:  # fmt: skip
    until = time.monotonic() + seconds
    while time.monotonic() < until and (load is None or load.error is None):
        sampler.take(phase)
        time.sleep(every)


if __name__ == "__main__":
    sys.exit(main())
