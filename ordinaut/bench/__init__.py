"""
How fast this machine runs Ordinaut, beside the least that a queue could do on it.

Absolute times say as much about the machine, its disk and its other guests as about us.  So the
bare loop runs in the same minute on the same server, and what is judged firmly are ratios and
bytes; a missed time is shown, and fails nothing.

Prior art: graphile-worker's perfTest, River's bench, pg-boss's comparisons.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from rich.console import Console

from ordinaut.bench import engine, held, herd, workers, workflows
from ordinaut.bench.lab import BenchError, Lab, sync_time
from ordinaut.bench.report import Figure, dump, judge, show

__all__ = ["main"]

_INTERRUPTED = 130
_DRAIN_ALONE = "drain, 1 worker"


def main(flags: Sequence[str] = ()) -> int:
    """Measure, print, and return the exit code.

    Args:
        flags: --check (exit 1 when a ratio is missed), --json, --quick (a minute, rougher).

    Returns:
        0; 1 after a firm miss with --check, or when a measurement failed; 130 after Ctrl-C.
        Nothing is left behind in any case.
    """
    console = Console(stderr=True)
    with _ended_by(signal.SIGTERM):
        try:
            began = time.monotonic()
            with Lab() as lab:
                where: dict[str, object] = {
                    "PostgreSQL": lab.version,
                    "cores": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 2),
                    "fsync": f"{sync_time(lab.server.data_dir) * 1e3:.2f} ms",
                }
                figures = _measure(lab, "--quick" in flags, console)
                where["took"] = f"{time.monotonic() - began:.0f} s"
        except KeyboardInterrupt:
            console.print("interrupted; nothing is left behind", style="yellow")
            return _INTERRUPTED
        except BenchError as exc:
            console.print(f"bench: {exc}", style="red")
            return 1
    verdicts = judge(figures)
    (dump if "--json" in flags else show)(where, figures, verdicts)
    missed = any(verdict.firm and not verdict.met for verdict in verdicts)
    return 1 if missed and "--check" in flags else 0


def _measure(lab: Lab, quick: bool, console: Console) -> list[Figure]:
    figures: list[Figure] = []

    def alone() -> float:
        return next(f.value for f in figures if f.name == _DRAIN_ALONE)

    sections: list[tuple[str, Callable[[], Iterator[Figure]]]] = [
        ("the loops", lambda: engine.loops(lab, quick)),
        ("enqueueing", lambda: engine.enqueueing(lab, quick)),
        ("latency", lambda: workers.latency(lab, quick)),
        ("workers", lambda: workers.drains(lab, quick)),
        ("a backlog", lambda: workers.backlog(lab, quick, alone())),
        ("a held snapshot", lambda: held.held_snapshot(lab, quick)),
        ("crowded tables", lambda: engine.crowds(lab, quick)),
        ("workflows", lambda: workflows.workflows(lab, quick)),
        ("a herd of tasks", lambda: herd.herd(lab, quick)),
    ]
    for number, (name, section) in enumerate(sections, 1):
        began = time.monotonic()
        with console.status(f"{number}/{len(sections)} {name}"):
            figures += section()
        if console.is_terminal:
            console.print(f"{name}: {time.monotonic() - began:.0f} s", style="dim")
    return figures


@contextlib.contextmanager
def _ended_by(signum: signal.Signals) -> Iterator[None]:
    """Let a signal end the block as Ctrl-C does, so that it cleans up."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signum, stop)
    try:
        yield
    finally:
        signal.signal(signum, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
