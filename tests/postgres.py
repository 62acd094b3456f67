"""
The databases of this suite: those of ordinaut.testing.postgres, under names of three kinds.

    <run>_<worker>_prod      installed, as shipped: the template of `prod_dsn`
    <run>_<worker>_test      the same with a clock to turn: the template of `dsn`
    <run>_<worker>_shared    a clone for tests that roll back: `conn`, the psql stories

Without a server the run ends with a sentence that says why; nothing skips.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import psycopg

from ordinaut.binaries import EmbeddedError, find_bindir
from ordinaut.embedded import EmbeddedPostgres
from ordinaut.testing import postgres
from ordinaut.testing.postgres import (
    Databases,
    NoServer,
    Server,
    drop_all,
    install_clock,
    private,
    start,
)

__all__ = [
    "Databases",
    "EmbeddedPostgres",
    "NoServer",
    "Server",
    "drop_all",
    "find_bindir",
    "install",
    "install_clock",
    "one",
    "private",
    "psql",
    "start",
]


def install(dsn: str) -> None:
    postgres.install(dsn)
    if mutant := os.environ.get("ORDINAUT_TEST_MUTANT"):  # a file of SQL: tests/mutants
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(Path(mutant).read_bytes())


def psql(bindir: Path | None) -> str:
    """Return the psql to run: the server's own or that of local binaries, else the one on PATH."""
    with contextlib.suppress(EmbeddedError):
        bindir = bindir or find_bindir()
    own = bindir and shutil.which("psql", path=str(bindir))
    found = own or shutil.which("psql")
    assert found, "no psql: it comes with ordinaut[embedded] and with postgresql-client"
    return found


def one(conn: psycopg.Connection[Any], query: str, *args: Any) -> Any:
    """Run a query and return the only column of its only row."""
    ((value,),) = conn.execute(query, args or None).fetchall()
    return value
