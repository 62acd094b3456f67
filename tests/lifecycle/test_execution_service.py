"""
The whole way of a run, from being asked for to its end, through the Python API.

A `hand` leases like a worker and does what it is told; each test is one way a run can go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from ordinaut import Ordinaut, calls, db
from ordinaut.errors import (
    LeaseLost,
    NotFound,
    RunCancelled,
    RunFailed,
    RunTimedOut,
    WaitTimeout,
    WorkCancelled,
)


@pytest.fixture
def service(dsn: str) -> Iterator[Ordinaut]:
    with Ordinaut(dsn) as ordinaut:
        yield ordinaut


@pytest.fixture
def hand(dsn: str) -> Iterator[Hand]:
    with db.connect(dsn, name="hand") as conn:
        yield Hand(conn)


class Hand:
    """Somebody who works."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    def at(self, minutes: float) -> None:
        """Move this hand's clock ahead of the others'."""
        self.conn.execute(
            "select set_config('test.now', (statement_timestamp() + %s)::text, false)",
            [timedelta(minutes=minutes)],
        )

    def take(self) -> calls.Work:
        [work] = calls.lease_work(self.conn, "hand", lasting=timedelta(days=1))
        return work

    def do(self, tool: Callable[[Any], Any]) -> str:
        """Lease a unit, run `tool` on its payload, and settle it as that went."""
        work = self.take()
        try:
            output = tool(work.payload)
        except Exception as exc:
            kind = calls.classify_error(self.conn, type(exc).__name__, str(exc))
            [settled] = calls.fail_work(
                self.conn, work.lease_id, work.work_id, str(exc), retryable=kind.retryable,
                details={"category": kind.category, "code": kind.code},
            )  # fmt: skip
        else:
            [settled] = calls.complete_work(self.conn, work.lease_id, work.work_id, output)
        return settled.outcome


def broken(exc: Exception) -> Callable[[Any], Any]:
    def tool(payload: Any) -> Any:
        raise exc

    return tool


def test_a_run_succeeds_and_its_output_is_there(service, hand):
    run_id = service.enqueue("echo", {"n": 20}).run_id
    assert service.status(run_id) == "pending"
    assert hand.do(lambda payload: payload["n"] + 1) == "success"
    assert service.wait(run_id, 1) == 21


def test_a_tool_that_fails_is_a_failed_run_with_its_message(service, hand):
    run_id = service.enqueue("crew", max_attempts=1).run_id
    assert hand.do(broken(RuntimeError("the crew gave up"))) == "failed"
    with pytest.raises(RunFailed, match=r"the crew gave up") as caught:
        service.wait(run_id, 1)
    assert (caught.value.error["category"], caught.value.error["code"]) == ("internal", "E5002")


def test_a_validation_error_is_not_tried_again(service, hand):
    run_id = service.enqueue("echo", max_attempts=5).run_id
    assert hand.do(broken(ValueError("no such month"))) == "failed"
    run = service.get_run(run_id)
    assert (run.failures, run.error["message"]) == (1, "no such month")


def test_a_network_error_is_tried_again_and_the_run_succeeds(service, hand):
    run_id = service.enqueue("echo").run_id
    assert hand.do(broken(ConnectionError("reset"))) == "retry"
    assert service.status(run_id) == "pending"
    hand.at(minutes=1)
    assert hand.do(lambda payload: "in the end") == "success"
    run = service.get_run(run_id)
    assert (run.attempt, run.failures, run.output) == (2, 1, "in the end")


def test_attempts_end(service, hand):
    run_id = service.enqueue("echo", max_attempts=2).run_id
    assert hand.do(broken(ConnectionError("reset"))) == "retry"
    hand.at(minutes=1)
    assert hand.do(broken(ConnectionError("reset"))) == "failed"
    assert service.get_run(run_id).error["message"] == "Max retries exhausted (2 of 2): reset"


def test_a_queued_run_that_is_cancelled_is_never_leased(service, hand):
    run_id = service.enqueue("echo").run_id
    assert calls.cancel_run(hand.conn, run_id, "changed our minds") == "cancelled"
    assert calls.lease_work(hand.conn, "hand") == []
    with pytest.raises(RunCancelled):
        service.wait(run_id, 1)


def test_a_running_run_that_is_cancelled_hears_of_it_at_its_next_sign_of_life(service, hand):
    run_id = service.enqueue("echo").run_id
    work = hand.take()
    assert calls.cancel_run(hand.conn, run_id) == "requested"
    assert [h.kind for h in calls.heartbeat(hand.conn, work.lease_id)] == ["cancel"]
    with pytest.raises(WorkCancelled):
        calls.assert_lease(hand.conn, work.lease_id, work.work_id)
    calls.release_work(hand.conn, work.lease_id, work.work_id)
    assert service.status(run_id) == "cancelled"


def test_a_finished_run_cannot_be_cancelled(service, hand):
    run_id = service.enqueue("echo").run_id
    hand.do(lambda payload: None)
    assert calls.cancel_run(hand.conn, run_id) == "too_late"
    assert service.status(run_id) == "success"


def test_a_run_that_is_stuck_times_out_and_its_worker_is_too_late(service, hand):
    run_id = service.enqueue("echo").run_id
    work = hand.take()
    hand.at(minutes=61)
    assert [s.outcome for s in calls.timeout_stuck(hand.conn)] == ["timed_out"]
    with pytest.raises(RunTimedOut, match="timed out after 60 minutes"):
        service.wait(run_id, 1)
    with pytest.raises(LeaseLost):
        calls.complete_work(hand.conn, work.lease_id, work.work_id, "late")
    assert service.status(run_id) == "timed_out"


def test_a_failed_run_is_recovered_and_succeeds(service, hand):
    run_id = service.enqueue("echo", {"n": 1}, max_attempts=1).run_id
    hand.do(broken(ConnectionError("reset")))
    hand.at(minutes=6)
    [found] = calls.get_failed_runs_for_recovery(hand.conn)
    assert (found.run_id, found.category) == (run_id, "network")
    new = service.recover(run_id)
    hand.do(lambda payload: payload)
    assert service.wait(new, 1) == {"n": 1}
    assert calls.get_failed_runs_for_recovery(hand.conn) == []


def test_priority_decides_then_age(service, hand):
    made = {p: service.enqueue("echo", {"p": p}, priority=p).run_id for p in (9, 1, 5)}
    second = service.enqueue("echo", {"p": 1}, priority=1).run_id
    order = [hand.take().run_id for _ in range(4)]
    assert order == [made[1], second, made[5], made[9]]


def test_progress_is_stored_with_its_step(service, hand):
    run_id = service.enqueue("echo").run_id
    work = hand.take()
    for percent in (0, 40, 100):
        calls.log_work(
            hand.conn, work.lease_id, work.work_id, "progress",
            {"percent": percent, "note": f"page {percent}"},
        )  # fmt: skip
        assert service.get_run(run_id).progress == {"percent": percent, "note": f"page {percent}"}


def test_what_does_not_exist_is_not_found(service):
    with pytest.raises(NotFound):
        service.run_now("no-such-task")
    with pytest.raises(NotFound):
        service.get_run(uuid4())


def test_waiting_ends_without_the_run(service):
    run_id = service.enqueue("echo").run_id
    with pytest.raises(WaitTimeout):
        service.wait(run_id, 0.01)
    assert service.status(run_id) == "pending"


def test_a_service_that_is_down_fails_few_runs_and_keeps_the_others(service, hand):
    calls.set_breaker(hand.conn, "crm", threshold=2, recovery="1 min")
    for _ in range(5):
        service.enqueue("crm", max_attempts=1)
    for _ in range(2):
        assert hand.do(broken(ConnectionError("refused"))) == "failed"
    assert calls.lease_work(hand.conn, "hand") == []
    hand.at(minutes=2)
    assert hand.do(lambda payload: "up again") == "success"
    for _ in range(2):
        assert hand.do(lambda payload: None) == "success"
    said = calls.get_execution_statistics(hand.conn)
    assert (said.by_status, said.success_rate) == ({"failed": 2, "success": 3}, 0.6)
