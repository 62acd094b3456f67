"""
make chaos: real processes under load on a real server, and everything that can go wrong.

    python -m tests.chaos [--minutes M] [--seed N] [--only FAULT,…] [--pg 15] [--keep DIR] [--list]

After the last fault the system is given a bound of time to recover by itself; then it is stopped,
its tables are written down, and the history checker decides.  Exit 1: something was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import checker
from tests.chaos.faults import FAULTS, Missing
from tests.chaos.history import dump
from tests.chaos.lab import QUEUE, TTL, Lab, wait_for
from tests.chaos.load import BY_HAND, FIFO, KEYS, Load
from tests.chaos.samples import Sampler

# From the last healed fault until nothing is left to do.
RECOVERY = 60.0
_LEFT = """
select format('%s %s %s %s', w.status, w.tool, coalesce(w.reason, ''), w.work_id) as what
from ordinaut.work as w where w.finished_at is null
union all
select format('run %s %s', r.state, r.run_id) from ordinaut.task_run as r
where r.finished_at is null
"""

_BEATS = """
select count(*) from ordinaut.worker as w where w.seen_at > ordinaut.now() - interval '3 s'
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="faults, with commas between them")
    parser.add_argument("--pg", type=int, default=None, help="major version of the server")
    parser.add_argument("--rate", type=float, default=6.0, help="enqueues a second, each client")
    parser.add_argument("--keep", type=Path, default=None, help="keep the history there")
    parser.add_argument("--list", action="store_true", help="show the faults, run nothing")
    options = parser.parse_args()
    if options.list:
        for name, function in FAULTS.items():
            print(
                f"{name:20} {(function.__doc__ or '').splitlines()[0] if function.__doc__ else ''}"
            )
        return 0
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; --list shows them")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed

    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: a history needs a directory of its own")

    folder = options.keep or Path(tempfile.mkdtemp(prefix="ordinaut-chaos-"))
    names = only or list(FAULTS)
    print(f"seed {seed}, {options.minutes:g} minutes, history in {folder}", flush=True)
    # Also where SIGINT is ignored from birth, as in the background of a shell.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    try:
        wrong = run(folder, seed, options.minutes * 60, names, options.pg, options.rate)
    except KeyboardInterrupt:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        print("interrupted: everything is stopped, nothing was decided", file=sys.stderr)
        return 130
    for line in wrong:
        print(f"WRONG: {line}")
    verdict = checker.main([str(folder)])
    if verdict or wrong:
        again = f"python -m tests.chaos --minutes {options.minutes:g} --seed {seed}"
        print(f"\nbroken; again: {again}" + (f" --only {','.join(only)}" if only else ""))
        return 1
    if options.keep is None:
        shutil.rmtree(folder)
    return 0


def journal(lab: Lab) -> None:
    """Write down the journal of now: no line of it may be gone at the end."""
    into = lab.folder / "before"
    into.mkdir()
    with lab.connect() as conn, (into / "run_log.jsonl").open("w") as file:
        for (line,) in conn.execute("select row_to_json(g)::text from ordinaut.run_log as g"):
            file.write(line + "\n")


def run(
    folder: Path, seed: int, seconds: float, names: list[str], major: int | None, rate: float
) -> list[str]:
    """Play it; return what the driver itself found wrong."""
    wrong: list[str] = []
    dice = random.Random(seed)
    scale = min(1.0, seconds / 600)
    with Lab(folder, major) as lab, contextlib.ExitStack() as keep:
        load = Load(lab, seed, rate)
        keep.callback(load.close)
        load.start()
        sampler = Sampler(lab, [QUEUE, BY_HAND])
        keep.callback(sampler.close)
        for n in range(2):
            lab.scheduler(f"scheduler{n}")
            lab.worker(f"worker{n}")
        until = time.monotonic() + seconds
        order: list[str] = []
        while names and time.monotonic() < until:
            order = order or dice.sample(names, len(names))
            name = order.pop()
            time.sleep(dice.uniform(0.5, 3.0))
            try:
                FAULTS[name](lab, dice, scale)
            except Missing as why:
                print(f"          {name} is left out: {why}")
                names = [other for other in names if other != name]
            except Exception as error:
                wrong.append(f"{name}: {error!r}")
        healed = time.monotonic()
        wrong += [f"{p.name} ended by itself with {code}" for p in lab.processes
                  if (code := p.process.poll()) is not None]  # fmt: skip
        wait_for(lambda: lab.one("select 1"), 30, "a server")
        journal(lab)
        load.stop()
        load.pause_tasks()
        try:
            for process in lab.processes:
                process.wait_up()
            wait_for(lambda: lab.one(_LEFT) is None, RECOVERY, "an end")
            wait_for(lambda: lab.one(_BEATS) == len(lab.workers), RECOVERY, "heartbeats")
            print(f"recovered {time.monotonic() - healed:.1f} s after the last fault", flush=True)
        except TimeoutError as late:
            with lab.connect() as conn:
                rest = [row.what for row in conn.execute(_LEFT.encode()).fetchall()]
            wrong.append(f"no recovery: {late}; {len(rest)} units are left: {rest[:10]}")
        keep.close()
        wrong += [f"the load itself: {error!r}" for error in load.errors]
        for process in lab.processes:
            if (code := process.stop()) != 0:
                wrong.append(f"{process.name} answered SIGTERM with {code}")
        with lab.connect() as conn:
            now = dump(conn, folder)
    config = {
        "seed": seed, "now": now, "lease_ttl": TTL, "quiescent": True,
        "bounds": {
            "recovery_s": RECOVERY, "kill_grace_s": 12, "connections": 60, "fds": 64,
            "rss_bytes": 300_000_000, "log_bytes_per_s": 20_000,
        },
        "declared": {
            "async_failover": lab.async_failover,
            # One that slept past its lease runs on for a moment when it wakes, and finds out.
            "self_fencing": not lab.frozen,
        },
        "keys": KEYS, "queues": [QUEUE, BY_HAND], "fifo_keys": FIFO, "shifted": ["skewed"],
        "canary": lab.canary,
        "logs": sorted(str(p.relative_to(folder)) for p in folder.rglob("*.log")),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
