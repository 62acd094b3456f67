"""Breakers, policies, statistics and recovery through the Python API and the command line."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ordinaut import Ordinaut, calls, db
from ordinaut.cli.main import invoke
from ordinaut.errors import Conflict, NotFound, WrongState

NOWHERE = "postgresql://localhost:1/nowhere"


@pytest.fixture
def cli(dsn: str, capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: Any) -> Any:
    """Run a command; return its code and its answer, as JSON."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, dsn: str = dsn, text: bool = False) -> tuple[int, Any]:
        code = invoke([*argv, "--dsn", dsn, *([] if text else ["--json"])])
        said = capsys.readouterr()
        return code, (said.out or said.err) if text else json.loads(said.out or said.err)

    return run


@pytest.fixture
def on(dsn: str) -> Any:
    with db.connect(dsn, name="test") as conn:
        yield conn


@pytest.fixture
def ended(on: Any) -> Any:
    """Run a unit to its end, with an outcome; return its run."""

    def run(outcome: str, category: str = "network", tool: str = "echo") -> Any:
        enqueued = calls.enqueue(on, tool, max_attempts=1)
        [work] = calls.lease_work(on, "w")
        if outcome == "success":
            calls.complete_work(on, work.lease_id, work.work_id)
        else:
            calls.fail_work(on, work.lease_id, work.work_id, "no", details={"category": category})
        return enqueued.run_id

    return run


def test_the_status_of_a_run_when_the_database_is_down_is_unavailable(cli):
    with Ordinaut(NOWHERE) as ordinaut:
        assert ordinaut.status("0191d2e6-0000-7000-8000-000000000000") == "unavailable"
    code, said = cli("run", "show", "0191d2e6", dsn=NOWHERE)
    assert (code, said["status"], said["exit"]) == (69, "unavailable", 69)
    code, said = cli("run", "show", "0191d2e6", dsn=NOWHERE, text=True)
    assert code == 69
    assert "cannot reach the database" in said
    assert "Traceback" not in said


def test_the_status_of_a_run_is_its_state(dsn, ended):
    with Ordinaut(dsn) as ordinaut:
        assert ordinaut.status(ended("success")) == "success"
        assert ordinaut.status(ordinaut.enqueue("echo").run_id or "") == "pending"
        with pytest.raises(NotFound):
            ordinaut.status("0191d2e6-0000-7000-8000-000000000000")


def test_a_lost_connection_is_unavailable_once_and_then_made_again(dsn, ended, on):
    run_id = ended("success")
    with Ordinaut(dsn, name="victim") as ordinaut:
        assert ordinaut.status(run_id) == "success"
        with psycopg.connect(dsn, autocommit=True) as killer:
            killer.execute(
                "select pg_terminate_backend(a.pid, 5000) from pg_stat_activity as a"
                " where a.application_name = 'victim'"
            )
        assert ordinaut.status(run_id) == "unavailable"
        assert ordinaut.status(run_id) == "success"


def test_a_failed_run_is_recovered_once(dsn, ended):
    run_id = ended("failed")
    with Ordinaut(dsn) as ordinaut:
        new = ordinaut.recover(run_id)
        assert ordinaut.recover(run_id) == new
        with pytest.raises(WrongState, match="not in failed state"):
            ordinaut.recover(new)
        with pytest.raises(NotFound, match="not found"):
            ordinaut.recover("0191d2e6-0000-7000-8000-000000000000")


def test_the_cli_recovers_a_run_and_says_no_to_one_that_has_not_failed(cli, ended):
    run_id = str(ended("failed"))
    code, said = cli("run", "recover", run_id)
    assert (code, said["run_id"]) == (0, run_id)
    code, said = cli("run", "recover", said["recovered_as"])
    assert code == 1
    assert "not in failed state" in said["error"]


def test_the_cli_lists_what_may_be_recovered(cli, ended):
    run_id = str(ended("failed"))
    ended("failed", "validation")
    assert cli("run", "recoverable") == (0, [])
    code, rows = cli("run", "recoverable", "--min-age", "0 s")
    assert (code, [row["run_id"] for row in rows]) == (0, [run_id])


def test_the_cli_counts(cli, ended):
    for _ in range(7):
        ended("success")
    for category in ("network", "network", "validation"):
        ended("failed", category)
    code, said = cli("errors", "stats")
    assert code == 0
    assert (said["total"], said["success_rate"]) == (10, 0.7)
    assert said["by_status"] == {"success": 7, "failed": 3}
    assert said["by_category"] == {"network": 2, "validation": 1}
    assert said["recovery_candidates"] == 2
    assert "network 2" in cli("errors", "stats", text=True)[1]
    assert cli("errors", "stats", "--task", "nobody")[0] == 1


def test_the_cli_classifies(cli):
    code, said = cli("errors", "classify", "ConnectionError")
    assert (code, said["code"], said["retryable"]) == (0, "E1001", True)
    assert cli("errors", "classify", "--sqlstate", "40001")[1]["code"] == "E5003"
    assert "E4002" in cli("errors", "classify", "--message", "429", text=True)[1]


def test_the_cli_sets_policies(cli):
    assert cli("errors", "policies") == (0, [])
    assert cli("errors", "policy", "defaults")[1]["changed"] == 8
    cli("errors", "policy", "network", '{"max_attempts": 7, "base": "3 s"}')
    rows = {row["category"]: row for row in cli("errors", "policies")[1]}
    assert (rows["network"]["max_attempts"], rows["timeout"]["max_attempts"]) == (7, 3)
    assert "external_service" in cli("errors", "policies", text=True)[1]
    code, said = cli("errors", "policy", "weather", '{"max_attempts": 7}')
    assert (code, "no category" in said["error"]) == (2, True)


def test_the_cli_ends_what_is_stuck(cli, on):
    on.execute("select set_config('test.now', (ordinaut.now() - interval '61 min')::text, false)")
    calls.enqueue(on, "echo")
    [work] = calls.lease_work(on, "w", lasting=timedelta(days=1))
    code, rows = cli("run", "stuck")
    assert (code, [row["run_id"] for row in rows]) == (0, [str(work.run_id)])
    assert cli("run", "stuck", "--after", "2 hours") == (0, [])
    code, rows = cli("run", "stuck", "--end")
    assert [(row["run_id"], row["outcome"]) for row in rows] == [(str(work.run_id), "timed_out")]
    assert calls.get_run(on, work.run_id).error["message"] == "timed out after 60 minutes"


def test_many_runs_are_cancelled_and_retried_each_its_own_way(on, ended):
    waits, done = calls.enqueue(on, "echo", queue="other").run_id, ended("success")
    unknown = calls.enqueue(on, "echo", queue="gone").run_id
    on.execute("delete from ordinaut.due_work where queue = 'gone'")
    changed = {c.run_id: c.outcome for c in calls.cancel_runs(on, [waits, done, unknown])}
    assert changed == {waits: "updated", done: "skipped", unknown: "failed"}
    changed = {c.run_id: c.outcome for c in calls.retry_runs(on, [waits, done, unknown])}
    assert changed == {waits: "updated", done: "skipped", unknown: "failed"}


def test_a_breaker_by_the_cli(cli, on, ended):
    assert cli("breaker", "set", "crm", "--tool", "echo", "--threshold", "2")[0] == 0
    ended("failed")
    ended("failed")
    [row] = cli("breaker", "list")[1]
    assert (row["state"], row["failures"], row["tools"]) == ("open", 2, ["echo"])
    with pytest.raises(WrongState, match="Circuit breaker is OPEN"):
        calls.breaker_allows(on, "crm")
    assert cli("breaker", "reset", "crm")[0] == 0
    assert calls.breaker_allows(on, "echo")
    assert cli("breaker", "open", "crm", "-m", "maintenance")[1]["state"] == "open"
    assert "maintenance" in cli("breaker", "list", text=True)[1]
    assert cli("breaker", "close", "crm")[1]["state"] == "closed"
    assert cli("breaker", "drop", "crm")[0] == 0
    assert cli("breaker", "list") == (0, [])
    assert cli("breaker", "open", "crm")[0] == 1
    assert cli("breaker", "set", "not a name")[0] == 2


def test_a_tool_has_one_breaker(on):
    calls.set_breaker(on, "one", ["a", "b"])
    with pytest.raises(Conflict, match="guarded by breaker one"):
        calls.set_breaker(on, "two", ["b"])
