"""The whole system with real processes: a server, a scheduler, a worker and its children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import calls
from ordinaut.errors import ConfigurationError, WaitTimeout
from ordinaut.testing import (
    BuildMode,
    Database,
    SuiteClient,
    TestSuite,
    create_mathematical_test_context,
    create_test_task_request,
    suite,
    wait_for_completion,
)
from ordinaut.testing.postgres import Server

pytestmark = pytest.mark.slow
SEQUENCE = ("linear_workflow", "mathematical_sequence", "1.0.0")


@pytest.fixture(scope="module")
def running(ordinaut_server: Server, templates: Path) -> Iterator[TestSuite]:
    with TestSuite.start(ordinaut_server, templates=templates) as running:
        running.client.apply_template("mathematical_sequence.yaml")
        yield running


def request(even_number: int) -> Any:
    context = create_mathematical_test_context(even_number)
    return create_test_task_request(*SEQUENCE, context, "an integration test")


def test_a_mathematical_sequence_completes(running: TestSuite) -> None:
    """AC-79"""
    task = running.client.create_task(request(6))

    done = wait_for_completion(running.client, task.task_uuid, 30)

    assert done.status == "completed"
    assert (done.completion_percentage, done.total_steps, done.failed_steps) == (100.0, 4, 0)
    assert done.output["sixteenth_power"] == 2821109907456


def test_ten_workflows_at_once(running: TestSuite) -> None:
    """AC-80: all complete, and none of their steps fails."""
    numbers = [(i + 1) * 2 for i in range(10)]

    def one(number: int) -> Any:
        database = Database(running.db.dsn)
        task = SuiteClient(database, None).create_task(request(number))
        done = wait_for_completion(database, task.task_uuid, 30)
        database.close()
        return done

    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(one, numbers))

    assert [e.status for e in ended] == ["completed"] * 10
    assert [e.output["sixteenth_power"] for e in ended] == [n**16 for n in numbers]
    # A worker may hand back what it has leased and not begun: that starts nothing twice.
    twice = "select s.name from ordinaut.step as s where s.failures > 0 or s.crashes > 0"
    assert running.db.rows(twice) == []


def test_waiting_ends_in_time(running: TestSuite) -> None:
    run_id = calls.enqueue(running.db.conn, "echo", delay="1 h").run_id
    assert run_id is not None

    with pytest.raises(WaitTimeout, match=r"is pending after 0\.05 s"):
        wait_for_completion(running.db, run_id, 0.05)


@pytest.fixture
def alone(ordinaut_server: Server) -> Server:
    """The same server, under a name of our own: other suites may come and go on it."""
    return Server(ordinaut_server.dsn, None, ExitStack())


def databases(server: Server) -> list[str]:
    with psycopg.connect(server.dsn) as conn:
        query = "select d.datname from pg_database as d where starts_with(d.datname, %s)"
        return [name for (name,) in conn.execute(query, [server.run])]


def test_a_suite_leaves_nothing_behind(alone: Server) -> None:
    with TestSuite.start(alone) as one:
        assert len(databases(alone)) == 1
        assert one.db.rows("select 1 from ordinaut.worker")
    one.stop()

    assert databases(alone) == []


def test_a_suite_that_does_not_start_leaves_nothing_behind(
    alone: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(suite.SuiteError, match=r"the worker does not start: .*no_such_module"):
        TestSuite.start(alone, modules=["no_such_module"])
    assert databases(alone) == []

    monkeypatch.setenv("TASKER_ENV", "production")
    with pytest.raises(ConfigurationError, match="TASKER_ENV=production"):
        TestSuite.start(alone)
    assert databases(alone) == []


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("ci", BuildMode.CI),
        ("prod", BuildMode.PRODUCTION),
        ("production", BuildMode.PRODUCTION),
        ("anything", BuildMode.FAST),
        (None, BuildMode.FAST),
    ],
)
def test_the_build_mode_comes_from_the_environment(
    said: str | None, mode: BuildMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_BUILD_MODE", raising=False)
    if said is not None:
        monkeypatch.setenv("TEST_BUILD_MODE", said)
    assert BuildMode.from_env() is mode


def test_the_environment_of_a_test_says_so(ordinaut_server: Server) -> None:
    assert os.environ["ORDINAUT_ENV"] == os.environ["TASKER_ENV"] == "test"
