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
    seconds, count = (6.0, 10_000) if quick else (20.0, 20_000)
    with lab.database() as dsn, lab.connect(dsn) as conn, lab.connect(dsn) as holder:
        exchanger = Exchanger(conn)
        fill(conn, 2000)
        exchanger.drain()
        with holder.transaction():
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select 1")
            times = _steady(conn, exchanger, seconds)
            stuck = _drains(conn, exchanger, count)
        conn.execute("vacuum ordinaut.due_work, ordinaut.lease")
        free = _drains(conn, exchanger, count)
    tenth = max(1, len(times) // 10)
    first, last = median(times[:tenth]) * 1e3, median(times[-tenth:]) * 1e3
    yield Figure(f"lease p50, held snapshot, first {seconds / 10:.1g} s", [first], "ms")
    yield Figure(
        f"lease p50, held snapshot, after {seconds:g} s at {_PER_SECOND}/s", [last], "ms",
        last / first, "start", [Target(2.0, most=True, ratio=True, firm=True)],
    )  # fmt: skip
    yield Figure(
        "exchange loop under it", stuck, "runs/s", median(stuck) / median(free), "without",
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


def _drains(conn: Conn, exchanger: Exchanger, count: int) -> list[float]:
    rates = []
    for _ in range(3):
        fill(conn, count)
        rates.append(rate(count, exchanger.drain))
    return rates
