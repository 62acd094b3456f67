"""Two worker processes share a breaker: while the service is down, one unit at a time tries it."""

from __future__ import annotations

from itertools import pairwise

from ordinaut import calls
from tests.loops.conftest import wait_for

TOOL = "python:tests.loops.hands.call"


def test_two_workers_leave_a_service_alone_that_is_down(
    db, worker, enqueue, ended, witness, tmp_path
):
    service = tmp_path / "service"
    calls.set_breaker(db, "service", [TOOL], threshold=3, recovery="300 ms")
    worker()
    worker()
    runs = [enqueue("call", service=str(service), attempts=100) for _ in range(30)]

    def breaker():
        return calls.list_breakers(db)[0]

    def rests():
        (leased,) = db.execute("select count(*) from ordinaut.lease").fetchone()
        return breaker().state == "open" and not leased and breaker().parked == 29

    wait_for(rests)
    before = len(witness.lines("refused"))
    tried = [line.at for line in witness.wait("refused", before + 4)[before:]]
    assert all(later - earlier > 0.25 for earlier, later in pairwise(tried))
    (waits,) = db.execute(
        "select count(*) from ordinaut.work where status in ('pending', 'parked', 'running')"
    ).fetchone()
    assert waits == 30  # nothing failed for good

    service.touch()
    assert {ended(run_id).state for run_id in runs} == {"success"}
    assert len(witness.lines("answered")) == 30
    assert (breaker().state, breaker().failures, breaker().parked) == ("closed", 0, 0)
