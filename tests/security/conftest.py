"""
A server as a careful DBA runs it: roles from deploy/roles.sql, an installer that is no superuser,
and a login for each role.  The server logs every statement.

    city      the server, one for all these tests
    town      a database of the test's own on it, with Ordinaut: town.login("worker") connects
    rows      runs a statement and says what came of it: rows, or a SQLSTATE
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ordinaut import schema
from ordinaut.testing.postgres import memory
from tests import postgres
from tests.loops.conftest import worker

__all__ = ["worker"]

ROOT = Path(__file__).parents[2]
ROLES = (ROOT / "deploy/roles.sql").read_text()
# a login: the role that it is a member of
LOGINS = {
    "viewer": "ordinaut_viewer",
    "producer": "ordinaut_producer",
    "worker": "ordinaut_worker",
    "rival": "ordinaut_worker",
    "admin": "ordinaut_admin",
    "deployer": "ordinaut_owner",
    "stranger": None,
}
Conn = psycopg.Connection[Any]


class Town:
    """One database of the city."""

    def __init__(self, dsn: str, stack: contextlib.ExitStack) -> None:
        self.dsn = dsn
        self._stack = stack

    def dsn_of(self, login: str, **more: str) -> str:
        return make_conninfo(self.dsn, user=login, **more)

    def login(self, login: str = "postgres", **more: str) -> Conn:
        """Connect as a login; postgres is the DBA."""
        conn = psycopg.connect(self.dsn_of(login, **more), autocommit=True)
        return self._stack.enter_context(contextlib.closing(conn))


@pytest.fixture(scope="session")
def city(server: postgres.Server) -> Iterator[postgres.EmbeddedPostgres]:
    options = {"log_statement": "all", "log_min_duration_statement": "0", "autovacuum": "off"}
    bindir = server.bindir or postgres.find_bindir()
    pg = postgres.EmbeddedPostgres(None, bindir, options, fsync=False, scratch=memory())
    with pg, psycopg.connect(pg.dsn, autocommit=True) as dba:
        dba.execute(ROLES)
        for login, role in LOGINS.items():
            dba.execute(f"create role {login} login")
            if role:
                dba.execute(f"grant {role} to {login}")
        dba.execute("create database capital")
        dba.execute("grant create on database capital to deployer")
        with psycopg.connect(make_conninfo(pg.dsn_of("capital"), user="deployer")) as deployer:
            schema.install(deployer)
        yield pg


@pytest.fixture
def town(city: postgres.EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Town]:
    with psycopg.connect(city.dsn, autocommit=True) as dba:
        dba.execute("create database town template capital")
        with contextlib.ExitStack() as opened:
            yield Town(city.dsn_of("town"), opened)
        dba.execute("drop database town with (force)")


def told(conn: Conn, query: str, *args: Any) -> Any:
    """Return the rows of a statement, or the SQLSTATE that it was refused with."""
    try:
        cur = conn.execute(query, args or None)
        return cur.fetchall() if cur.description else []
    except psycopg.Error as exc:
        return exc.sqlstate


@pytest.fixture
def rows() -> Callable[..., Any]:
    return told
