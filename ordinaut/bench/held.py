"""
Under a held snapshot: one forgotten transaction, and no dead row can be cleaned up.

A queue's table is then mostly dead rows, and whoever reads it from the start walks through all of
them at every lease.  Floors are what keeps us from doing so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from ordinaut.bench.engine import rate
from ordinaut.bench.lab import Conn, Lab
from ordinaut.bench.loops import Exchanger, fill
from ordinaut.bench.report import Figure, Target

_PER_SECOND = 3000
_BEAT = 0.02


def held_snapshot(lab: Lab, quick: bool) -> Iterator[Figure]:
    seconds, count, rounds = (6.0, 4000, 5) if quick else (20.0, 8000, 10)
    # The horizon is a database's own: the one beside it is free, and takes turns with it.
    with (
        lab.database() as dsn, lab.connect(dsn) as conn, lab.connect(dsn) as holder,
        lab.database() as other, lab.connect(other) as beside,
    ):  # fmt: skip
        sides = [(conn, Exchanger(conn)), (beside, Exchanger(beside))]
        for side, exchanger in sides:
            fill(side, 2000)
            exchanger.drain()
        stuck: list[float] = []
        free: list[float] = []
        with holder.transaction():
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select 1")
            times = _steady(*sides[0], seconds)
            for _ in range(rounds):
                for (side, exchanger), rates in zip(sides, (stuck, free), strict=True):
                    fill(side, count)
                    rates.append(rate(count, exchanger.drain))
    tenth = max(1, len(times) // 10)
    first, last = median(times[:tenth]) * 1e3, median(times[-tenth:]) * 1e3
    yield Figure(f"lease p50, held snapshot, first {seconds / 10:.1g} s", [first], "ms")
    yield Figure(
        f"lease p50, held snapshot, after {seconds:g} s at {_PER_SECOND}/s", [last], "ms",
        last / first, "start", [Target(2.0, most=True, ratio=True, firm=True)],
    )  # fmt: skip
    yield Figure(
        "exchange loop under it", stuck, "runs/s", max(stuck) / max(free), "without",
        [Target(0.8, ratio=True, firm=True)],
    )  # fmt: skip


def _steady(conn: Conn, exchanger: Exchanger, seconds: float) -> list[float]:
    """Enqueue and drain at a steady rate; return how long each exchange took."""
    # Without the disk: a slow fsync at either end would pass for a slow or a fast lease.
    conn.execute("set synchronous_commit = off")
    times: list[float] = []
    began = time.perf_counter()
    for beat in range(int(seconds / _BEAT)):
        time.sleep(max(0.0, began + beat * _BEAT - time.perf_counter()))
        fill(conn, int(_PER_SECOND * _BEAT))
        before = time.perf_counter()
        exchanger.turn()
        times.append(time.perf_counter() - before)
    exchanger.drain()
    conn.execute("reset synchronous_commit")
    return times
