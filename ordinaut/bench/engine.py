"""The engine by itself, from one client: the loop, enqueueing, what a lease costs beside much."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

from ordinaut import calls
from ordinaut.bench.lab import Conn, Lab
from ordinaut.bench.loops import Exchanger, bare_drain, bare_fill, bare_setup, fill
from ordinaut.bench.report import Figure, Target

_PLACE = """
insert into ordinaut.{table} (work_id, run_id, queue, priority, run_at, enqueued_at, attempt,
  failures, crashes, max_attempts, tool, payload{columns})
select x.id, x.id, 'default', 1 + x.n % 9, {run_at}, ordinaut.now(), 0, 0, 0, 3, '{tool}',
  '{{}}'{values}
from (
  select ordinaut._v7(ordinaut._v7_prefix(ordinaut.now())) as id, n
  from generate_series(1, {count}) as n order by id
) as x
"""


def rate(count: int, work: Callable[[], object]) -> float:
    """Do the work and return how many of `count` per second that was."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def loops(lab: Lab, quick: bool) -> Iterator[Figure]:
    """The two loops in turns, so that what disturbs one disturbs the other."""
    count, rounds = (2000, 8) if quick else (3000, 16)
    with lab.database() as dsn, lab.connect(dsn) as conn:
        bare_setup(conn)
        exchanger = Exchanger(conn)
        bare: list[float] = []
        ours: list[float] = []
        cost: dict[str, tuple[float, float]] = {}
        bare_fill(conn, count)
        bare_drain(conn)
        fill(conn, count)
        exchanger.drain()
        for n in range(rounds):
            bare_fill(conn, count)
            fill(conn, count)
            turns: list[tuple[list[float], Callable[[], object]]] = [
                (bare, lambda: bare_drain(conn)),
                (ours, exchanger.drain),
            ]
            for rates, drain in turns if n % 2 else reversed(turns):
                rates.append(rate(count, drain))
        many = 10 * count  # the kernel counts CPU in hundredths of a second
        with lab.without_page_images():
            bare_fill(conn, many)
            fill(conn, many)
            for name, drain in (("bare", lambda: bare_drain(conn)), ("ours", exchanger.drain)):
                wal, cpu = lab.wal(), lab.cpu()
                drain()
                cost[name] = ((lab.wal() - wal) / many, (lab.cpu() - cpu) / many * 1e6)
    yield Figure("bare loop, batch 100", bare, "jobs/s")
    yield Figure(
        "exchange loop, batch 100",
        ours,
        "runs/s",
        max(ours) / max(bare),  # each at its least disturbed
        targets=[Target(0.6, ratio=True, firm=True)],
    )
    yield Figure("bare loop, WAL", [cost["bare"][0]], "B/job")
    yield Figure(
        "exchange loop, WAL", [cost["ours"][0]], "B/run", cost["ours"][0] / cost["bare"][0],
        targets=[Target(750, most=True, firm=True)],
    )  # fmt: skip
    yield Figure("bare loop, server CPU", [cost["bare"][1]], "µs/job")
    yield Figure(
        "exchange loop, server CPU", [cost["ours"][1]], "µs/run", cost["ours"][1] / cost["bare"][1]
    )


def enqueueing(lab: Lab, quick: bool) -> Iterator[Figure]:
    single, bulk = (300, 20_000) if quick else (1000, 50_000)
    with lab.database() as dsn, lab.connect(dsn) as conn:
        bare_setup(conn)
        conn.execute("insert into bare (body) values ('{}')")
        slow, ones, many = [], [], []
        for _ in range(3):
            slow.append(rate(single, lambda: _bare_ones(conn, single)))
            ones.append(
                rate(single, lambda: [calls.enqueue(conn, "echo", {}) for _ in range(single)])
            )
            many.append(rate(bulk, lambda: fill(conn, bulk, payload={})))
        with lab.without_page_images():
            wal = lab.wal()
            fill(conn, bulk, payload={})
            wal = lab.wal() - wal
    yield Figure("bare insert, one at a time", slow, "calls/s")
    yield Figure(
        "enqueue, one at a time", ones, "calls/s",
        median([b / a for a, b in zip(slow, ones, strict=True)]), "bare insert",
    )  # fmt: skip
    yield Figure("enqueue_many, 1000 a call", many, "runs/s", targets=[Target(60_000)])
    yield Figure("enqueue_many, WAL", [wal / bulk], "B/run")


def _bare_ones(conn: Conn, count: int) -> None:
    for _ in range(count):
        conn.execute("insert into bare (body) values (%s)", ["{}"])


def crowds(lab: Lab, quick: bool) -> Iterator[Figure]:
    """A lease of 20 beside work that is not due, and beside work that waits for a tool."""
    future, parked = (200_000, 60_000) if quick else (1_000_000, 300_000)
    with lab.database() as dsn, lab.connect(dsn) as conn:
        alone = _lease_p50(conn)
        _place(conn, "due_work", future, "ordinaut.now() + (x.n % 1000000 + 3600) * interval '1 s'")
        conn.execute("analyze ordinaut.due_work")
        beside_future = _lease_p50(conn)
    with lab.database() as dsn, lab.connect(dsn) as conn:
        conn.execute(
            _PLACE.format(
                table="parked", columns=", reason, parked_at", run_at="ordinaut.now()",
                values=", 'tool', ordinaut.now()", tool="nobody_has_it", count=parked,
            ).encode()
        )  # fmt: skip
        beside_parked = _lease_p50(conn)
    yield Figure("lease of 20, p50", [alone], "ms")
    for name, value in (("future", beside_future), ("parked", beside_parked)):
        rows = future if name == "future" else parked
        yield Figure(
            f"lease of 20 beside {rows // 1000}k {name}, p50", [value], "ms", value / alone, "alone"
        )


def place_due(conn: Conn, count: int) -> None:
    """Put `count` due echoes of priority 5 into the table, faster than by enqueue_many."""
    _place(conn, "due_work", count, "ordinaut.now() - (1000000 - x.n) * interval '1 us'", "5")


def _place(conn: Conn, table: str, count: int, run_at: str, priority: str | None = None) -> None:
    text = _PLACE.format(
        table=table, columns="", run_at=run_at, values="", tool="echo", count=count
    )
    if priority is not None:
        text = text.replace("1 + x.n % 9", priority)
    conn.execute(text.encode())


def _lease_p50(conn: Conn, calls_made: int = 100) -> float:
    """Return milliseconds; without the disk, which knows nothing of the table's size."""
    conn.execute("set synchronous_commit = off")
    fill(conn, 20 * calls_made, payload={})
    times = []
    for _ in range(calls_made):
        began = time.perf_counter()
        calls.lease_work(conn, "bench", limit=20)
        times.append(time.perf_counter() - began)
    conn.execute("reset synchronous_commit")
    return median(times) * 1e3
