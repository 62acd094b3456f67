"""The top of the hour: thousands of tasks that are due in the same second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from statistics import median

from ordinaut import calls
from ordinaut.bench.lab import Conn, Lab, one, wait_for
from ordinaut.bench.report import Figure, Target
from ordinaut.recurrence import tzdata_version
from ordinaut.scheduler import BATCH

_PATIENCE = 60.0

# As a planner leaves them: sixteen occurrences of a cron, the first of them the same for all.
_SCHEDULED = """
insert into ordinaut.task_schedule (task_id, revision, next_run, upcoming, planned_until,
  planned_at, tzdata)
select t.task_id, t.revision, at.at,
  array(select at.at + i * interval '1 h' from generate_series(0, 15) as i),
  at.at + interval '16 h', ordinaut.now(), %s
from ordinaut.task as t
cross join (select %s::timestamptz as at) as at
on conflict on constraint task_schedule_pk do update
set next_run = excluded.next_run, upcoming = excluded.upcoming, replan_at = null,
  planned_until = excluded.planned_until, fired_until = null
"""
_COPIED = """
insert into ordinaut.task
select x.*
from ordinaut.task as t
cross join generate_series(1, %s) as n
cross join lateral jsonb_populate_record(t, jsonb_build_object(
  'task_id', ordinaut.uuid_generate_v7(), 'name', 'task-' || n)) as x
"""


def herd(lab: Lab, quick: bool) -> Iterator[Figure]:
    """Ticks of many due tasks, what a lease costs meanwhile, and a real herd to its start."""
    for count, bound in ((10_000, 0.5), (100_000, 5.0)):
        if quick and count > 10_000:
            continue
        with lab.database() as dsn, lab.connect(dsn) as conn:
            _define(conn, count)
            _schedule(conn, one(conn, "select ordinaut.now()"))
            seconds = _tick(conn)
        yield Figure(
            f"tick: {count} tasks due at once", [seconds], "s", targets=[Target(bound, most=True)]
        )
    with lab.database() as dsn, lab.connect(dsn) as conn, lab.connect(dsn) as other:
        _define(conn, 20_000)
        _schedule(conn, one(conn, "select ordinaut.now()"))
        with _Leases(other) as leases:
            wait_for(lambda: len(leases.times) > 200, _PATIENCE, "leases without a tick")
            alone, leases.times = leases.times, []
            _tick(conn)
            beside = leases.times
    yield Figure(
        "lease while 20000 fire, p50", [median(beside) * 1e3], "ms", median(beside) / median(alone),
        "alone",
    )  # fmt: skip
    yield Figure(
        "10000 due: until the last has started",
        [_started(lab)],
        "s",
        targets=[Target(1.5, most=True)],
    )


def _tick(conn: Conn) -> float:
    """Return the seconds until all that is due has fired, tick by tick as a scheduler does."""
    began = time.perf_counter()
    while calls.tick(conn, limit=BATCH).fired:
        pass
    return time.perf_counter() - began


class _Leases:
    """Enqueues, leases and completes on a queue of its own, as long as the block lasts."""

    def __init__(self, conn: Conn) -> None:
        self.times: list[float] = []
        self._conn = conn
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            calls.enqueue(self._conn, "echo", {}, queue="beside")
            began = time.perf_counter()
            unit = calls.lease_work(self._conn, "bench", queue="beside")[0]
            self.times.append(time.perf_counter() - began)
            calls.complete_work(self._conn, unit.lease_id, unit.work_id)


def _started(lab: Lab) -> float:
    """Return the seconds from the due second to the last start, by the rows."""
    count = 10_000
    with (
        lab.database() as dsn,
        lab.connect(dsn) as conn,
        lab.workers(dsn, 1, 1) as crew,
        lab.process(dsn, "scheduler", "scheduler") as scheduler,
    ):
        _define(conn, count)
        at: datetime = one(conn, "select date_trunc('second', ordinaut.now() + %s)", _AHEAD)
        _schedule(conn, at)
        wait_for(
            lambda: one(conn, "select count(*) from ordinaut.task_run") >= count,
            _PATIENCE, "a herd", [*crew, scheduler],
        )  # fmt: skip
        return float(
            one(conn, "select extract(epoch from max(started_at) - %s) from ordinaut.task_run", at)
        )


_AHEAD = timedelta(seconds=4)


def _define(conn: Conn, count: int) -> None:
    """Create so many tasks that are like the one that `create_task` makes, without a plan."""
    calls.create_task(conn, "task", "echo", schedule_kind="cron", schedule_expr="0 * * * *")
    conn.execute(_COPIED, [count - 1])


def _schedule(conn: Conn, at: datetime) -> None:
    conn.execute(_SCHEDULED, [tzdata_version(), at])
    conn.execute("analyze ordinaut.task, ordinaut.task_schedule")
