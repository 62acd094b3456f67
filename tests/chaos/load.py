"""
The load: clients that call the API as applications do, and log every call with its answer.

A call whose answer was lost is sent again with the same id, as the documentation tells people to.
Nothing here knows of faults: an error is an answer, a lost connection is "unknown".
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.chaos import tools
from tests.chaos.lab import Lab

TOOL = f"python:{tools.__name__}.work"
BY_HAND = "byhand"
KEYS = {"one-": 1, "two-": 2, "line-": 1}
FIFO = ["line-"]  # whose runs neither wait nor fail

INTERVALS = [
    ("every-second", "1 s", "allow"),
    ("skips", "1 s", "skip"),
    ("one-waits", "2 s", "buffer_one"),
    ("all-wait", "3 s", "buffer_all"),
    ("latest-wins", "2 s", "cancel_other"),
]


class Caller:
    """One client: a connection through the proxy, made anew whenever it is lost."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._conn: psycopg.Connection[Any] | None = None

    def call(self, name: str, /, **args: Any) -> tuple[str, Any]:
        """Call ordinaut.NAME(p_KEY => VALUE, …); return the answer and the result."""
        line: dict[str, Any] = {"n": next(self._lab.calls), "call": name, "args": args}
        line |= {"t0": time.time(), "t1": None, "answer": "unknown", "result": None, "error": None}
        self._lab.client.write(line)
        try:
            rows = self._ask(name, args)
            line["answer"] = "ok"
            line["result"] = rows[0] if len(rows) == 1 else rows
            if len(rows) == 1 and list(rows[0]) == [name]:
                line["result"] = rows[0][name]
        except psycopg.Error as exc:
            line["error"] = {"sqlstate": exc.sqlstate, "message": str(exc).splitlines()[0]}
            # The connection is gone, or the server is going: nobody knows what was committed.
            is_lost = exc.sqlstate is None or exc.sqlstate[:2] in ("08", "57")
            line["answer"] = "unknown" if is_lost else "fail"
            self.close()
        line["t1"] = time.time()
        self._lab.client.write(line)
        return line["answer"], line["result"]

    def sure(self, name: str, over: threading.Event, /, **args: Any) -> tuple[str, Any]:
        """Call until there is an answer; only for calls that may be repeated."""
        while True:
            answer, result = self.call(name, **args)
            if answer != "unknown" or over.wait(0.2):
                return answer, result

    def rows(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """Look something up; none if the database is away."""
        try:
            return self._connected().execute(query.encode(), args or None).fetchall()
        except psycopg.Error:
            self.close()
            return []

    def close(self) -> None:
        if self._conn is not None:
            with contextlib.suppress(psycopg.Error):
                self._conn.close()
            self._conn = None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._conn is None:
            self._conn = psycopg.connect(
                self._lab.dsn,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=5,
                options="-c statement_timeout=10s -c lock_timeout=5s",
                tcp_user_timeout=10_000,
            )
        return self._conn

    def _ask(self, name: str, args: dict[str, Any]) -> list[dict[str, Any]]:
        given = {k: Jsonb(v) if isinstance(v, dict | list) else v for k, v in args.items()}
        words = ", ".join(f"p_{key} => %({key})s" for key in args)
        query = f"select * from ordinaut.{name}({words})"
        return self._connected().execute(query.encode(), given).fetchall()


class Load:
    """Threads that enqueue, cancel, retry, answer and lease by hand, until `stop`."""

    def __init__(self, lab: Lab, seed: int, rate: float) -> None:
        self._lab = lab
        self._seed = seed
        self._pause = 1 / rate
        self._over = threading.Event()  # no more work
        self._done = threading.Event()  # no more answers either
        self._threads: list[threading.Thread] = []
        self.recent: list[UUID] = []
        self.errors: list[BaseException] = []

    def start(self, clients: int = 2) -> None:
        self._define()
        for n in range(clients):
            self._thread(self._enqueue, random.Random(f"{self._seed} client {n}"))
        self._thread(self._operate, random.Random(f"{self._seed} operator"))
        self._thread(self._by_hand, random.Random(f"{self._seed} by hand"))

    def stop(self) -> None:
        """Ask for nothing new; what waits for an answer still gets one until `close`."""
        self._over.set()

    def close(self) -> None:
        self._over.set()
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def pause_tasks(self) -> None:
        """Stop the schedules, so that an end can be told."""
        caller = Caller(self._lab)
        given_up = threading.Event()
        timer = threading.Timer(60, given_up.set)
        timer.start()
        for name, *_ in [*INTERVALS, ("ticks",)]:
            caller.sure("pause_task", given_up, task=f"default/{name}", note="the end")
        timer.cancel()
        caller.close()

    def _thread(self, target: Any, dice: random.Random) -> None:
        def run() -> None:
            try:
                target(dice)
            except BaseException as exc:
                self.errors.append(exc)
                raise

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _define(self) -> None:
        caller = Caller(self._lab)
        for name, every, overlap in INTERVALS:
            # buffer_all runs each of them, one by one: what waits must not take minutes.
            seconds = {"allow": 0.05, "buffer_all": 0.3}.get(overlap, 1.5)
            payload = {"seconds": seconds}
            caller.call(
                "create_task", name=name, tool=TOOL, payload=payload, schedule_kind="interval",
                schedule_expr=every, overlap=overlap, catchup="all",
            )  # fmt: skip
        caller.call(
            "create_task", name="ticks", tool=TOOL, payload={}, schedule_kind="cron",
            schedule_expr="*/2 * * * * *", timezone="Europe/Berlin", catchup="all",
        )  # fmt: skip
        caller.close()

    def _enqueue(self, dice: random.Random) -> None:
        caller = Caller(self._lab)
        while not self._over.wait(dice.expovariate(1 / self._pause)):
            args = self._draw(dice)
            # The id is ours, so that a call without an answer may be sent again.
            args["run_id"] = _uuid7(dice)
            answer, _ = caller.sure("enqueue", self._done, **args)
            if answer == "ok":
                self.recent.append(args["run_id"])
                del self.recent[:-200]
        caller.close()

    def _draw(self, dice: random.Random) -> dict[str, Any]:
        kind = dice.random()
        payload: dict[str, Any] = {"seconds": dice.choice((0, 0, 0.02, 0.3))}
        args: dict[str, Any] = {"tool": TOOL, "payload": payload}
        if kind < 0.25:
            prefix, limit = dice.choice(list(KEYS.items()))
            args |= {"key": f"{prefix}{dice.randint(1, 3)}", "key_limit": limit}
            payload["key"] = args["key"]
            if prefix in FIFO:
                return args
        elif kind < 0.35:
            payload["fails"] = dice.randint(1, 4)  # of three: some end failed
        elif kind < 0.38:
            payload["dies"] = dice.choice((1, 1, 9))
        elif kind < 0.40:
            payload |= {"hopeless": True, "secret": {"$secret": "canary"}}
        elif kind < 0.405:
            payload["no_such_argument"] = 1
        elif kind < 0.41:
            payload["output"] = dice.choice(("nul", "big"))
        elif kind < 0.45:
            args["tool"] = f"python:{tools.__name__}.nobody_has_this"
            args["max_attempts"] = 1
        elif kind < 0.46:
            payload["seconds"] = 30
            args |= {"timeout": "1 s", "max_attempts": 2}
        elif kind < 0.475:
            payload["seconds"] = 8  # longer than a lease lasts without a heartbeat
        elif kind < 0.60:
            args["queue"] = BY_HAND
        elif kind < 0.80:
            args = {"pipeline": _pipeline(dice), "payload": {"n": dice.randint(0, 9)}}
        if "tool" in args and dice.random() < 0.1:
            args["delay"] = "2 s"
        return args

    def _operate(self, dice: random.Random) -> None:
        """Cancel, retry, answer approvals, send events."""
        caller = Caller(self._lab)
        while not self._done.wait(0.25):
            for row in caller.rows("select a.approval_id from ordinaut.list_approvals() as a"):
                if dice.random() < 0.7:
                    caller.call("respond", id=row["approval_id"], response={"approved": True})
                else:
                    caller.call("cancel_approval", id=row["approval_id"], note="no")
            caller.call("emit_event", topic="chaos", payload={"at": time.time()})
            if self._over.is_set() or not self.recent:
                continue
            if dice.random() < 0.3:
                caller.call("cancel_run", run_id=dice.choice(self.recent), note="chaos")
            if dice.random() < 0.2:
                failed = caller.rows(
                    "select run_id from ordinaut.list_runs(p_state => 'failed', p_limit => 5)"
                )
                if failed:
                    caller.call("retry_run", run_id=dice.choice(failed)["run_id"])
        caller.close()

    def _by_hand(self, dice: random.Random) -> None:
        """Lease and complete as psql would, with a lease that runs out."""
        caller = Caller(self._lab)
        while not self._done.wait(0.3):
            answer, found = caller.call(
                "lease_work", worker="psql", queue=BY_HAND, limit=3, **{"for": "5 s"}
            )
            units = found if isinstance(found, list) else [found]
            for unit in units if answer == "ok" else []:
                _witness(self._lab, unit, "start")
                result = {"n": unit["attempt"], "token": str(unit["lease_id"])}
                _witness(self._lab, unit, "end", outcome="success", result=result)
                caller.sure("complete_work", self._done, lease_id=unit["lease_id"],
                            work_id=unit["work_id"], output=result)  # fmt: skip
        caller.close()


def _pipeline(dice: random.Random) -> list[dict[str, Any]]:
    def step(name: str, *needs: str, **more: Any) -> dict[str, Any]:
        body = {"seconds": dice.choice((0, 0, 0.1)), "fails": dice.choice((0, 0, 0, 1))}
        return {"id": name, "uses": TOOL, "with": body, "needs": list(needs), **more}

    shape = dice.random()
    if shape < 0.4:
        return [step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c", save_as="end")]
    if shape < 0.6:
        items = {"over": list(range(dice.randint(0, 6))), "max_parallel": dice.randint(1, 3)}
        return [step("a"), step("m", "a", map=items), step("z", "m")]
    if shape < 0.75:
        return [
            step("a"),
            {"id": "nap", "uses": "sleep", "with": {"seconds": 0.5}, "needs": ["a"]},
            step("b", "nap"),
        ]
    if shape < 0.85:
        event = {"topic": "chaos", "timeout": "60 s"}
        return [
            step("a"),
            {"id": "ear", "uses": "wait_for_event", "with": event, "needs": ["a"]},
            step("b", "ear"),
        ]
    if shape < 0.95:
        return [
            step("a"),
            {"id": "ask", "uses": "approval", "with": {"prompt": "go?"}, "needs": ["a"]},
            step("b", "ask"),
        ]
    undo = {"uses": TOOL, "with": {}}
    bad = step("bad", "b")
    bad["with"] = {"hopeless": True}
    return [step("a", on_rollback=undo), step("b", "a", on_rollback=undo), bad]


def _uuid7(dice: random.Random) -> UUID:
    ms = time.time_ns() // 1_000_000
    value = ms << 80 | 7 << 76 | dice.getrandbits(12) << 64 | 2 << 62 | dice.getrandbits(62)
    return UUID(int=value)


def _witness(lab: Lab, unit: dict[str, Any], event: str, **more: Any) -> None:
    line = {
        "e": event, "run": unit["run_id"], "work": unit["work_id"], "step": unit["step"],
        "task": None, "attempt": unit["attempt"], "token": unit["lease_id"], "key": None,
        "scheduled_for": None, "rt": time.time(), "mt": time.monotonic(), "boot": "psql", "pid": 0,
        **more,
    }  # fmt: skip
    with lab.witness.open("a") as file:
        file.write(json.dumps(line, default=str) + "\n")
