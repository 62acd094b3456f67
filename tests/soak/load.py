"""
What is asked of the engine during a soak: a little of everything, at a steady rate.

Sizes and choices are drawn from a seed.  Everything that is enqueued ends by itself within seconds,
so whatever is left after the last run has ended is a leak.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg

from ordinaut import calls

BEAT = 0.25  # seconds between two bursts
QUICK = {"base": "100 ms", "cap": "1 s"}
STEPS: list[dict[str, Any]] = [
    {"id": "list", "uses": "echo", "with": {"of": [1, 2, 3]}, "save_as": "list"},
    {"id": "each", "uses": "echo", "needs": ["list"], "map": {"over": "${steps.list.of}"},
     "with": {"n": "${item}"}},
    {"id": "heard", "uses": "wait_for_event", "needs": ["each"],
     "with": {"topic": "soak.beat", "timeout": "1 min"}},
    {"id": "flaky", "uses": "fail", "needs": ["heard"], "with": {"times": 1},
     "retry": {"max_attempts": 3, "base": "200 ms"}},
]  # fmt: skip


class Load:
    """A client in a thread of its own, from `start()` to `stop()`."""

    def __init__(self, dsn: str, rate: float, seed: int) -> None:
        self._dsn = dsn
        self._rate = rate
        self._random = random.Random(seed)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self._tasks: list[Any] = []
        self.error: BaseException | None = None
        self.enqueued = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Enqueue no more, let no task fire again.

        Raises:
            BaseException: whatever ended the load early.
        """
        self._ending.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True, application_name="soak-load") as conn:
                self._define(conn)
                began = time.monotonic()
                beat = 0
                while not self._ending.wait(max(0.0, began + beat * BEAT - time.monotonic())):
                    self._burst(conn, beat)
                    beat += 1
                for task_id in self._tasks:
                    calls.cancel_task(conn, str(task_id))
                calls.emit_event(conn, "soak.beat", {})
        except BaseException as exc:
            self.error = exc

    def _define(self, conn: Any) -> None:
        def task(name: str, kind: str, expr: str, **more: Any) -> None:
            more = {"tool": "echo", "payload": {"n": 1}, "retry": QUICK} | more
            self._tasks.append(
                calls.create_task(conn, f"soak-{name}", schedule_kind=kind, schedule_expr=expr,
                                  **more)
            )  # fmt: skip

        for n in range(20):
            task(f"interval-{n}", "interval", f"{1 + n % 5} s", overlap="skip")
        task("after-end", "interval", "2 s after end")
        task("fails", "interval", "3 s", tool="fail", payload={"times": 1})
        task(
            "condition", "condition", "every 2 s: select (extract(second from now())::int % 10) < 5"
        )
        task("event", "event", "soak.beat")
        task("steps", "interval", "5 s", tool=None, payload={}, pipeline=STEPS, retry=None)
        for n in range(5):
            task(f"cron-{n}", "cron", "* * * * *")

    def _burst(self, conn: Any, beat: int) -> None:
        n = int(self._rate * BEAT * (beat + 1)) - int(self._rate * BEAT * beat)
        made = calls.enqueue_many(conn, [self._item(beat, i) for i in range(n)])
        self.enqueued += n
        if beat % 4 == 0:
            calls.emit_event(conn, "soak.beat", {"beat": beat})
            calls.enqueue(conn, None, {}, pipeline=STEPS)
            self.enqueued += 1
        if beat % 20 == 10 and made:
            calls.cancel_run(conn, made[-1].run_id)

    def _item(self, beat: int, i: int) -> dict[str, Any]:
        kind = self._random.random()
        size = int(1000 * 20 ** self._random.random())
        item: dict[str, Any] = {"tool": "python:tests.soak.tools.make", "payload": {"size": size}}
        if kind < 0.6:
            return item
        if kind < 0.75:
            return item | {"key": f"tenant-{self._random.randrange(50)}", "key_limit": 2}
        if kind < 0.85:
            return item | {"idempotency_key": f"once-{beat}-{i}", "idempotent_for": "1 min"}
        if kind < 0.9:
            return item | {"delay": f"{self._random.random() * 5:.3f} s", "priority": 3}
        if kind < 0.95:
            return {"tool": "fail", "payload": {"times": 1}, "retry": QUICK}
        if kind < 0.99:
            return {"tool": "echo", "payload": {"text": self._random.randbytes(size).hex()}}
        if kind < 0.9995:
            return {"tool": "fail", "payload": {"retryable": False, "times": 9}}
        work = {"tool": "python:tests.soak.tools.work", "payload": {"seconds": 5}}
        return work | {"timeout": "1 s", "max_attempts": 2, "retry": QUICK}
