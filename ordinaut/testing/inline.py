"""
The engine's loops in the test's own process, one turn at a time.

Nothing is imitated: `SchedulerService` makes the calls that a scheduler makes, and `WorkRunner`
leases, runs and settles as a worker and its child do, with the child's own code.  What is missing
is what only a second process can do: a unit's timeout is not enforced here.

Each has a connection of its own, made from whatever it is given: two that shared one would never
be in each other's way, and a queue that works for them proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any, Self
from uuid import UUID, uuid4

from psycopg.rows import namedtuple_row

from ordinaut import calls, pipeline, planner, wire
from ordinaut.backfill import Backfills
from ordinaut.errors import LeaseLost, WorkerUnknown
from ordinaut.runner import Runner
from ordinaut.testing.database import Database, Pool, dsn_of

ENDED = frozenset({"success", "failed", "cancelled", "timed_out", "abandoned"})
_A_DAY = timedelta(days=1)  # as long as a worker may be silent
_TURNS = 10_000  # of one drain: more than that is a loop

_EXCHANGE = """
select
  e.kind, e.lease_id, e.work_id, e.run_id, e.task_id, e.step, e.tool, e.payload::text as payload,
  e.attempt, e.failures, e.max_attempts,
  coalesce((extract(epoch from e.timeout) * 1000000)::bigint, 0) as timeout,
  (extract(epoch from e.scheduled_for) * 1000000)::bigint as scheduled_for
from ordinaut.exchange(%s, %s, %s, %s, %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[],
  %s::bigint[], p_notes => %s) as e
"""
_STATUS = "select w.status from ordinaut.work as w where w.work_id = %s"
_QUEUES = """
select w.queue from ordinaut.due_work as w where w.run_at <= ordinaut.now()
group by w.queue order by min(w.priority), w.queue
"""


class _Loop:
    """What both have: a connection of their own, on the clock of the database they are given."""

    def __init__(self, database: Pool, name: str) -> None:
        self._own: Database | None = None
        if not isinstance(database, Database):
            database = self._own = Database(dsn_of(database))
        self._db = database
        self._conn = self._db.connect(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection.  Idempotent."""
        self._conn.close()
        if self._own is not None:
            self._own.close()


class SchedulerService(_Loop):
    """A scheduler that does one round when it is told to."""

    def __init__(self, database: Pool) -> None:
        super().__init__(database, "ordinaut-test-scheduler")

    def run_once(self) -> int:
        """Do all that is due now, and return how many runs that made.

        A task that is due gets exactly one unit of work per occurrence, however often this runs.
        """
        fired = 0
        backfills = Backfills()
        for _ in range(_TURNS):
            more, _earliest = planner.step(self._conn)
            more |= pipeline.vet(self._conn)
            self._ask_conditions()
            done = calls.tick(self._conn)
            fired += done.fired
            more |= backfills.step(self._conn)
            if not (more or done.fired or done.missed):
                break
        else:
            raise AssertionError(f"the scheduler is never done at {self._db.now}")
        calls.reap(self._conn)
        return fired

    def _ask_conditions(self) -> None:
        for poll in calls.unpolled_conditions(self._conn, 100):
            answer = calls.ask_condition(self._conn, poll.query)
            calls.report_condition(
                self._conn, poll.task_id, poll.revision, poll.polled_for,
                answer.is_true, answer.error, answer.is_defect,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """What a child said when it had run a unit."""

    outcome: str
    output: bytes | None
    error: bytes | None
    microseconds: int


class _Child(Runner):
    """A child without a process: it is handed units, and what it would send is heard here."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._reader = wire.Reader()
        self._said: SimpleQueue[wire.Result] = SimpleQueue()
        self.notes: list[dict[str, Any]] = []
        super().__init__(None, bytearray(wire.CELL.size), config)  # type: ignore[arg-type]

    def run(self, unit: wire.Unit) -> Said:
        self._todo.append(unit)
        self._work()
        # An async tool reports from the loop's thread.
        _lease, _work, outcome, output, error, microseconds = self._said.get()
        return Said(outcome, output, error, microseconds)

    def _write(self, frame: bytes) -> None:
        for message in self._reader.feed(frame):
            if message[0] == "done":
                for result in message[1]:
                    self._said.put(result)
            elif message[0] == "note":
                _, lease_id, work_id, event, data = message
                note = {"lease_id": lease_id.hex(), "work_id": work_id.hex(), "event": event}
                self.notes.append({**note, "data": json.loads(data)})

    def forked(self) -> None:
        pass

    def disconnect(self) -> None:
        """Close the tools' connections; the next one that they open is on the clock of then."""
        for database in self._databases.values():
            database.close()
        self._databases.clear()


class WorkRunner(_Loop):
    """A worker that runs units in this process, one after the other.

    Args:
        queues: where to look for work; None: wherever some is due.
        modules: of tools to be called as `python:module.function`; what is decorated with
            @ordinaut.tool and imported is known anyway.
        tools: what `[tools]` of ordinaut.toml would say, e.g. {"sql": {}}.
    """

    def __init__(
        self,
        database: Pool,
        *,
        queues: Sequence[str] | None = None,
        modules: Sequence[str] = (),
        tools: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(database, "ordinaut-test-worker")
        self._queues = queues
        known = [*modules, "ordinaut.testing.tools"]
        self._config = {"tools": {"python": {"modules": known}, **(tools or {})}}
        self._child: _Child | None = None
        self._time: datetime | None = None
        self._worker_id: UUID | None = None
        self.finished: list[dict[str, Any]] = []

    # The verbs

    def lease_work(self) -> dict[str, Any] | None:
        """Borrow one unit that is due; None: nothing is."""
        for queue in self._queues or [q for (q,) in self._conn.execute(_QUEUES).fetchall()]:
            for row in self._exchange(queue, lease_id=uuid4()):
                if row.kind == "work":
                    return {
                        **row._asdict(),
                        "id": row.work_id,
                        "payload": json.loads(row.payload or "null"),
                        "status": "running",
                        "queue": queue,
                        "unit": _unit(row),
                    }
        return None

    def execute_work(self, leased: dict[str, Any]) -> dict[str, Any]:
        """Run a leased unit, settle it, and say what became of it.

        Returns:
            `status` (completed, failed, cancelled, or pending when it will be tried again),
            `outcome`, `output`, `error`, and the unit's own fields.

        Raises:
            LeaseLost: somebody else has the unit; nothing was settled.
        """
        child = self._runner()
        said = child.run(leased["unit"])
        notes, child.notes = child.notes, []
        settle = None if said.outcome == "settled" else (leased, said)
        if settle or notes:
            self._exchange(leased["queue"], settle=settle, notes=notes)
        result = {
            **leased,
            "outcome": said.outcome,
            "output": json.loads(said.output or b"null"),
            "error": json.loads(said.error or b"null"),
        }
        result["status"] = self._status(result)
        self.finished.append(result)
        return result

    def run_once(self) -> dict[str, Any] | None:
        """Lease and execute one unit; None: nothing is due."""
        leased = self.lease_work()
        return None if leased is None else self.execute_work(leased)

    def lease_and_execute_work(self) -> int:
        """Work until nothing is due any more, and return how many units that were."""
        for count in range(_TURNS):
            if self.run_once() is None:
                return count
        raise AssertionError(f"after {_TURNS} units there is still work due at {self._db.now}")

    drain = lease_and_execute_work

    def execute_task(self, task: UUID | str, payload: calls.Json = None) -> calls.Run:
        """Run a task now, to its end, and return its run.

        Everything that is due meanwhile runs too.  Waits between attempts are not waited for:
        the clock of the database is set to where they end, and stays there.

        Raises:
            AssertionError: it waits for something that no time brings.
        """
        run_id = calls.run_now(self._conn, task, payload).run_id
        assert run_id is not None
        for _ in range(_TURNS):
            self.drain()
            run = calls.get_run(self._conn, run_id)
            if run.state in ENDED:
                return run
            at = self._db.next_event()
            if at is None:
                raise AssertionError(
                    f"run {run_id} is {run.state}"
                    + (f" ({run.reason})" if run.reason else "")
                    + ", and nothing is due at any time; ordinaut why tells more"
                )
            self._db.travel(at)
            calls.tick(self._conn)
            calls.reap(self._conn)
        raise AssertionError(f"run {run_id} never ends")

    def close(self) -> None:
        if self._worker_id is not None and not self._conn.closed:
            calls.deregister_worker(self._conn, self._worker_id)
        if self._child is not None:
            self._child.disconnect()
        super().close()

    # Within

    def _runner(self) -> _Child:
        """The child, whose connections are on the clock of the database."""
        if self._child is None:
            self._child = _Child({**self._config, "dsn": self._db.dsn})
        elif self._time != self._db.frozen_at:
            self._child.disconnect()
        self._time = self._db.frozen_at
        return self._child

    def _register(self) -> UUID:
        self._worker_id = uuid4()
        queues = self._queues or [q for (q,) in self._conn.execute(_QUEUES).fetchall()]
        calls.register_worker(
            self._conn, self._worker_id, queues or ["default"], self._runner().names,
            name="ordinaut-test", ttl=_A_DAY,
        )  # fmt: skip
        return self._worker_id

    def _exchange(
        self,
        queue: str,
        *,
        lease_id: UUID | None = None,
        settle: tuple[dict[str, Any], Said] | None = None,
        notes: list[dict[str, Any]] | None = None,
    ) -> list[Any]:
        done: list[Any] = [None] * 6
        if settle is not None:
            unit, said = settle
            texts = [None if t is None else t.decode() for t in (said.output, said.error)]
            done = [[unit["lease_id"]], [unit["work_id"]], [said.outcome]]
            done += [[texts[0]], [texts[1]], [said.microseconds]]
        for _ in range(2):
            worker_id = self._worker_id or self._register()
            arguments = [worker_id, queue, lease_id, 1 if lease_id else 0, *done]
            said_before = json.dumps(notes) if notes else None
            cur = self._conn.cursor(row_factory=namedtuple_row)
            try:
                rows: list[Any] = cur.execute(_EXCHANGE, [*arguments, said_before]).fetchall()
            except WorkerUnknown:  # the clock went further than a worker may be silent
                self._worker_id = None
                continue
            if settle is None or not any(row.kind == "lost" for row in rows):
                return rows
            break
        raise LeaseLost(
            f"unit {settle[0]['work_id'] if settle else None} is no longer ours: the clock outran"
            " the lease"
        )

    def _status(self, result: dict[str, Any]) -> str:
        found = self._conn.execute(_STATUS, [result["work_id"]]).fetchone()
        if found is not None:
            return str(found[0])
        return "completed" if result["outcome"] in ("success", "settled", "skipped") else "failed"


def _unit(row: Any) -> wire.Unit:
    """Return the unit as a worker's parent hands it to a child."""
    raw = [None if i is None else i.bytes for i in (row.lease_id, row.work_id, row.run_id)]
    return (
        *raw, row.task_id and row.task_id.bytes, row.tool.encode(),
        (row.payload or "null").encode(), row.attempt, row.failures, row.max_attempts, row.timeout,
        None if row.step is None else row.step.encode(), row.scheduled_for,
    )  # fmt: skip
