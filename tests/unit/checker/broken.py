"""
One violation at a time: each function here breaks a correct history (world.py) in one way.

VIOLATIONS lists them by the invariant that must find it, and no other may.  The modules beside this
one are those of tests/chaos/invariants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tests.chaos.history import History, Row, instant

Break = Callable[["Broken"], None]
VIOLATIONS: list[tuple[str, Break]] = []


def violates(id: str) -> Callable[[Break], Break]:
    def register(function: Break) -> Break:
        VIOLATIONS.append((id, function))
        return function

    return register


def moved(at: str, seconds: float) -> str:
    was = instant(at)
    assert was is not None
    return (was + timedelta(seconds=seconds)).isoformat()


@dataclass
class Broken:
    """A history that is about to be broken, and ways to find something in it."""

    h: History

    def rows(self, table: str, **fields: Any) -> list[Row]:
        found = [r for r in self.h.tables[table] if all(r.get(k) == v for k, v in fields.items())]
        assert found, f"no {fields} in {table}"
        return found

    def row(self, table: str, **fields: Any) -> Row:
        return self.rows(table, **fields)[0]

    def task(self, name: str) -> Row:
        return self.row("task", name=name)

    def plan(self, name: str) -> Row:
        return self.row("task_schedule", task_id=self.task(name)["task_id"])

    def occurrences(self, name: str, decision: str = "fired") -> list[Row]:
        found = self.rows("occurrence", task_id=self.task(name)["task_id"], decision=decision)
        return sorted(found, key=lambda r: r["scheduled_for"])

    def run(self, id: str) -> Row:
        return self.row("task_run", run_id=id)

    def plain(self) -> Row:
        """The run of a client's own enqueue that simply succeeded, without a key."""
        call = next(c for c in self.calls("enqueue") if c["args"].get("idempotency_key"))
        return self.run(call["result"]["run_id"])

    def retried(self) -> Row:
        """A run that succeeded at its second attempt."""
        return next(r for r in self.rows("task_run", tool="fail", state="success", attempt=2)
                    if r["retry"] == {"base": "2 s", "jitter": 0})  # fmt: skip

    def zombie(self) -> Row:
        return self.row("task_run", crashes=1)

    def flow(self, state: str = "success") -> Row:
        return self.row("task_run", tool="pipeline", state=state)

    def step(self, name: str, state: str = "success") -> Row:
        return self.row("step", run_id=self.flow(state)["run_id"], name=name)

    def definition(self, step: Row) -> Row:
        run = self.run(step["run_id"])
        return self.row(
            "pipeline_step", pipeline_id=run["pipeline_id"], position=step["defined_by"]
        )

    def line(self, event: str, run: Row, **fields: Any) -> Row:
        return self.row("run_log", event=event, run_id=run["run_id"], **fields)

    def calls(self, name: str) -> list[Row]:
        return [r for r in self.h.client if r["call"] == name and r["t1"] is not None]

    def seen(self, work: Row, e: str, attempt: int = 1) -> Row:
        id = work.get("step_id") or work["run_id"]
        return next(r for r in self.h.witness
                    if r["work"] == id and r["e"] == e and r["attempt"] == attempt)  # fmt: skip

    def drop(self, table: str, row: Row) -> None:
        self.h.tables[table].remove(row)

    def add(self, table: str, row: Row, **changes: Any) -> Row:
        made = {**copy.deepcopy(row), **changes}
        self.h.tables[table].append(made)
        return made

    def lease(self, run: Row, **fields: Any) -> Row:
        """Put a run back into a lease, as a unit that has not been settled."""
        item = {**run, "work_id": run["run_id"], "step": None, "run_at": run["enqueued_at"]}
        for name in ("state", "worker_id", "lease_id", "started_at", "finished_at", "output",
                     "error"):  # fmt: skip
            item.pop(name)
        worker = self.row("worker")["worker_id"]
        lease = {"lease_id": run["lease_id"], "worker_id": worker, "holder": None, "size": 1,
                 "queue": run["queue"], "leased_at": run["started_at"], "expires_at": None,
                 "settled": [], "work": [item], **fields}  # fmt: skip
        self.h.tables["lease"].append(lease)
        return lease
