"""
What a soak may cost: judged by the samples alone.

Growth is the change from the first third of the busy time after the warm-up to its last third, in
the median for memory and in the maximum for what must not grow at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.soak.samples import HISTORY, HOT

Sample = dict[str, Any]
MB = 2**20
WARM_UP = 0.25  # of the busy time


@dataclass(frozen=True, slots=True)
class Line:
    """One figure, and what it may be at most."""

    what: str
    value: str
    bound: str = ""
    is_breach: bool = False


def judge(samples: list[Sample], enqueued: int) -> list[Line]:
    """Return every figure of a soak, its bound beside it."""
    idle = [s for s in samples if s["phase"] == "idle"]
    every = [s for s in samples if s["phase"] == "busy"]
    busy = every[int(len(every) * WARM_UP) :]
    third = max(2, len(busy) // 3)
    first, last = busy[:third], busy[-third:]
    hours = (busy[-1]["t"] - busy[0]["t"]) / 3600
    return [
        *_load(every, busy, samples[-1], enqueued),
        *_processes(first, last, hours),
        *_logs(idle, busy),
        *_tables(first, last),
        *_history(busy),
    ]


def _load(every: list[Sample], busy: list[Sample], end: Sample, enqueued: int) -> list[Line]:
    seconds = busy[-1]["t"] - busy[0]["t"]
    runs = busy[-1]["runs"] - busy[0]["runs"]
    wal = busy[-1]["wal"] - busy[0]["wal"]
    late = sorted(s["late"] for s in busy)[int(len(busy) * 0.95)]
    return [
        Line("busy for", f"{(every[-1]['t'] - every[0]['t']) / 60:.1f} min"),
        Line("runs enqueued, fired by tasks", f"{enqueued}, {end['fired']}"),
        Line("runs ended", f"{runs / seconds:.0f}/s"),
        Line("WAL", f"{wal / max(1, runs) / 1000:.1f} kB a run"),
        _most("late, 95th of 100 samples", late, 5.0, "{:.2f} s"),
        _most("left in a live table at the end", end["left"], 0, "{}"),
    ]


def _processes(first: list[Sample], last: list[Sample], hours: float) -> list[Line]:
    lines = []
    before, after = _maximum(first, "connections"), _maximum(last, "connections")
    lines.append(_most("connections", after, before, "{}"))
    for place in _places(first, "rss"):
        was, now = _median(first, "rss", place), _median(last, "rss", place)
        if was is None or now is None:
            continue
        growth = (now - was) / MB
        slope = growth / (hours * 2 / 3)
        line = f"{was / MB:.1f} to {now / MB:.1f} MB"
        if hours > 0.5:
            line += f", {slope:+.1f} MB/h"
        bound = 4 + 0.1 * was / MB
        lines.append(Line(f"memory of {place}", line, f"+{bound:.1f} MB", growth > bound))
    # A backend keeps the files it has read open, up to max_files_per_process.
    ours = [place for place in last[-1]["fds"] if not place.startswith("pg ")]
    worst = {place: (_highest(first, place), _highest(last, place)) for place in ours}
    grown = {place: pair for place, pair in worst.items() if pair[0] and pair[1] > pair[0] + 2}
    files = ", ".join(f"{place} {a} to {b}" for place, (a, b) in grown.items())
    lines.append(Line("open files, most of one process",
        files or str(max(b for _, b in worst.values())), "+2", bool(grown)))  # fmt: skip
    return lines


def _logs(idle: list[Sample], busy: list[Sample]) -> list[Line]:
    def rate(samples: list[Sample]) -> float:
        seconds = samples[-1]["t"] - samples[0]["t"]
        return float((samples[-1]["log_bytes"] - samples[0]["log_bytes"]) / max(1.0, seconds))

    return [
        _most("log, idle", rate(idle), 20.0, "{:.1f} B/s"),
        _most("log, busy", rate(busy), 4000.0, "{:.0f} B/s"),
    ]


def _tables(first: list[Sample], last: list[Sample]) -> list[Line]:
    lines = []
    for name in HOT:
        for part in ("heap", "indexes", "toast"):
            before = max(s["sizes"].get(name, {}).get(part, 0) for s in first)
            after = max(s["sizes"].get(name, {}).get(part, 0) for s in last)
            if after > 2**17:
                bound = 1.5 * before + MB
                lines.append(
                    Line(f"{name} {part}", f"{before / MB:.1f} to {after / MB:.1f} MB",
                         f"{bound / MB:.1f} MB", after > bound)
                )  # fmt: skip
    return lines


def _history(busy: list[Sample]) -> list[Line]:
    runs = max(1, busy[-1]["runs"] - busy[0]["runs"])
    lines = []
    for name in HISTORY:
        grown = busy[-1]["tables"].get(name, 0) - busy[0]["tables"].get(name, 0)
        lines.append(Line(f"{name}, bytes per run ended", f"{grown / runs:.0f}"))
    parts = {
        name: busy[-1]["sizes"][name]["parts"] for name in HISTORY if name in busy[-1]["sizes"]
    }
    most = max(parts.values())
    lines.append(_most("partitions of one table: those long past are dropped", most, 6, "{}"))
    return lines


def _most(what: str, value: float, bound: float, form: str) -> Line:
    return Line(what, form.format(value), form.format(bound), value > bound)


def _places(samples: list[Sample], key: str) -> list[str]:
    return sorted({place for s in samples for place in s[key]})


def _maximum(samples: list[Sample], key: str) -> int:
    return max(s[key] for s in samples)


def _median(samples: list[Sample], key: str, place: str) -> float | None:
    found = [s[key][place] for s in samples if place in s[key]]
    return median(found) if found else None


def _highest(samples: list[Sample], place: str) -> int:
    return max((s["fds"].get(place, 0) for s in samples), default=0)


def table(lines: list[Line], out: Callable[[str], None]) -> None:
    """Print the figures, the breaches marked."""
    width = max(len(line.what) for line in lines)
    value = max(len(line.value) for line in lines)
    for line in lines:
        bound = f"  at most {line.bound}" if line.bound else ""
        out(f"{'BREACH ' if line.is_breach else '       '}{line.what:<{width}}  "
            f"{line.value:>{value}}{bound}")  # fmt: skip
