"""
Everything at once, with real processes: a database, a scheduler, a worker, and a client.

    with TestSuite.start(templates="tests/fixtures/task_templates") as suite:
        suite.client.apply_template("mathematical_sequence.yaml")
        task = suite.client.create_task(create_test_task_request(
            "linear_workflow", "mathematical_sequence", "1.0.0",
            create_mathematical_test_context(6), "integration"))
        assert wait_for_completion(suite.client, task.task_uuid, 30).status == "completed"

No port is opened and no name is fixed, so any number of suites run side by side.  What was started
ends with the suite, also when starting the rest failed, and with us, also after kill -9.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from ordinaut import calls, manifest
from ordinaut.errors import WaitTimeout
from ordinaut.testing import postgres
from ordinaut.testing.database import Database, Pool, opened
from ordinaut.testing.environment import BuildMode, require_test
from ordinaut.testing.inline import ENDED
from ordinaut.testing.orchestrator import TaskRequest, TestOrchestrator
from ordinaut.testing.steps import Task, TaskLike, execution_context, task_id
from ordinaut.tools.death import die_with_parent

_PATIENCE = {BuildMode.FAST: 30.0, BuildMode.CI: 60.0, BuildMode.PRODUCTION: 60.0}
_DRAIN = 10.0
_LOOK = 0.02
_SCHEDULERS = """
select a.pid
from pg_catalog.pg_stat_activity as a
where a.datname = current_database() and a.application_name = 'ordinaut-scheduler'
"""
# Of runs, in the words of clients.
_STATUS = {"success": "completed"}


class SuiteError(Exception):
    """The suite does not start: what it waited for, and what the process said last."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How a run stands, in the words of clients: status is completed, failed, running, …"""

    task_uuid: UUID
    status: str
    execution_status: str
    completion_percentage: float
    total_steps: int
    completed_steps: int
    failed_steps: int
    output: Any
    error: Any


class SuiteClient:
    """What an application does: it asks for tasks, and looks at them."""

    def __init__(self, database: Database, templates: Path | str | None) -> None:
        self.db = database
        self._orchestrator = TestOrchestrator(database, templates)

    def apply_template(self, template_file: str | Path) -> list[manifest.Definition]:
        """Make the tasks of a template exist."""
        return self._orchestrator.apply_template(template_file)

    def create_task(self, request: TaskRequest) -> Task:
        """Ask for a run of a task; a worker starts it.

        Raises:
            NotFound: there is no such task, or not in this version.
        """
        return self._orchestrator.create_task_from_request(request, start=False)

    def get_task(self, task: TaskLike) -> TaskStatus:
        """Return how a run stands."""
        return get_task(self.db, task)


class TestSuite:
    """A scheduler and workers on a database of their own; use `start`.

    Attributes:
        db: the Database; its clock tells the real time.
        client: the SuiteClient.
    """

    __test__ = False

    def __init__(self, keep: ExitStack, database: Database, client: SuiteClient) -> None:
        self._keep = keep
        self.db = database
        self.client = client

    @classmethod
    def start(
        cls,
        server: postgres.Server | None = None,
        *,
        mode: BuildMode | None = None,
        modules: Sequence[str] = (),
        templates: Path | str | None = None,
    ) -> TestSuite:
        """Start a server, install, start a scheduler and a worker; return when they work.

        Args:
            server: one that runs already, to make a database on; None: one of our own.
            mode: None: as TEST_BUILD_MODE says.
            modules: of tools to be called as `python:module.function`.
            templates: where templates are; None: tests/fixtures/task_templates.

        Raises:
            NoServer, SuiteError: something does not start; what did has ended again.
        """
        require_test()
        mode = mode or BuildMode.from_env()
        keep = ExitStack()
        try:
            if server is None:
                server = postgres.start()
                keep.callback(server.stop)
            databases = postgres.Databases(server.dsn, f"{server.run}_suite{os.urandom(3).hex()}")
            keep.callback(databases.close)
            dsn = databases.dsn_of(databases.named("main"))
            postgres.install(dsn)
            database = Database(dsn)
            keep.callback(database.close)
            folder = keep.enter_context(tempfile.TemporaryDirectory(prefix="ordinaut-suite-"))
            patience = _PATIENCE[mode]
            concurrency = 4 if mode is BuildMode.PRODUCTION else 2
            for name in ("scheduler", "worker"):
                process = _Process(name, dsn, Path(folder), modules, concurrency)
                keep.callback(process.end)
                process.wait(database, patience)
            return cls(keep, database, SuiteClient(database, templates))
        except BaseException:
            keep.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End what was started, in reverse.  Idempotent."""
        self._keep.close()


class _Process:
    """A scheduler or a worker."""

    def __init__(
        self, name: str, dsn: str, folder: Path, modules: Sequence[str], concurrency: int
    ) -> None:
        self._name = name
        self._log = folder / f"{name}.log"
        known = [*modules, "ordinaut.testing.tools"]
        environ = os.environ | {
            "ORDINAUT_DSN": dsn,
            "ORDINAUT_ENV": "test",
            "ORDINAUT_TOOLS": json.dumps({"python": {"modules": known}}),
            "ORDINAUT_CONCURRENCY": str(concurrency),
            # What the test can import, so can its tools.
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ordinaut", name], cwd=folder, env=environ,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )  # fmt: skip

    def wait(self, database: Database, patience: float) -> None:
        """Return when it works."""
        deadline = time.monotonic() + patience
        while not self._works(database):
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = self._log.read_text(errors="replace").strip().splitlines()[-5:]
                raise SuiteError(f"the {self._name} does not start: " + " / ".join(last))
            time.sleep(_LOOK)

    def _works(self, database: Database) -> bool:
        if self._name == "worker":
            return any(w["state"] == "alive" for w in calls.worker_status(database.conn))
        return bool(database.rows(_SCHEDULERS))

    def end(self) -> None:
        """Let it finish, then make it."""
        self._process.terminate()
        try:
            self._process.wait(_DRAIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def get_task(pool: Pool, task: TaskLike) -> TaskStatus:
    """Return how a run stands.

    Raises:
        NotFound: there is none.
    """
    with opened(pool) as database:
        run = calls.get_run(database.conn, task_id(task))
        context = execution_context(database, task)
    return TaskStatus(
        task_uuid=run.run_id,
        status=_STATUS.get(run.state, run.state),
        execution_status=context["execution_status"],
        completion_percentage=float(context["completion_percentage"]),
        total_steps=context["total_steps"],
        completed_steps=context["completed_steps"],
        failed_steps=context["failed_steps"],
        output=run.output,
        error=run.error,
    )


def wait_for_completion(
    client: SuiteClient | Pool, task: TaskLike, timeout: float = 30.0
) -> TaskStatus:
    """Return how a run has ended.

    Raises:
        WaitTimeout: it has not within `timeout` seconds; it goes on.
    """
    deadline = time.monotonic() + timeout
    with opened(client.db if isinstance(client, SuiteClient) else client) as database:
        while (run := calls.get_run(database.conn, task_id(task))).state not in ENDED:
            if time.monotonic() > deadline:
                raise WaitTimeout(f"task {task_id(task)} is {run.state} after {timeout:g} s")
            time.sleep(_LOOK)
        return get_task(database, task)
