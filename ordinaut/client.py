"""
The Python API: ask for work, and for its result.

Synchronous on purpose, and a thin one: every method is one call of `ordinaut.calls`.  Each takes
`connection=`, for work that must exist exactly if the caller's own rows do: on a rollback the
enqueue never happened, and no worker sees it before the commit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import psycopg

from ordinaut import calls, db, planner, simulation, whatif
from ordinaut.calls import Approval, Backfill, Emitted, Enqueued, Json, Problem, Run
from ordinaut.errors import RunCancelled, RunFailed, RunTimedOut, WaitTimeout
from ordinaut.pipeline import check, check_items, given
from ordinaut.recurrence import Calendar
from ordinaut.simulation import Fate, Outage

Interval = str | timedelta

_ENDED = {
    "failed": RunFailed,
    "abandoned": RunFailed,
    "cancelled": RunCancelled,
    "timed_out": RunTimedOut,
}


class Ordinaut:
    """A connection to an Ordinaut database.

        with Ordinaut("postgresql://localhost/app") as ordinaut:
            run = ordinaut.enqueue("python:reports.build", {"month": "2026-10"})
            print(ordinaut.wait(run.run_id, timeout=60))

    It connects at the first call, and again after the connection was lost: the call that met
    the loss raises, the next one connects.  Not for several threads at once; give each its own.
    """

    def __init__(self, dsn: str, *, name: str = "ordinaut-client", pooled: bool = False) -> None:
        """Remember where the database is.

        Args:
            name: application_name, which the journal keeps as the actor.
            pooled: a pooler in transaction mode stands between.
        """
        self._dsn, self._name, self._pooled = dsn, name, pooled
        self._conn: db.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection.  Idempotent."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _on(self, connection: db.Connection | None) -> db.Connection:
        if connection is not None:
            return connection
        if self._conn is None or self._conn.closed:
            self._conn = db.connect(self._dsn, name=self._name, pooled=self._pooled)
        return self._conn

    def enqueue(
        self,
        tool: str | None = None,
        payload: Json = None,
        *,
        pipeline: list[Any] | None = None,
        params: dict[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: Interval | None = None,
        key: str | None = None,
        key_limit: int | None = None,
        if_busy: str | None = None,
        idempotency_key: str | None = None,
        idempotent_for: Interval | None = None,
        max_attempts: int | None = None,
        retry: Json = None,
        timeout: Interval | None = None,
        run_id: UUID | None = None,
        connection: db.Connection | None = None,
    ) -> Enqueued:
        """Ask for one run; see `ordinaut.calls.enqueue` for the arguments.

        Args:
            pipeline: in place of a tool, the steps of the run, and params what they may read.
            connection: enqueue in this connection's transaction.

        Raises:
            InvalidPipeline: templates, conditions or schemas are none, with the step and the field.
        """
        check(given(tool, payload, pipeline))
        return calls.enqueue(
            self._on(connection), tool, payload if params is None else params, pipeline=pipeline,
            queue=queue, priority=priority, run_at=run_at, delay=delay, key=key,
            key_limit=key_limit, if_busy=if_busy, idempotency_key=idempotency_key,
            idempotent_for=idempotent_for,
            max_attempts=max_attempts, retry=retry, timeout=timeout, run_id=run_id,
        )  # fmt: skip

    def enqueue_many(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        tool: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        connection: db.Connection | None = None,
    ) -> list[Enqueued]:
        """Ask for many runs at once, all or none; see `ordinaut.calls.enqueue_many`.

        Args:
            items: each a mapping of `enqueue`'s arguments, as in {"payload": {"n": 1}}.
            connection: enqueue in this connection's transaction.

        Raises:
            InvalidPipeline: as of `enqueue`.
        """
        check_items(items)
        return calls.enqueue_many(
            self._on(connection), items, tool=tool, queue=queue, priority=priority,
            max_attempts=max_attempts,
        )  # fmt: skip

    def create_task(
        self,
        name: str,
        tool: str | None = None,
        payload: Json = None,
        *,
        pipeline: list[Any] | None = None,
        params: dict[str, Any] | None = None,
        connection: db.Connection | None = None,
        **arguments: Any,
    ) -> UUID:
        """Create a task and return its id; `arguments` are those of `calls.create_task`.

        Args:
            pipeline: in place of a tool, the steps of its runs, and params what they may read.

        Raises:
            Conflict: the namespace has a task of this name.
            InvalidSchedule: a cron expression or rule that is none, with the field and the reason.
            InvalidPipeline: as of `enqueue`.
        """
        planner.check(arguments)
        check(given(tool, payload, pipeline))
        return calls.create_task(
            self._on(connection), name, tool, payload if params is None else params,
            pipeline=pipeline, **arguments,
        )  # fmt: skip

    def set_calendar(
        self,
        name: str,
        data: dict[str, Any],
        *,
        namespace: str | None = None,
        timezone: str | None = None,
        note: str | None = None,
        connection: db.Connection | None = None,
    ) -> str:
        """Make or replace a calendar that tasks exclude; see `ordinaut.calls.set_calendar`.

        Raises:
            InvalidSchedule: the data is no calendar, with the part and the reason.
        """
        Calendar.read({**data, "name": name}, timezone or "UTC")
        return calls.set_calendar(
            self._on(connection), name, data, namespace=namespace, timezone=timezone, note=note
        )

    def run_now(
        self,
        task: str | UUID,
        payload: Json = None,
        *,
        idempotency_key: str | None = None,
        connection: db.Connection | None = None,
    ) -> Enqueued:
        """Run a task once, beside its schedule.

        Raises:
            NotFound, WrongState: no such task, or it is not active.
        """
        return calls.run_now(self._on(connection), task, payload, idempotency_key)

    def emit_event(
        self,
        topic: str,
        payload: Json = None,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        connection: db.Connection | None = None,
    ) -> Emitted:
        """Say that something happened; see `ordinaut.calls.emit_event`.

        Args:
            connection: emit in this connection's transaction: on a rollback it never happened.
        """
        return calls.emit_event(
            self._on(connection), topic, payload, key=key, idempotency_key=idempotency_key
        )

    def approvals(
        self,
        state: str | None = "open",
        *,
        run_id: UUID | str | None = None,
        connection: db.Connection | None = None,
    ) -> list[Approval]:
        """Return what people are asked, oldest first; see `ordinaut.calls.list_approvals`."""
        return calls.list_approvals(self._on(connection), state, run_id=run_id)

    def respond(
        self,
        id: UUID | str,
        response: Json,
        note: str | None = None,
        *,
        connection: db.Connection | None = None,
    ) -> UUID:
        """Answer what a step asks (`id`: of the approval, or of the step); the step goes on.

        The first answer stands.

        Raises:
            NotFound: there is no such approval.
            WrongState: it was decided before, has expired, or nothing waits for it any more.
            psycopg.errors.InsufficientPrivilege: others are asked.
            psycopg.errors.InvalidParameterValue: the response breaks its schema; it stays open.
        """
        return calls.respond(self._on(connection), id, response, note)

    def cancel_approval(
        self,
        id: UUID | str,
        note: str | None = None,
        *,
        connection: db.Connection | None = None,
    ) -> UUID:
        """Withdraw what a step asks: the step fails.  Raises as `respond`."""
        return calls.cancel_approval(self._on(connection), id, note)

    def backfill(
        self,
        task: str | UUID,
        start: datetime | str,
        end: datetime | str,
        *,
        limit: int | None = None,
        rate: int | None = None,
        note: str | None = None,
        connection: db.Connection | None = None,
    ) -> UUID:
        """Run a task for what its calendar held from `start` to before `end`, and has no run.

        See `ordinaut.calls.backfill`; `list_backfills` tells what became of it.

        Raises:
            NotFound, WrongState: no such task, or it is cancelled or invalid.
        """
        return calls.backfill(
            self._on(connection), task, start, end, limit=limit, rate=rate, note=note
        )

    def list_backfills(
        self, task: str | UUID | None = None, *, connection: db.Connection | None = None
    ) -> list[Backfill]:
        """Return the backfills of a task, or of all, the latest first."""
        return calls.list_backfills(self._on(connection), task)

    def diagnose(
        self,
        patience: Interval | None = None,
        *,
        all: bool = False,
        connection: db.Connection | None = None,
    ) -> list[Problem]:
        """Return what is wrong in the database, and who did it; see `ordinaut.calls.diagnose`."""
        return calls.diagnose(self._on(connection), patience, all=all)

    def simulate(
        self,
        task: str | UUID,
        begin: datetime,
        end: datetime,
        *,
        duration: timedelta = timedelta(),
        outages: Sequence[Outage] = (),
        connection: db.Connection | None = None,
    ) -> list[Fate]:
        """Return what would become of a task's occurrences; nothing is changed.

        Args:
            begin, end: from `begin` on and before `end`.
            duration: how long each run is taken to last.
            outages: pairs of instants between which no scheduler runs.

        Raises:
            NotFound: there is no such task.
            InvalidSchedule: nobody knows when it occurs.
            ValueError: it is too long a time, or none.
        """
        conn = self._on(connection)
        found = whatif.of_task(conn, calls.get_task(conn, task), begin)
        return simulation.simulate(found, begin, end, duration=duration, outages=outages)

    def get_run(self, run_id: UUID | str, *, connection: db.Connection | None = None) -> Run:
        """Return a run as it stands.

        Raises:
            NotFound: there is none.
        """
        return calls.get_run(self._on(connection), run_id)

    def status(self, run_id: UUID | str) -> str:
        """Return the state of a run, or `unavailable` when the database cannot be reached.

        Raises:
            NotFound: there is none.
        """
        try:
            return self.get_run(run_id).state
        except psycopg.Error as exc:
            if not db.is_gone(exc):
                raise
            return "unavailable"

    def recover(
        self,
        run_id: UUID | str,
        note: str | None = None,
        *,
        connection: db.Connection | None = None,
    ) -> UUID:
        """Run again what failed, as a new run; return it.  Called twice, it is the same one.

        Raises:
            NotFound, WrongState: there is no such run, or it is not in failed state.
        """
        return calls.recover_run(self._on(connection), run_id, note)

    def wait(self, run_id: UUID | str, timeout: float | None = None) -> Any:
        """Return the output of a run once it has ended with success.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            RunFailed, RunCancelled, RunTimedOut: it ended otherwise; `.error` has the reason.
            WaitTimeout: it has not ended yet, and goes on.
            NotFound: there is no such run; nor is there before the enqueue is committed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.02
        while True:
            run = self.get_run(run_id)
            if run.state == "success":
                return run.output
            if run.state in _ENDED:
                raise _ENDED[run.state](run.run_id, run.state, run.error)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"run {run_id} is {run.state} after {timeout} s")
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, 0.25)
