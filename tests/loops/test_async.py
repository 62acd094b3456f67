"""Async tools share a child, and one of them can be stopped without the others."""

from __future__ import annotations

import time
from datetime import timedelta

from ordinaut import calls
from tests.loops.conftest import FAST, alive


def test_async_tools_wait_together(worker, enqueue, ended, witness):
    worker()
    began = time.monotonic()

    runs = [enqueue("waits", seconds=1) for _ in range(20)]

    assert {ended(run_id).state for run_id in runs} == {"success"}
    assert time.monotonic() - began < 4
    assert len({line.pid for line in witness.lines()}) == 1
    assert len(witness.lines("start")) == 20


def test_one_is_cancelled_and_its_neighbour_goes_on(db, worker, enqueue, ended, witness):
    worker()
    goes_on = enqueue("waits", seconds=2, label="on")
    stops = enqueue("waits", seconds=60, label="stops")
    witness.wait("start", 2)

    calls.cancel_run(db, stops)

    assert ended(stops).state == "cancelled"
    run = ended(goes_on)
    assert (run.state, run.attempt) == ("success", 1)


def test_one_that_ignores_its_timeout_costs_the_child_and_not_its_neighbours(
    worker, enqueue, ended, witness
):
    worker()
    deaf = enqueue("waits", deaf=True, seconds=60, timeout="500 ms", attempts=1)
    witness.wait("start")
    neighbour = enqueue("waits", seconds=60, again=0, label="neighbour")
    first, second = witness.wait("start", 2)
    assert first.pid == second.pid

    run = ended(neighbour)
    assert (run.state, run.crashes, run.failures) == ("success", 0, 0)
    assert not alive(first.pid)
    assert "ignored its cancellation" in str(ended(deaf).error)
    assert ended(deaf).finished_at - ended(deaf).started_at >= timedelta(milliseconds=500)


def test_one_that_holds_the_gil_is_cancelled_all_the_same(db, worker, enqueue, ended, witness):
    worker(runner=FAST["runner"] | {"async_grace": 0.3})
    hog = enqueue("hogs", attempts=1)
    (line,) = witness.wait("start")

    calls.cancel_run(db, hog)

    assert ended(hog).state == "cancelled"
    assert not alive(line.pid)
