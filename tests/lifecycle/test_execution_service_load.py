"""
Many runs at once through the Python API: nothing is lost, nothing done twice, nothing slow.

The bounds are those of a service that people wait for, an order of magnitude from what it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from ordinaut import Ordinaut, calls, db


@pytest.fixture
def service(dsn: str) -> Iterator[Ordinaut]:
    with Ordinaut(dsn) as ordinaut:
        yield ordinaut


@pytest.fixture
def conn(dsn: str) -> Iterator[Any]:
    with db.connect(dsn, name="load") as conn:
        yield conn


def rate(n: int, act: Callable[[int], Any]) -> float:
    """Do it n times; return how many a second."""
    began = time.perf_counter()
    for i in range(n):
        act(i)
    return n / (time.perf_counter() - began)


def drain(conn: Any, queue: str = "default") -> list[Any]:
    done = []
    while work := calls.lease_work(conn, "hand", queue, 25):
        for unit in work:
            calls.complete_work(conn, unit.lease_id, unit.work_id, unit.attempt)
            done.append(unit.run_id)
    return done


def test_a_hundred_runs_are_queued_with_ids_of_their_own(service):
    ids = []
    assert rate(100, lambda i: ids.append(service.enqueue("echo", {"i": i}).run_id)) >= 50
    assert len(set(ids)) == 100


def test_runs_are_queued_by_several_at_once(dsn, conn):
    def ask(n: int) -> list[Any]:
        with Ordinaut(dsn) as mine:
            return [mine.enqueue("echo", {"n": n, "i": i}).run_id for i in range(25)]

    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        ids = [run_id for part in pool.map(ask, range(4)) for run_id in part]
    assert time.perf_counter() - began <= 5
    assert sorted(drain(conn)) == sorted(ids)
    assert len(set(ids)) == 100


def test_a_status_is_told_at_once(service):
    ids = [service.enqueue("echo").run_id for _ in range(50)]
    assert rate(50, lambda i: service.status(ids[i])) >= 10


def test_queueing_looking_and_cancelling_mixed(service, conn):
    def mixed(i: int) -> None:
        run_id = service.enqueue("echo", {"i": i}).run_id
        assert service.status(run_id) == "pending"
        if i % 3 == 0:
            assert calls.cancel_run(conn, run_id) == "cancelled"

    assert rate(60, mixed) * 2 >= 15
    assert len(drain(conn)) == 40


def test_cancelling(service, conn):
    ids = [service.enqueue("echo").run_id for _ in range(60)]
    assert rate(60, lambda i: calls.cancel_run(conn, ids[i])) >= 20
    assert drain(conn) == []


def test_rapid_cycles_of_queueing_and_completing(service, conn):
    def cycle(i: int) -> None:
        run_id = service.enqueue("echo", {"i": i}).run_id
        [work] = calls.lease_work(conn, "hand")
        assert work.run_id == run_id
        calls.complete_work(conn, work.lease_id, work.work_id, i)
        assert service.status(run_id) == "success"

    assert rate(60, cycle) >= 5
    assert calls.get_execution_statistics(conn).by_status == {"success": 60}


def test_many_hands_do_each_run_once(service, dsn):
    ids = {service.enqueue("echo", {"i": i}).run_id for i in range(200)}

    def work(n: int) -> list[Any]:
        with db.connect(dsn, name=f"hand {n}") as mine:
            return drain(mine)

    began = time.perf_counter()
    with ThreadPoolExecutor(5) as pool:
        done = [run_id for part in pool.map(work, range(5)) for run_id in part]
    assert time.perf_counter() - began <= 20
    assert len(done) == 200
    assert set(done) == ids


def test_how_long_a_run_took_is_known_to_the_millisecond(service, conn):
    # Time travels: what is measured is the engine, not the machine.
    lasting = [timedelta(milliseconds=137 * n) for n in range(1, 11)]
    off = []
    for took in lasting:
        run_id = service.enqueue("echo").run_id
        [work] = calls.lease_work(conn, "hand")
        conn.execute(
            "select set_config('test.now', (select (r.started_at + %s)::text"
            " from ordinaut.get_run(%s) as r), false)",
            [took, run_id],
        )
        calls.complete_work(conn, work.lease_id, work.work_id)
        conn.execute("select set_config('test.now', '', false)")
        run = service.get_run(run_id)
        assert run.finished_at is not None and run.started_at is not None
        off.append(abs((run.finished_at - run.started_at - took).total_seconds()))
    assert sum(off) / len(off) <= 0.05
    assert max(off) <= 0.1


def test_a_breaker_with_much_behind_it_closes_at_once(conn):
    calls.set_breaker(conn, "crm", threshold=1, recovery="1 ms")
    calls.open_breaker(conn, "crm")
    calls.enqueue_many(conn, [{"payload": {"i": i}} for i in range(2000)], tool="crm")
    while calls.lease_work(conn, "hand", limit=500):
        pass
    assert calls.list_breakers(conn)[0].parked == 2000
    began = time.perf_counter()
    calls.reset_breaker(conn, "crm")
    assert time.perf_counter() - began <= 5
    order = []
    while work := calls.lease_work(conn, "hand", limit=500):
        order += [unit.payload["i"] for unit in work]
    assert order == list(range(2000))
