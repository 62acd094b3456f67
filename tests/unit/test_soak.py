"""The judge of soaks: it sees what grows, and lets pass what only moves."""

from __future__ import annotations

import copy

import pytest

from tests.soak.judge import judge

MB = 2**20


def samples(n=60):
    """A soak in which nothing grows but history."""
    out = []
    for i in range(n):
        phase = "idle" if i < 6 else "end" if i == n - 1 else "busy"
        size = {"heap": MB, "indexes": MB, "toast": MB, "dead": i % 7 * 100, "parts": 5}
        out.append({
            "t": 1000.0 + 5 * i, "phase": phase, "connections": 9,
            "rss": {"worker": (40 + i % 3) * MB}, "fds": {"worker": 14 + i % 3},
            "log_bytes": 1000 + 50 * i * (phase != "idle"), "runs": 500 * i, "fired": 10 * i,
            "sizes": {"lease": dict(size), "task_run": dict(size)},
            "tables": {"lease": 3 * MB, "task_run": 3 * MB + 5000 * i},
            "due": 3, "late": 0.1, "leases": 2, "wal": 10**6 * i, "left": 0,
        })  # fmt: skip
    return out


def breaches(taken):
    return [line.what for line in judge(taken, 1000) if line.is_breach]


def test_a_sound_soak_passes():
    assert breaches(samples()) == []


@pytest.mark.parametrize(
    ("leak", "named"),
    [
        (lambda s, i: s["rss"].update(worker=(40 + i) * MB), "memory of worker"),
        (lambda s, i: s["fds"].update(worker=14 + i // 5), "open files, most of one process"),
        (lambda s, i: s.update(connections=9 + i // 20), "connections"),
        (lambda s, i: s["sizes"]["lease"].update(toast=MB * (1 + i // 5)), "lease toast"),
        (lambda s, i: s.update(log_bytes=100_000 * i), "log, busy"),
        (lambda s, i: s.update(late=0.5 * i), "late, 95th of 100 samples"),
        (lambda s, i: s.update(left=1), "left in a live table at the end"),
        (lambda s, i: s["sizes"]["task_run"].update(parts=9),
         "partitions of one table: those long past are dropped"),
    ],
)  # fmt: skip
def test_what_grows_is_named(leak, named):
    taken = copy.deepcopy(samples())
    for i, sample in enumerate(taken):
        leak(sample, i)
    assert named in breaches(taken)
