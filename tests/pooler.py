"""
The suite through PgBouncer in transaction mode: ORDINAUT_TEST_POOLER=1, `make pooler`.

Every test database is then reached through a pooler, which gives the server's session to somebody
else after each transaction.  Clients prepare nothing.  Two things of the tests themselves would
live in a session, and are told anew to each transaction instead:

    the clock   ordinaut.now() reads what `alter database … set test.now` last said, from the
                catalog and not from the session; where that says nothing, test.now as ever
    a race      a Session remembers its settings and says `set local` as each transaction begins

What cannot be done through such a pooler at all is in CANNOT, and left out by name.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from ordinaut.embedded import _Unprivileged
from ordinaut.testing import races
from ordinaut.testing.postgres import Databases
from ordinaut.testing.races import Session

# Start of a test's id: why no pooler in transaction mode can carry it.
CANNOT: dict[str, str] = {
    "tests/races/test_guard_notify.py": "listens, and what is heard belongs to a session",
    "tests/races/test_permutations.py": (
        "turns a session's clock in the midst, and asks which server process waits for which"
    ),
    "tests/loops/test_trouble.py::test_a_terminated_connection_loses_nothing": (
        "ends the server's sessions by application name, and one of them is lent to the test"
    ),
}

CLOCK = """
create or replace function ordinaut.now()
returns timestamptz
language sql
stable
parallel safe
as $fn$
  select coalesce(
    nullif(
      coalesce(
        (
          select substr(s.setting, length('test.now=') + 1)
          from pg_db_role_setting as d
          cross join unnest(d.setconfig) as s (setting)
          where
            d.setrole = 0
            and d.setdatabase = (select oid from pg_database where datname = current_database())
            and s.setting like 'test.now=%'
        ),
        current_setting('test.now', true)
      ),
      ''
    )::timestamptz,
    statement_timestamp()
  );
$fn$;
"""

_INI = """
[databases]
* = {server}
[pgbouncer]
pool_mode = {mode}
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users
auth_user = postgres
admin_users = postgres
max_client_conn = 500
default_pool_size = {size}
{more}
"""


def wanted() -> bool:
    return os.environ.get("ORDINAUT_TEST_POOLER", "0") not in ("", "0")


def find() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class Pooler:
    """A PgBouncer before one server: `dsn_of` leads through it, `admin` to its console."""

    def __init__(
        self, server: str, bindir: Path, mode: str = "transaction", size: int = 20, more: str = ""
    ) -> None:
        program = find()
        assert program, "no pgbouncer: apt-get install pgbouncer"
        self.folder = Path(tempfile.mkdtemp(prefix="ordinaut-pooler-"))
        given = conninfo_to_dict(server)
        self._server = given
        names = {"host", "port", "user", "password"}
        (self.folder / "users").write_text('"postgres" ""\n')
        (self.folder / "ini").write_text(
            _INI.format(
                server=" ".join(f"{key}={given[key]}" for key in names & given.keys()),
                folder=self.folder, mode=mode, size=size, more=more,
            )
        )  # fmt: skip
        user = _Unprivileged(bindir, self.folder)
        user.give(self.folder)
        self._command = [*user.command(Path(program)), "-q", str(self.folder / "ini")]
        self.log = self.folder / "log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, stdout=log)
        for _ in range(500):  # libpq itself waits for nobody to listen
            try:
                self.admin("show version")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log.read_text()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.02)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def dsn_of(self, database: str) -> str:
        through: dict[str, Any] = {"host": str(self.folder), "port": 6432, "dbname": database}
        return make_conninfo("", **(self._server | through))

    def admin(self, command: str) -> list[Any]:
        """Say something to the console."""
        dsn = self.dsn_of("pgbouncer")
        with psycopg.connect(make_conninfo(dsn, user="postgres"), autocommit=True) as conn:
            cursor = conn.execute(command)
            return cursor.fetchall() if cursor.description else []


def pytest_configure() -> None:
    # Of the clients of tests; those of the product find out by themselves.
    psycopg.connect = functools.partial(psycopg.connect, prepare_threshold=None)
    races.Session = PooledSession  # type: ignore[misc]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [item for item in items if item.nodeid.startswith(tuple(CANNOT))]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def pytest_report_header() -> list[str]:
    return [
        "through PgBouncer in transaction mode; left out:",
        *(f"  {test}: {reason}" for test, reason in CANNOT.items()),
    ]


class PooledDatabases(Databases):
    """Databases that tests reach through the pooler, and we directly."""

    def __init__(self, dsn: str, prefix: str, pooler: Pooler) -> None:
        super().__init__(dsn, prefix)
        self._pooler = pooler

    def lend(self, database: str) -> str:
        return self._pooler.dsn_of(database)


class PooledSession(Session):
    """A race's session whose settings hold for each of its transactions, not for the server's."""

    def _begin(self, **settings: str) -> None:
        self._settings = settings

    @property
    def pid(self) -> int:
        """The server process that has our transaction; 0: none yet."""
        with psycopg.connect(self._dsn, autocommit=True) as watch:
            found = watch.execute(
                "select a.pid from pg_stat_activity as a where a.application_name = %s"
                " and a.datname = current_database() and a.xact_start is not null",
                [self.name],
            ).fetchone()
            return found[0] if found else 0

    def _execute(self, query: str, args: tuple[Any, ...]) -> list[Any]:
        if self.conn.info.transaction_status == TransactionStatus.IDLE:
            for name, value in self._settings.items():
                # Not set_config(): a query would fix the snapshot of a repeatable read.
                self.conn.execute(f"set local {name} = '{value}'")
        return super()._execute(query, args)

    def at(self, when: str) -> Session:
        self._settings["test.now"] = when
        return self.commit()
