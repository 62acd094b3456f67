"""
A small recorded history, made by the real engine on a clock that is turned by hand.

One of everything that the checker looks at: schedules over the night on which the clocks change,
retries, a zombie behind its lease, keys, cancels in three answers, a timeout, a retry by hand, runs
of steps with a join, a gate, a condition, a map and a rollback.  The witness and the client log are
written as the drivers write them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from ordinaut import calls
from ordinaut.testing import Database, SchedulerService, WorkRunner
from tests.chaos.history import Recorder, dump

AT = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)  # the clocks of Berlin change at 1:00
TIMEOUT = {"message": "timed out after 5 s", "category": "timeout", "code": "E6001"}
STEPS: list[dict[str, Any]] = [
    {"id": "fetch", "uses": "echo", "with": {"n": 1}},
    {"id": "left", "uses": "echo", "needs": ["fetch"]},
    {"id": "right", "uses": "fail", "with": {"times": 1}, "needs": ["fetch"], "retry_count": 3},
    {"id": "each", "uses": "echo", "needs": ["fetch"], "map": {"over": [1, 2]}},
    {"id": "never", "uses": "echo", "needs": ["fetch"], "if": "params.wanted"},
    {"id": "gate", "uses": "approval", "with": {"prompt": "go?"}, "needs": ["left", "right"]},
    {"id": "join", "uses": "echo", "needs": ["gate", "each", "never"]},
]
DOOMED: list[dict[str, Any]] = [
    {"id": "make", "uses": "echo", "on_rollback": {"uses": "echo"}},
    {"id": "spoil", "uses": "fail", "with": {"times": 9}, "needs": ["make"], "retry_count": 1},
    {"id": "after", "uses": "echo", "needs": ["spoil"]},
]


class World:
    """The recorder of one history."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.directory = directory
        self.db = Database(dsn)
        self.at = AT
        self.n = 0
        self.ticks = 0
        self._witness = Recorder(directory / "witness.jsonl", durable=False)
        self._client = Recorder(directory / "client.jsonl", durable=False)
        self._samples = Recorder(directory / "samples.jsonl", durable=False)
        self._faults = Recorder(directory / "faults.jsonl", durable=False)
        self.db.travel(self.at)
        self.scheduler = SchedulerService(self.db)
        self.worker = WorkRunner(self.db)

    def close(self) -> None:
        self.worker.close()
        self.scheduler.close()
        self.db.close()
        for file in (self._witness, self._client, self._samples, self._faults):
            file.close()

    def later(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.db.travel(self.at)

    # What the drivers do

    def call(self, name: str, args: dict[str, Any], function: Callable[[], Any]) -> Any:
        """Make an API call, with a line before and after it."""
        self.n += 1
        self.later(0.01)
        line = {"n": self.n, "call": name, "args": args, "t0": self.at.timestamp()}
        self._client.write({**line, "t1": None})
        result = function()
        told = asdict(result) if is_dataclass(result) else result
        self.later(0.01)
        self._client.write({**line, "t1": self.at.timestamp(), "answer": "ok", "result": told,
                            "error": None})  # fmt: skip
        return result

    def enqueue(self, tool: str | None = "echo", payload: Any = None, **args: Any) -> UUID:
        told = {"tool": tool, "payload": payload, **args}
        made = self.call("enqueue", told, lambda: calls.enqueue(
            self.db.conn, tool, payload or {}, **args))  # fmt: skip
        return UUID(str(made.run_id))

    def witness(self, e: str, unit: Any, token: Any, **end: Any) -> None:
        self.ticks += 1
        self._witness.write({
            "e": e, "run": unit["run_id"], "work": unit["work_id"], "step": unit["step"],
            "task": unit["task_id"], "attempt": unit["attempt"], "token": token, "key": None,
            "scheduled_for": None, "rt": self.at.timestamp(),
            "mt": self.at.timestamp() + self.ticks / 1e6, "boot": "here", "pid": 7, **end,
        })  # fmt: skip

    def work(self) -> int:
        """Do all that is due, one after the other."""
        n = 0
        while (leased := self.worker.lease_work()) is not None:
            self.witness("start", leased, leased["lease_id"])
            self.later(0.2)
            done = self.worker.execute_work(leased)
            self.witness("end", leased, leased["lease_id"], outcome=done["outcome"],
                         result=done["output"])  # fmt: skip
            n += 1
        return n

    def lease(self, seconds: float = 60) -> dict[str, Any]:
        """Borrow one unit by hand, and begin it."""
        (unit,) = calls.lease_work(self.db.conn, "by hand", lasting=timedelta(seconds=seconds))
        row = asdict(unit) if is_dataclass(unit) else dict(unit)
        self.witness("start", row, row["lease_id"])
        self.later(0.1)
        return row

    def settle(self, unit: dict[str, Any], outcome: str, error: Any = None) -> None:
        self.witness("end", unit, unit["lease_id"], outcome=outcome, result=None)
        self.db.rows(
            "select * from ordinaut._settle_alone(%s, %s, %s, null, %s)",
            unit["lease_id"], unit["work_id"], outcome, json.dumps(error or {}),
        )  # fmt: skip

    def task(self, name: str, kind: str, expr: str | None, **args: Any) -> UUID:
        told = {"name": name, "schedule_kind": kind, "schedule_expr": expr}
        made = self.call("create_task", told, lambda: calls.create_task(
            self.db.conn, name, "echo", {}, schedule_kind=kind, schedule_expr=expr, **args,
        ))  # fmt: skip
        return UUID(str(made))

    def sample(self, due: int, late: float) -> None:
        self._samples.write({"t": self.at.timestamp(), "connections": 5, "rss": {"worker": 50e6},
                             "fds": {"worker": 20}, "log_bytes": int(self.at.timestamp()) % 10**6,
                             "tables": {"task_run": 8192}, "due": due, "late": late})  # fmt: skip

    # What happens

    def schedules(self) -> None:
        self.task("berlin", "cron", "*/20 0-3 * * *", timezone="Europe/Berlin", catchup="all")
        self.task("quarters", "interval", "15 min", timezone="UTC", catchup="all")
        self.task("once", "once", "2026-10-25T02:30", timezone="Europe/Berlin")
        self.task("alone", "interval", "20 min", timezone="UTC", overlap="skip", catchup="all")
        self.task("paused", "cron", "*/10 * * * *", timezone="UTC", catchup="all")
        self.task("snoozed", "interval", "10 min", timezone="UTC", catchup="all")
        self.task("few", "interval", "25 min", timezone="UTC", max_runs=3, catchup="all")
        self.task("manual", "manual", None)
        for n in range(16):
            self.scheduler.run_once()
            if n != 6:  # one is live when it is due again
                self.work()
            if n == 4:
                calls.pause_task(self.db.conn, "default/paused")
                calls.snooze_task(self.db.conn, "default/snoozed", timedelta(minutes=35))
            elif n == 9:
                calls.resume_task(self.db.conn, "default/paused")
            self.later(900 - 100 * (n % 2))
        self.scheduler.run_once()
        self.work()
        self.call("run_now", {"task": "default/manual"},
                  lambda: calls.run_now(self.db.conn, "default/manual"))  # fmt: skip
        self.work()

    def units(self) -> None:
        self.enqueue(payload={"n": 1}, idempotency_key="k1")
        self.enqueue(payload={"n": 1}, idempotency_key="k1")
        self.enqueue("fail", {"times": 1}, retry={"base": "2 s", "jitter": 0})
        failed = self.enqueue("fail", {"times": 9}, max_attempts=2, retry={"base": "1 s"})
        self.work()
        self.later(3)
        self.work()
        self.later(3)
        self.work()
        self.call("retry_run", {"run_id": failed},
                  lambda: [asdict(r) for r in calls.retry_run(self.db.conn, failed)])  # fmt: skip
        self.work()
        self.later(3)
        self.work()
        # A zombie: it ends when its lease is long gone.
        self.enqueue(payload={"zombie": True})
        zombie = self.lease(5)
        self.later(6)
        calls.reap(self.db.conn)
        again = self.lease()
        self.witness("end", zombie, zombie["lease_id"], outcome="success", result=None)
        self.settle(again, "success")
        # A client that completes by itself.
        self.enqueue(payload={"mine": True})
        mine = self.lease()
        args = {"lease_id": mine["lease_id"], "work_id": mine["work_id"], "output": {"ok": 1}}
        self.call("complete_work", args, lambda: [asdict(r) for r in calls.complete_work(
            self.db.conn, mine["lease_id"], mine["work_id"], {"ok": 1})])  # fmt: skip
        self.witness("end", mine, mine["lease_id"], outcome="success", result={"ok": 1})
        self.enqueue(timeout=timedelta(seconds=5), max_attempts=1)
        slow = self.lease()
        self.later(5.2)
        self.settle(slow, "timed_out", TIMEOUT)

    def keys_and_cancels(self) -> None:
        for n in range(3):
            self.enqueue(payload={"n": n}, key="line:1")
        one = self.lease()
        self.work()
        self.settle(one, "success")
        self.work()
        cancelled = self.enqueue(delay="1 h")
        self.cancel(cancelled)
        done = self.enqueue()
        self.work()
        self.cancel(done)
        asked = self.enqueue()
        held = self.lease()
        self.cancel(asked)
        self.settle(held, "released")

    def cancel(self, run: UUID) -> None:
        self.call("cancel_run", {"run_id": run}, lambda: calls.cancel_run(self.db.conn, run))

    def flows(self) -> None:
        self.enqueue(None, {"wanted": False}, pipeline=STEPS)
        self.enqueue(None, {}, pipeline=DOOMED)
        self.scheduler.run_once()
        for _ in range(4):
            self.work()
            self.later(3)
        (gate,) = calls.list_approvals(self.db.conn)
        args = {"approval_id": gate.approval_id, "response": True}
        self.call("respond", args, lambda: calls.respond(self.db.conn, gate.approval_id, True))
        self.work()

    def record(self) -> Path:
        self.sample(0, 0)
        self.schedules()
        self._faults.write({"fault": "kill", "target": "worker", "t0": self.at.timestamp(),
                            "t1": self.at.timestamp() + 1})  # fmt: skip
        self.sample(40, 9)
        self.later(5)
        self.units()
        self.keys_and_cancels()
        self.flows()
        self.later(5)
        calls.reap(self.db.conn)
        self.scheduler.run_once()
        self.work()
        for _ in range(6):
            self.sample(0, 0)
            self.later(1)
        dump(self.db.conn, self.directory)
        config = {
            "now": self.at.isoformat(), "seed": 1, "keys": {"line:": 1}, "fifo_keys": ["line:"],
            "canary": "canary-7f3a", "logs": ["server.log"],
            "declared": {"self_fencing": False, "async_failover": False},
            "bounds": {"recovery_s": 120, "kill_grace_s": 2, "connections": 50, "rss_bytes": 1e9,
                       "fds": 100, "rss_growth": 2, "log_bytes_per_s": 1e6},
        }  # fmt: skip
        (self.directory / "config.json").write_text(json.dumps(config))
        (self.directory / "server.log").write_text("started\n")
        before = self.directory / "before"
        before.mkdir()
        lines = (self.directory / "dump" / "run_log.jsonl").read_text().splitlines(True)
        (before / "run_log.jsonl").write_text("".join(lines[:5]))
        return self.directory
