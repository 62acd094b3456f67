"""
Stress: runs of steps under workers that fail, die and repeat themselves; an operator meddles.

The pipelines are random graphs with retries, skips, tolerated failures, rollbacks, maps and sleeps.
Workers are threads that call exchange(); some lose answers, some die holding a batch.  The operator
cancels runs, retries failed ones, and holds the rows of runs in transactions that stay open.

At every instant each step is where its state says.  In the end nothing is left over, every run has
ended once, no step succeeded twice, none began before all that it needs had ended, and what ended
well rolled nothing back.

    make stress SIZE=1000000     the long form; the suite runs a short one
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.places import WRONG_STEPS

RUNS = int(os.environ.get("SIZE", "10000")) // 50
PATIENCE = 40 + RUNS / 20

EXCHANGE = """select * from ordinaut.exchange(%s, 'default', %s, %s, %s::uuid[], %s::uuid[],
  %s::text[], %s::text[], %s::text[], %s::bigint[])"""
LIVE = """
select exists (select from ordinaut.due_work) or exists (select from ordinaut.parked)
  or exists (select from ordinaut.lease)
  or exists (select from ordinaut.task_run where finished_at is null)
"""
FAILED = json.dumps({"message": "unlucky", "retry_after": 0.01})
HOPELESS = json.dumps({"message": "hopeless", "retryable": False})


def pipeline(dice: random.Random) -> list[dict[str, Any]]:
    """Draw a graph of a few steps; each needs some of those before it."""
    steps: list[dict[str, Any]] = []
    for n in range(dice.randint(1, 8)):
        step: dict[str, Any] = {"id": f"s{n}", "uses": "echo", "retry_count": dice.randint(1, 4)}
        step["needs"] = [f"s{m}" for m in range(n) if dice.random() < 0.5]
        step["continue_on_error"] = dice.random() < 0.2
        step["skip_with_needs"] = dice.random() < 0.2
        if dice.random() < 0.3:
            step["on_rollback"] = {"uses": "echo"}
        if dice.random() < 0.15:
            step["map"] = {
                "over": list(range(dice.randint(0, 12))),
                "max_parallel": dice.randint(1, 5),
                "on_failure": dice.choice(("fail", "continue")),
            }
        steps.append(step)
    return steps


class Crew:
    """What the threads share."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.ran: list[UUID] = []

    def close(self) -> None:
        self.over.set()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True, row_factory=namedtuple_row)


def decide(unit: Any, dice: random.Random) -> tuple[str, str | None, str | None]:
    body = unit.payload or {}
    if "map" in body and "item" not in body:
        wait = {"kind": "map", "items": body["map"]["over"], **body["map"]}
        return "waiting", json.dumps(wait), None
    chance = dice.random()
    if chance < 0.05:
        return "failed", None, FAILED
    if chance < 0.07:
        return "failed", None, HOPELESS
    if chance < 0.11:
        return "released", None, None
    if chance < 0.14 and not unit.step.startswith("rollback"):
        return "skipped", None, None
    if chance < 0.16:
        return "waiting", json.dumps({"kind": "sleep", "seconds": 0.02}), None
    return "success", "{}", None


def work(crew: Crew, seed: int) -> None:
    dice = random.Random(seed)
    with crew.connect() as conn:
        worker_id = register(conn)
        done: list[tuple[Any, tuple[str, str | None, str | None]]] = []
        while not crew.over.is_set():
            args = [
                worker_id, uuid4(), dice.choice((1, 3, 20)),
                [unit.lease_id for unit, _ in done], [unit.work_id for unit, _ in done],
                [d[0] for _, d in done], [d[1] for _, d in done], [d[2] for _, d in done],
                [0] * len(done),
            ]  # fmt: skip
            rows = conn.execute(EXCHANGE, args).fetchall()
            busy = {row.work_id for row in rows if row.kind == "busy"}
            if dice.random() < 0.05:
                # The answer was lost, and the call is sent again.
                rows = conn.execute(EXCHANGE, args).fetchall()
                busy &= {row.work_id for row in rows if row.kind == "busy"}
            with crew.lock:
                crew.ran += [
                    u.work_id for u, d in done if d[0] == "success" and u.work_id not in busy
                ]
            done = [(u, d) for u, d in done if u.work_id in busy]
            units = [row for row in rows if row.kind == "work"]
            if len(units) > 1 and not done and dice.random() < 0.03:
                conn.execute("select ordinaut.deregister_worker(%s, 'dead')", [worker_id])
                worker_id = register(conn)
                continue
            done += [(unit, decide(unit, dice)) for unit in units]
            if not units:
                time.sleep(0.005)


def register(conn: psycopg.Connection[Any]) -> UUID:
    worker_id = uuid4()
    conn.execute(
        "select ordinaut.register_worker(%s, '{default}', '{echo}', p_ttl => '1 hour')", [worker_id]
    )
    return worker_id


def meddle(crew: Crew, runs: list[UUID], seed: int) -> None:
    """Be the operator, and the reaper."""
    dice = random.Random(seed)
    acts = 0
    with crew.connect() as conn:
        while not crew.over.is_set():
            run_id = dice.choice(runs)
            acts += 1
            # Then the operator rests: what is retried for ever does not end.
            chance = dice.random() if acts < len(runs) else 1.0
            if chance < 0.3:
                with conn.transaction():
                    conn.execute("select ordinaut._lock_run(%s)", [run_id])
                    time.sleep(dice.choice((0.0, 0.08)))
            elif chance < 0.35:
                conn.execute("select ordinaut.cancel_run(%s)", [run_id])
            elif chance < 0.5:
                try:
                    conn.execute("select ordinaut.retry_failed_steps(%s)", [run_id])
                except psycopg.Error as exc:
                    assert exc.sqlstate in ("OR020", "OR031"), exc
            conn.execute("select ordinaut.reap()")
            time.sleep(0.01)


def finish(crew: Crew, deadline: float) -> None:
    with crew.connect() as conn, contextlib.closing(crew):
        while time.monotonic() < deadline and not crew.over.is_set():
            if not conn.execute(LIVE).fetchone()[0]:  # type: ignore[index]
                break
            wrong = conn.execute(WRONG_STEPS).fetchall()
            assert not wrong, wrong
            time.sleep(0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_workflows_under_fire(prod_dsn: str, seed: int) -> None:
    dice = random.Random(seed)
    crew = Crew(prod_dsn)
    with crew.connect() as conn:
        drawn = [pipeline(dice) for _ in range(20)]
        runs = [
            conn.execute(
                "select run_id from ordinaut.enqueue(p_pipeline => %s)",
                [json.dumps(dice.choice(drawn))],
            ).fetchone().run_id  # type: ignore[union-attr]
            for _ in range(RUNS)
        ]  # fmt: skip
        with ThreadPoolExecutor(8) as pool:
            threads = [pool.submit(work, crew, n) for n in range(5)]
            operator = pool.submit(meddle, crew, runs, seed)
            watch = pool.submit(finish, crew, time.monotonic() + PATIENCE)
            for thread in (*threads, operator, watch):
                try:
                    thread.result()
                finally:
                    crew.over.set()

        def count(question: str) -> int:
            return int(conn.execute(question).fetchone()[0])  # type: ignore[index]

        left = conn.execute(
            "select r.run_id, w.* from ordinaut.run as r"
            " cross join lateral ordinaut.why(r.run_id::text) as w"
            " where r.finished_at is null limit 20"
        )
        assert left.fetchall() == []
        assert not conn.execute(LIVE).fetchone()[0]  # type: ignore[index]
        assert count("select count(*) from ordinaut.task_run") == len(runs)
        states = dict(conn.execute("select state, count(*) from ordinaut.task_run group by 1"))
        assert {"success", "failed"} <= set(states) <= {"success", "failed", "cancelled"}, states
        # Reset by a retry, a step may succeed after it failed, but never again once it did.
        assert [s for s, n in Counter(crew.ran).items() if n > 1] == []
        for what, question in RULES.items():
            assert count(question) == 0, what


RULES = {
    "a step began before all that it needs had ended": """
        select count(*)
        from ordinaut.step_edge as e
        join ordinaut.step as a on a.step_id = e.from_step_id
        join ordinaut.step as b on b.step_id = e.to_step_id
        where b.state = 'complete' and (a.finished_at is null or b.started_at < a.finished_at)
    """,
    "a step is live in a run that has ended": """
        select count(*) from ordinaut.step where ordinaut._is_live(state, wait)
    """,
    "a run succeeded with a step that had not, or was rolled back": """
        select count(*)
        from ordinaut.task_run as r
        join ordinaut.step as s on s.run_id = r.run_id
        join ordinaut.pipeline_step as d
          on d.pipeline_id = r.pipeline_id and d.position = s.defined_by
        where r.state = 'success' and s.kind is distinct from 'item' and (
          s.kind = 'rollback' or not ordinaut._satisfies(s.state, d.continue_on_error))
    """,
    "a run failed and a completed step was not rolled back": """
        select count(*)
        from ordinaut.task_run as r
        join ordinaut.step as s on s.run_id = r.run_id and s.kind is null and s.state = 'complete'
        join ordinaut.pipeline_step as d
          on d.pipeline_id = r.pipeline_id and d.position = s.position
        where r.state <> 'success' and d.on_rollback is not null and not exists (
          select from ordinaut.step as b
          where b.run_id = r.run_id and b.kind = 'rollback' and b.defined_by = s.position)
    """,
    "a run failed without an error": """
        select count(*) from ordinaut.task_run where state <> 'success' and error is null
    """,
    "a cancel is still requested": "select count(*) from ordinaut.cancel_request",
}
