"""Runs of steps: what a step costs, how soon the next begins, and what it takes to look at them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import cast
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut import calls
from ordinaut.bench.lab import Conn, Lab, Process, one, wait_for
from ordinaut.bench.report import Figure, Target

Pipeline = Sequence[Mapping[str, object]]

_PATIENCE = 60.0

_SEQUENCE: Pipeline = [{"id": name, "uses": "echo"} for name in ("a", "b", "c", "d")]
_DIAMOND: Pipeline = [
    {"id": "start", "uses": "echo"},
    {"id": "left", "uses": "echo", "needs": "start"},
    {"id": "right", "uses": "echo", "needs": "start"},
    {"id": "join", "uses": "echo", "needs": ["left", "right"], "save_as": "joined"},
]
_MAP: Pipeline = [
    {"id": "each", "uses": "echo", "map": {"over": "${params.list}"}, "with": {"n": "${item}"}}
]

# As enqueue() places them, many at once.
_QUEUED = """
insert into ordinaut.due_work (work_id, run_id, queue, priority, run_at, enqueued_at, attempt,
  failures, crashes, max_attempts, tool, payload, pipeline_id)
select x.id, x.id, 'default', 5, ordinaut.now(), ordinaut.now(), 0, 0, 0, 3, 'pipeline', '{}', %s
from (
  select ordinaut._v7(ordinaut._v7_prefix(ordinaut.now())) as id
  from generate_series(1, %s) order by id
) as x
"""
_LIVE = """
select exists (select from ordinaut.due_work) or exists (select from ordinaut.lease)
  or exists (select from ordinaut.parked)
"""


def workflows(lab: Lab, quick: bool) -> Iterator[Figure]:
    """Throughput, latency and a wide map through a real worker; then looking at live runs."""
    with (
        lab.database() as dsn,
        lab.connect(dsn) as conn,
        lab.workers(dsn, 1, 1) as crew,
    ):
        yield from _sequences(conn, crew, 1500 if quick else 5000)
        yield from _latency(conn, crew, 60 if quick else 200)
        yield from _map(conn, crew)
        yield from _concurrent(conn, crew)
    yield from _inspection(lab)


def _queue(conn: Conn, pipeline: Pipeline, count: int) -> None:
    pipeline_id = one(conn, "select ordinaut._pipeline_id(%s)", Jsonb(list(pipeline)))
    conn.execute(_QUEUED, [pipeline_id, count])


def _enqueue(conn: Conn, pipeline: Pipeline, params: Mapping[str, object]) -> UUID:
    return cast(UUID, one(
        conn, "select run_id from ordinaut.enqueue(p_payload => %s, p_pipeline => %s)",
        Jsonb(params), Jsonb(list(pipeline)),
    ))  # fmt: skip


def _drain(conn: Conn, crew: list[Process]) -> None:
    wait_for(lambda: not one(conn, _LIVE), _PATIENCE, "the end of all runs", crew)


def _sequences(conn: Conn, crew: list[Process], count: int) -> Iterator[Figure]:
    rates = []
    for n in range(4):
        calls.pause_queue(conn, "default")
        _queue(conn, _SEQUENCE, count // 4 if n == 0 else count)
        began = one(conn, "select ordinaut.now()")
        calls.resume_queue(conn, "default")
        _drain(conn, crew)
        done, seconds = conn.execute(
            """
            select count(*) filter (where state = 'success'),
              extract(epoch from max(finished_at) - min(started_at))::float8
            from ordinaut.task_run where started_at >= %s
            """,
            [began],
        ).fetchone() or (0, 1.0)
        if n:
            assert done == count
            rates.append(done / seconds)
    yield Figure("runs of 4 steps, 1 worker", rates, "runs/s", targets=[Target(2500)])


def _latency(conn: Conn, crew: list[Process], count: int) -> Iterator[Figure]:
    run_ids: list[UUID] = []
    for _ in range(count):
        run_ids.append(_enqueue(conn, _SEQUENCE, {}))
        _drain(conn, crew)
    gaps = one(
        conn,
        """
        select percentile_cont(array[0.5, 0.99]) within group (
          order by extract(epoch from b.started_at - a.finished_at)::float8 * 1000)
        from ordinaut.step as a
        join ordinaut.step as b on b.run_id = a.run_id and b.position = a.position + 1
        where a.run_id = any (%s)
        """,
        run_ids[count // 10 :],
    )
    yield Figure("step to step, idle, p50", [gaps[0]], "ms", targets=[Target(3, most=True)])
    yield Figure("step to step, idle, p99", [gaps[1]], "ms")


def _map(conn: Conn, crew: list[Process]) -> Iterator[Figure]:
    took = []
    for _ in range(3):
        run_id = _enqueue(conn, _MAP, {"list": list(range(1000))})
        _drain(conn, crew)
        run = calls.get_run(conn, run_id)
        assert run.state == "success" and run.finished_at and run.started_at
        took.append((run.finished_at - run.started_at).total_seconds())
    yield Figure("a map over 1000 items", took, "s", targets=[Target(1, most=True)])


def _concurrent(conn: Conn, crew: list[Process]) -> Iterator[Figure]:
    """The seed's pattern: ten at once, each to its end."""
    began = time.perf_counter()
    _queue(conn, _DIAMOND, 10)
    calls.pause_queue(conn, "default")
    calls.resume_queue(conn, "default")
    _drain(conn, crew)
    yield Figure("10 diamonds at once", [time.perf_counter() - began], "s")


def _inspection(lab: Lab) -> Iterator[Figure]:
    """Looking at one of 5000 live runs, in the middle of them."""
    with lab.database() as dsn, lab.connect(dsn) as conn:
        one(conn, "select ordinaut.ensure_partitions()")
        _queue(conn, _DIAMOND, 5000)
        run_ids = [row[0] for row in conn.execute("select run_id from ordinaut.due_work")]
        for start in range(0, len(run_ids), 500):
            conn.execute(
                "select ordinaut.start_run(r) from unnest(%s::uuid[]) as r",
                [run_ids[start : start + 500]],
            )
        conn.execute("analyze")
        some = run_ids[::50]
        for name, question in (
            ("readiness of a run", "select * from ordinaut.get_step_readiness_status(%s)"),
            ("context of a run", "select * from ordinaut.get_task_execution_context(%s)"),
        ):
            times = []
            for run_id in some:
                began = time.perf_counter()
                conn.execute(question, [run_id]).fetchall()
                times.append((time.perf_counter() - began) * 1e3)
            yield Figure(
                f"{name}, 5000 live", [median(times)], "ms", targets=[Target(1, most=True)]
            )
