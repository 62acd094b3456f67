"""
Time travel: the whole engine on one connection whose clock the test turns (testing/clock.sql).

A World steps from one interesting instant to the next: the next firing, the next plan that runs
short, the next run that may start, the next run that ends.  At each, in this order: what ends is
settled, the planner plans, tick fires, the worker leases.  So what is live when tick decides is
known, and every decision can be predicted.

The Worker is the witness: what it was handed, when, and when it ended, it writes down itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import namedtuple_row

from ordinaut import calls, db, planner

EXCHANGE = """select * from ordinaut.exchange(%s, 'default', %s, 1000, %s::uuid[], %s::uuid[],
  %s::text[], %s::text[], %s::text[], %s::bigint[])"""
NEXT = """select
  least((select min(s.next_run) from ordinaut.task_schedule as s),
    (select greatest(s.replan_at, '1970-01-01') from ordinaut.task_schedule as s
      where s.replan_at is not null order by s.replan_at limit 1),
    -- Of those that follow the end of a run.
    (select min(s.look_at) from ordinaut.task_schedule as s join ordinaut.task as t
      on t.task_id = s.task_id where s.next_run is null and t.schedule_kind = 'interval')
  ) as to_schedule,
  (select min(w.run_at) from ordinaut.due_work as w) as to_run"""
NEVER = datetime.max.replace(tzinfo=UTC)
FAILED = '{"message": "it fails", "retryable": false}'


@dataclass(slots=True)
class Run:
    """What the witness knows of a run; `ended` orders by the instant, then after tick or before."""

    task_id: UUID
    scheduled_for: datetime
    run_at: datetime
    began: datetime
    outcome: str = ""
    ended: tuple[datetime, int] | None = None


class Worker:
    """Holds each unit for as many seconds as its payload says, then ends it as it says."""

    def __init__(self, conn: db.Connection) -> None:
        self._conn = conn
        self._id = uuid4()
        self._held: list[tuple[datetime, int, UUID, UUID]] = []
        self._done: list[tuple[UUID, UUID, str]] = []  # to be told
        self._fails: set[UUID] = set()
        self.runs: dict[UUID, Run] = {}
        calls.register_worker(conn, self._id, ["default"], ["echo"], ttl=timedelta(days=1))

    def next_end(self) -> datetime | None:
        return self._held[0][0] if self._held else None

    def settle(self, now: datetime) -> None:
        """End what ends now, and lease nothing: tick has not decided yet."""
        self._end(now, 0)
        if self._done:
            self._exchange(now, lease_id=None)

    def work(self, now: datetime) -> None:
        """Lease until there is nothing to lease; what takes no time ends at once."""
        while self._exchange(now, lease_id=uuid4()) or self._done:
            self._end(now, 1)

    def _end(self, now: datetime, phase: int) -> None:
        while self._held and self._held[0][0] <= now:
            _, _, lease_id, work_id = heapq.heappop(self._held)
            if self.runs[work_id].ended is None:
                outcome = "failed" if work_id in self._fails else "success"
                self._tell(lease_id, work_id, outcome, (now, phase))

    def _tell(self, lease_id: UUID, work_id: UUID, outcome: str, at: tuple[datetime, int]) -> None:
        self._done.append((lease_id, work_id, outcome))
        self.runs[work_id].outcome, self.runs[work_id].ended = outcome, at

    def _exchange(self, now: datetime, lease_id: UUID | None) -> bool:
        done, self._done = self._done, []
        columns = [list(column) for column in zip(*done, strict=True)] or [[], [], []]
        outputs = ["{}" if outcome == "success" else None for _, _, outcome in done]
        errors = [FAILED if outcome == "failed" else None for _, _, outcome in done]
        cursor = self._conn.cursor(row_factory=namedtuple_row)
        rows = cursor.execute(
            EXCHANGE, [self._id, lease_id, *columns, outputs, errors, [0] * len(done)]
        ).fetchall()
        for row in rows:
            if row.kind == "work":
                assert row.work_id not in self.runs, "a run was handed out twice"
                self.runs[row.work_id] = Run(row.task_id, row.scheduled_for, row.run_at, now)
                until = now + timedelta(seconds=row.payload.get("takes", 0))
                heapq.heappush(self._held, (until, len(self.runs), row.lease_id, row.work_id))
                if row.payload.get("fails"):
                    self._fails.add(row.work_id)
            elif row.kind == "cancel":
                if self.runs[row.work_id].ended is None:
                    self._tell(row.lease_id, row.work_id, "cancelled", (now, 1))
            else:
                assert row.kind == "sweep", f"{row.kind} {row.work_id}"
        return any(row.kind == "work" for row in rows)


class World:
    """A scheduler's loop without the waiting, and a worker."""

    def __init__(self, conn: db.Connection, now: datetime) -> None:
        self.conn = conn
        self.is_scheduling = True
        self.steps = 0
        self.at(now)
        self._pruned = self._to_schedule = self._to_run = now
        self.worker = Worker(conn)

    def at(self, now: datetime) -> None:
        self.now = now
        self.conn.execute("select set_config('test.now', %s, false)", [now.isoformat()])

    def step(self) -> None:
        """Do everything that there is to do at this instant."""
        self.steps += 1
        self.worker.settle(self.now)
        if self.is_scheduling and self._to_schedule <= self.now:
            self.schedule()
        self.worker.work(self.now)

    def schedule(self) -> None:
        for _ in range(1000):
            planner.step(self.conn)
            calls.tick(self.conn)
            if self._look() > self.now:
                break
        else:
            raise AssertionError(f"never done at {self.now}")
        if self.now - self._pruned > timedelta(days=7):
            while calls.prune(self.conn, "700 days"):
                pass
            self._pruned = self.now

    def run_until(self, end: datetime) -> None:
        """Step from instant to instant, and stop at `end`."""
        self._look()
        while self.now < end:
            self.step()
            self.at(min(end, self._next()))
        self.step()

    def _look(self) -> datetime:
        """Return when the scheduler has something to do."""
        [(to_schedule, to_run)] = self.conn.execute(NEXT).fetchall()
        self._to_schedule, self._to_run = to_schedule or NEVER, to_run or NEVER
        return self._to_schedule

    def _next(self) -> datetime:
        self._look()
        found = [self._to_run, self.worker.next_end() or NEVER]
        if self.is_scheduling:
            found.append(self._to_schedule)
        assert min(found) > self.now, f"left undone at {self.now}: {found}"
        return min(found)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """No planner, no tick; the worker works on."""
        self.is_scheduling = False
        yield
        self.is_scheduling = True

    def rows(self, query: str, *args: Any) -> list[Any]:
        return self.conn.cursor(row_factory=namedtuple_row).execute(query, args).fetchall()
