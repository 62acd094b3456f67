"""
Fixtures that every test may use.  tests/postgres.py tells where the server comes from.

    conn         a transaction on a shared database, rolled back; ordinaut.now() reads test.now
    dsn          a database of the test's own, with the same clock, dropped afterwards
    session      makes Sessions on `dsn` (tests/races.py)
    prod_dsn     a database of the test's own, exactly as shipped: for real processes
    clean_dsn    an empty database, nothing installed
    private_pg   a server of the test's own, to stop, crash and start
    psql         the path of psql

The fixtures that we ship (ordinaut/testing/plugin.py) work on the same server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import ordinaut.errors  # noqa: F401  psycopg raises our classes once they are declared
from ordinaut.testing import plugin, races
from ordinaut.testing.environment import as_test
from tests import pooler, postgres
from tests.races import Session

_SERVER: pytest.StashKey[postgres.Server] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    # Where the package is installed, its entry point has done so.
    if not config.pluginmanager.has_plugin("ordinaut"):
        config.pluginmanager.register(plugin, "ordinaut")
    if pooler.wanted():
        config.pluginmanager.register(pooler, "pooler")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the server is; the controller owns it."""
    server = _server(node.config)
    node.workerinput["ordinaut_pg"] = (server.dsn, str(server.bindir or ""), server.run)


def pytest_unconfigure(config: pytest.Config) -> None:
    server = config.stash.get(_SERVER, None)
    if server is not None:
        server.stop()


def _server(config: pytest.Config) -> postgres.Server:
    if _SERVER not in config.stash:
        try:
            config.stash[_SERVER] = postgres.start()
        except postgres.NoServer as none:
            pytest.exit(str(none), returncode=pytest.ExitCode.USAGE_ERROR)
    return config.stash[_SERVER]


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> postgres.Server:
    """The server of this pytest run, owned by its first process."""
    told = getattr(pytestconfig, "workerinput", {}).get("ordinaut_pg")
    if told is None:
        return _server(pytestconfig)
    dsn, bindir, run = told
    server = postgres.Server(dsn, Path(bindir) if bindir else None, contextlib.ExitStack())
    server.run = run
    return server


@pytest.fixture(scope="session")
def databases(server: postgres.Server, pytestconfig: pytest.Config) -> Iterator[postgres.Databases]:
    worker = getattr(pytestconfig, "workerinput", {}).get("workerid", "main")
    with contextlib.ExitStack() as keep:
        prefix = f"{server.run}_{worker}"
        if pooler.wanted():
            between = pooler.Pooler(server.dsn, server.bindir or postgres.find_bindir())
            keep.callback(between.close)
            made = pooler.PooledDatabases(server.dsn, prefix, between)
        else:
            made = postgres.Databases(server.dsn, prefix)
        keep.callback(made.close)
        yield made


@pytest.fixture(scope="session")
def ordinaut_server(server: postgres.Server) -> Iterator[postgres.Server]:
    with as_test():
        yield server


@pytest.fixture(scope="session")
def ordinaut_databases(databases: postgres.Databases) -> postgres.Databases:
    return databases


@pytest.fixture(scope="session")
def ordinaut_template(clock_template: str) -> str:
    return clock_template


@pytest.fixture(scope="session")
def prod_template(databases: postgres.Databases) -> str:
    name = databases.named("prod")
    postgres.install(databases.dsn_of(name))
    return name


@pytest.fixture(scope="session")
def clock_template(databases: postgres.Databases, prod_template: str) -> str:
    name = databases.named("test", prod_template)
    postgres.install_clock(databases.dsn_of(name))
    if pooler.wanted():
        with psycopg.connect(databases.dsn_of(name), autocommit=True) as conn:
            conn.execute(pooler.CLOCK)
    return name


@pytest.fixture(scope="session")
def shared_dsn(databases: postgres.Databases, clock_template: str) -> str:
    """A database for tests that leave nothing behind."""
    return databases.lend(databases.named("shared", clock_template))


@pytest.fixture
def conn(shared_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(shared_dsn)) as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def dsn(databases: postgres.Databases, clock_template: str) -> Iterator[str]:
    with databases.fresh(clock_template) as dsn:
        yield dsn


@pytest.fixture
def prod_dsn(databases: postgres.Databases, prod_template: str) -> Iterator[str]:
    with databases.fresh(prod_template) as dsn:
        yield dsn


@pytest.fixture
def clean_dsn(databases: postgres.Databases) -> Iterator[str]:
    with databases.fresh() as dsn:
        yield dsn


@pytest.fixture
def session(dsn: str) -> Iterator[Callable[..., Session]]:
    with contextlib.ExitStack() as opened:

        def make(name: str, dsn: str = dsn) -> Session:
            return opened.enter_context(contextlib.closing(races.Session(name, dsn)))

        yield make


@pytest.fixture
def private_pg(server: postgres.Server) -> Iterator[postgres.EmbeddedPostgres]:
    with postgres.private(server.bindir or postgres.find_bindir()) as pg:
        yield pg


@pytest.fixture(scope="session")
def psql(server: postgres.Server) -> str:
    return postgres.psql(server.bindir)
