"""
The pytest plugin: a private database per test, a clock to turn, and an engine without processes.

    ordinaut_db             a Database of the test's own, installed, dropped afterwards
    ordinaut_client         an Ordinaut client on it
    ordinaut_worker         a WorkRunner: runs tools in this process
    ordinaut_scheduler      a SchedulerService: fires what is due
    ordinaut_clock          a Clock that stands still until the test moves it
    ordinaut_session        makes Sessions: named races, interleaved as a script says
    ordinaut_orchestrator   a TestOrchestrator: drives the steps of workflows one by one

The server is found or started at the first test that needs one; testing/postgres.py says where.
This module is imported by every pytest run of the environment that Ordinaut is installed in, so
until then it imports nothing, starts nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ordinaut.client import Ordinaut
    from ordinaut.testing.clock import Clock
    from ordinaut.testing.database import Database
    from ordinaut.testing.inline import SchedulerService, WorkRunner
    from ordinaut.testing.orchestrator import TestOrchestrator
    from ordinaut.testing.postgres import Databases, Server
    from ordinaut.testing.races import Session


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register our one line of pytest.ini."""
    parser.addini(
        "ordinaut_modules",
        "modules of tools that ordinaut_worker may call as python:module.function",
        type="linelist",
    )


@pytest.fixture(scope="session")
def ordinaut_server() -> Iterator[Server]:
    """The server of this pytest process."""
    from contextlib import ExitStack

    from ordinaut.errors import ConfigurationError
    from ordinaut.testing import postgres
    from ordinaut.testing.environment import as_test

    with ExitStack() as keep:
        try:
            keep.enter_context(as_test())
            server = postgres.start()
        except (ConfigurationError, postgres.NoServer) as no:
            pytest.fail(" ".join([str(no), getattr(no, "hint", "")]), pytrace=False)
        keep.callback(server.stop)
        yield server


@pytest.fixture(scope="session")
def ordinaut_databases(ordinaut_server: Server) -> Iterator[Databases]:
    """What makes and drops databases on the server."""
    from contextlib import closing

    from ordinaut.testing.postgres import Databases

    made = Databases(ordinaut_server.dsn, f"{ordinaut_server.run}_kit")
    with closing(made):
        yield made


@pytest.fixture(scope="session")
def ordinaut_template(ordinaut_databases: Databases) -> str:
    """The name of an installed database to clone; override it to add tables of your own."""
    from ordinaut.testing import postgres

    name = ordinaut_databases.named("template")
    dsn = ordinaut_databases.dsn_of(name)
    postgres.install(dsn)
    postgres.install_clock(dsn)
    return name


@pytest.fixture
def ordinaut_db(ordinaut_databases: Databases, ordinaut_template: str) -> Iterator[Database]:
    """A database of the test's own."""
    from ordinaut.testing.database import Database

    with ordinaut_databases.fresh(ordinaut_template) as dsn:
        database = Database(dsn)
        yield database
        database.close()


@pytest.fixture
def ordinaut_client(ordinaut_db: Database) -> Ordinaut:
    """A client, as the application has one."""
    return ordinaut_db.client()


@pytest.fixture
def ordinaut_worker(ordinaut_db: Database, pytestconfig: pytest.Config) -> Iterator[WorkRunner]:
    """A worker in this process; it works when it is told to."""
    from ordinaut.testing.inline import WorkRunner

    with WorkRunner(ordinaut_db, modules=pytestconfig.getini("ordinaut_modules")) as worker:
        yield worker


@pytest.fixture
def ordinaut_scheduler(ordinaut_db: Database) -> Iterator[SchedulerService]:
    """A scheduler in this process; it fires what is due when it is told to."""
    from ordinaut.testing.inline import SchedulerService

    with SchedulerService(ordinaut_db) as scheduler:
        yield scheduler


@pytest.fixture
def ordinaut_clock(ordinaut_db: Database, ordinaut_worker: WorkRunner) -> Iterator[Clock]:
    """The clock of ordinaut_db, standing still from now on."""
    from ordinaut.testing.clock import Clock

    clock = Clock(ordinaut_db, ordinaut_worker)
    yield clock
    clock.close()


@pytest.fixture
def ordinaut_session(ordinaut_db: Database) -> Iterator[Callable[[str], Session]]:
    """ordinaut_session("worker"): a connection with a thread of its own, for a race."""
    from contextlib import ExitStack, closing

    from ordinaut.testing.races import Session

    with ExitStack() as opened:

        def make(name: str) -> Session:
            return opened.enter_context(closing(Session(name, ordinaut_db.dsn)))

        yield make


@pytest.fixture
def ordinaut_orchestrator(ordinaut_db: Database) -> TestOrchestrator:
    """Drives the steps of workflows one by one."""
    from ordinaut.testing.orchestrator import TestOrchestrator

    return TestOrchestrator(ordinaut_db)
