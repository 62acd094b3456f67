"""Real workers, in processes of their own: how fast they drain, and how soon they start."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from ordinaut import calls
from ordinaut.bench.engine import place_due
from ordinaut.bench.lab import Conn, Lab, Process, in_history, one, wait_for
from ordinaut.bench.loops import fill
from ordinaut.bench.report import Figure, Target

_PATIENCE = 60.0
_CHILDREN = 1


@dataclass(slots=True)
class Drains:
    """What repeated drains showed: runs per second, and what a run cost."""

    rates: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    worker_cpu: list[float] = field(default_factory=list)


def drains(lab: Lab, quick: bool) -> Iterator[Figure]:
    """No-op runs through one worker and through two."""
    count = 20_000 if quick else 60_000
    found: dict[int, Drains] = {}
    wal = 0.0
    for workers in (1, 2):
        found[workers] = Drains()
        with (
            lab.database() as dsn,
            lab.connect(dsn) as conn,
            lab.workers(dsn, workers, _CHILDREN) as crew,
        ):
            _drain(lab, conn, crew, count // 4, Drains())
            for _ in range(3):
                _drain(lab, conn, crew, count, found[workers])
            if workers == 1:
                with lab.without_page_images():
                    wal = _drain(lab, conn, crew, count, Drains())
    one_, two = found[1], found[2]
    yield Figure("drain, 1 worker", one_.rates, "runs/s", targets=[Target(40_000)])
    yield Figure("drain, 2 workers", two.rates, "runs/s", targets=[Target(55_000)])
    yield Figure("drain, WAL", [wal], "B/run", targets=[Target(750, most=True, firm=True)])
    yield Figure("drain, server CPU", one_.server_cpu, "µs/run")
    yield Figure("drain, worker CPU", one_.worker_cpu, "µs/run")


def _drain(lab: Lab, conn: Conn, crew: list[Process], count: int, into: Drains) -> float:
    """Let the workers drain `count` runs; return the bytes of WAL of one."""
    calls.pause_queue(conn, "default")
    last = fill(conn, count, payload={})[-1]
    wal, server, own = lab.wal(), lab.cpu(), sum(worker.cpu() for worker in crew)
    began = one(conn, "select ordinaut.now()")
    calls.resume_queue(conn, "default")
    _wait_done(conn, last, crew)
    into.server_cpu.append((lab.cpu() - server) / count * 1e6)
    into.worker_cpu.append((sum(worker.cpu() for worker in crew) - own) / count * 1e6)
    used = (lab.wal() - wal) / count
    # By the rows themselves: from the first start to the last end.
    done, seconds = conn.execute(
        """
        select count(*), extract(epoch from max(finished_at) - min(started_at))::float8
        from ordinaut.task_run where finished_at >= %s
        """,
        [began],
    ).fetchone() or (0, 1.0)
    assert done == count
    into.rates.append(count / seconds)
    return used


def _wait_done(conn: Conn, last: UUID, crew: list[Process]) -> None:
    wait_for(lambda: in_history(conn, last), _PATIENCE, "a drain", crew)
    wait_for(
        lambda: not one(
            conn,
            "select exists (select from ordinaut.due_work) or exists (select from ordinaut.lease)",
        ),
        _PATIENCE, "the end of a drain", crew,
    )  # fmt: skip


def backlog(lab: Lab, quick: bool, alone: float) -> Iterator[Figure]:
    """A drain while a million wait, for a few seconds."""
    rows, seconds = (200_000, 2.0) if quick else (1_000_000, 4.0)
    with (
        lab.database() as dsn,
        lab.connect(dsn) as conn,
        lab.workers(dsn, 1, _CHILDREN) as crew,
    ):
        calls.pause_queue(conn, "default")
        place_due(conn, rows)
        conn.execute("analyze ordinaut.due_work")
        calls.resume_queue(conn, "default")
        time.sleep(1.0)
        until = time.monotonic() + seconds
        begin = one(conn, "select ordinaut.now()")
        while time.monotonic() < until:
            crew[0].check()
            time.sleep(0.1)
        end = one(conn, "select ordinaut.now()")
        calls.pause_queue(conn, "default")
        done = one(
            conn,
            "select count(*) from ordinaut.task_run where finished_at >= %s and finished_at < %s",
            begin, end,
        )  # fmt: skip
    speed = done / (end - begin).total_seconds()
    name = f"drain beside {rows // 1000}k due, 1 worker"
    yield Figure(name, [speed], "runs/s", speed / alone, "no backlog")


def latency(lab: Lab, quick: bool) -> Iterator[Figure]:
    """From enqueue to start, of one run at a time in an idle system, by the rows."""
    count = 100 if quick else 400
    with (
        lab.database() as dsn,
        lab.connect(dsn) as conn,
        lab.workers(dsn, 1, _CHILDREN) as crew,
    ):
        ids: list[UUID] = []
        for _ in range(count + 20):
            run_id = calls.enqueue(conn, "echo", {}).run_id
            assert run_id is not None
            ids.append(run_id)
            time.sleep(random.uniform(0.015, 0.025))
        _wait_done(conn, ids[-1], crew)
        quantiles = one(
            conn,
            """
            select percentile_cont(array[0.5, 0.95, 0.99]) within group
              (order by extract(epoch from started_at - enqueued_at)::float8 * 1000)
            from ordinaut.task_run where run_id = any (%s)
            """,
            ids[20:],
        )
    for name, value, bound in zip(("p50", "p95", "p99"), quantiles, (2, None, 6), strict=True):
        targets = [] if bound is None else [Target(bound, most=True)]
        yield Figure(f"enqueue to start, idle, {name}", [value], "ms", targets=targets)
