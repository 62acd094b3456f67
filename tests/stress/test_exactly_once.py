"""
Stress: many workers, much work, and a witness that is not the database.

Each worker is a thread with a connection of its own that calls exchange() and nothing else.  Its
"tool" appends a line to a file (O_APPEND: lines of several writers never mix).  On the way tools
fail and release, workers die holding a batch and come back under another id, answers are lost and
the exchange is sent again, and a reaper sweeps.  In the end the file has one line for each unit of
work, and no two leases ever had the same attempt of a unit, or the same key at once.

    make stress SIZE=1000000     the long form; the suite runs a short one
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import namedtuple_row

SIZE = int(os.environ.get("SIZE", "10000"))
PATIENCE = 40 + SIZE / 500  # seconds without an end mean that something is lost

EXCHANGE = """select * from ordinaut.exchange(%s, 'default', %s, %s, %s::uuid[], %s::uuid[],
  %s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[])"""
RETRY = json.dumps({"message": "unlucky", "retry_after": 0.02})


class Witness:
    """What tools did, as they did it; knows nothing of the database."""

    def __init__(self, path: Path, items: int) -> None:
        self.path = path
        self.left = items
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()
        self._keys: set[str] = set()
        self.faults: list[str] = []

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def settled(self, n: int) -> None:
        with self._lock:
            self.left -= n

    def take(self, key: str | None) -> None:
        with self._lock:
            if key in self._keys:
                self.faults.append(f"{key} is held twice")
            if key is not None:
                self._keys.add(key)

    def give(self, key: str | None) -> None:
        with self._lock:
            self._keys.discard(key or "")

    def lines(self) -> list[list[str]]:
        os.close(self._fd)
        return [line.split(" ") for line in self.path.read_text().splitlines()]


class Worker:
    def __init__(self, dsn: str, witness: Witness, seed: int) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True, row_factory=namedtuple_row)
        self.witness = witness
        self.random = random.Random(seed)
        self.floors: list[Any] | None = None
        self.register()

    def register(self) -> None:
        self.id = uuid4()
        self.conn.execute(
            "select ordinaut.register_worker(%s, '{default}', '{echo}', p_ttl => '1 hour')",
            [self.id],
        )

    def exchange(self, done: list[tuple[Any, str]]) -> list[Any]:
        """Settle and lease; now and then the answer is lost, and the call sent again."""
        args = [
            self.id,
            uuid4(),
            self.random.choice((1, 5, 20, 50)),
            [unit.lease_id for unit, _ in done],
            [unit.work_id for unit, _ in done],
            [outcome for _, outcome in done],
            ["{}" if outcome == "success" else None for _, outcome in done],
            [RETRY if outcome == "failed" else None for _, outcome in done],
            [0] * len(done),
            self.floors if self.random.random() < 0.8 else None,
        ]
        for unit, _ in done:
            self.witness.give(unit.key)
        rows = self.conn.execute(EXCHANGE, args).fetchall()
        if self.random.random() < 0.05:
            # One that had leased nothing may lease now: only the second answer was heard.
            first, rows = rows, self.conn.execute(EXCHANGE, args).fetchall()
            if work(first) and work(rows) != work(first):
                self.witness.faults.append(f"{args[1]} was answered in two ways")
            rows = [row for row in rows if row.kind != "already"]
        self.witness.faults += [
            f"{row.kind} {row.lease_id}" for row in rows if row.kind not in ("work", "sweep")
        ]
        self.witness.settled(sum(outcome == "success" for _, outcome in done))
        units = [row for row in rows if row.kind == "work"]
        if units:
            low = max(unit.run_at for unit in units) - timedelta(seconds=1)
            self.floors = [low] * 9
        return units

    def run(self) -> None:
        done: list[tuple[Any, str]] = []
        deadline = time.monotonic() + PATIENCE
        while self.witness.left > 0 and time.monotonic() < deadline:
            units = self.exchange(done)
            done = []
            for unit in units:
                self.witness.write("leased", unit.work_id, unit.attempt)
                self.witness.take(unit.key)
            # Not when alone: what crashed is leased alone, and abandoned at the third crash.
            if len(units) > 1 and self.random.random() < 0.02:
                for unit in units:
                    self.witness.give(unit.key)
                self.conn.execute("select ordinaut.deregister_worker(%s, 'dead')", [self.id])
                self.register()
                continue
            for unit in units:
                outcome = self.random.choices(("success", "failed", "released"), (90, 5, 5))[0]
                if outcome == "success":
                    self.witness.write("ran", unit.work_id, unit.payload["n"])
                done.append((unit, outcome))
            if not units:
                self.floors = None
                time.sleep(0.01)
        if done:
            self.exchange(done)
        self.conn.execute("select ordinaut.deregister_worker(%s)", [self.id])


def work(rows: list[Any]) -> set[tuple[UUID, int]]:
    return {(row.work_id, row.attempt) for row in rows if row.kind == "work"}


def reap(dsn: str, witness: Witness) -> None:
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(dsn, autocommit=True) as conn:
        while witness.left > 0 and time.monotonic() < deadline:
            conn.execute("select ordinaut.reap()")
            time.sleep(0.1)


@pytest.mark.parametrize(("workers", "items"), [(5, 10), (16, SIZE)], ids=["5x10", "16xSIZE"])
def test_exactly_once(prod_dsn: str, tmp_path: Path, workers: int, items: int) -> None:
    dice = random.Random(items)
    with psycopg.connect(prod_dsn, autocommit=True) as conn:
        for first in range(0, items, 1000):
            plain = [
                {"payload": {"n": n}, "priority": dice.randint(1, 9), "max_attempts": 1000}
                for n in range(first, min(first + 1000, items))
            ]
            keyed = [item | {"key": f"key {dice.randint(1, 10)}"} for item in plain[::20]]
            del plain[::20]
            for bulk in (plain, keyed):
                conn.execute("select ordinaut.enqueue_many(%s, 'echo')", [json.dumps(bulk)])

    witness = Witness(tmp_path / "witness", items)
    with ThreadPoolExecutor(workers + 1) as pool:
        crew = [Worker(prod_dsn, witness, seed) for seed in range(workers)]
        threads = [pool.submit(worker.run) for worker in crew]
        threads.append(pool.submit(reap, prod_dsn, witness))
        for thread in threads:
            thread.result()
        for worker in crew:
            worker.conn.close()

    assert (witness.faults, witness.left) == ([], 0)
    lines = witness.lines()
    ran = Counter(int(n) for what, _, n in lines if what == "ran")
    assert [n for n in range(items) if ran[n] != 1] == []
    leased = Counter((work_id, attempt) for what, work_id, attempt in lines if what == "leased")
    assert [unit for unit, n in leased.items() if n != 1] == []

    with closing(psycopg.connect(prod_dsn)) as conn:
        found = conn.execute("select status, count(*) from ordinaut.work group by 1").fetchall()
        assert found == [("completed", items)]
        attempts = conn.execute("select sum(attempt) from ordinaut.task_run").fetchone()
        assert attempts == (len(leased),)
        assert conn.execute("select * from ordinaut.hold").fetchall() == []
