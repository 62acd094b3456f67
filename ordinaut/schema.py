"""
Install and upgrade the database: migrations once each, then all of sql/ again.

Two kinds of file, two rules:

    migrations/NNNN_name.sql   tables and data; applied once, in order, never edited
    sql/*.sql                  functions, views, triggers, grants; `create or replace`d in full
                               on every install

so a table's past is in migrations/ and a function's present is in sql/.  There is no third
place.  `sql/load.sql` is the load order, for psql and for us: the only psql command we
understand is `\\ir file.sql`.

The whole upgrade is one transaction under one advisory lock: callers see the old schema or the
new one, and two deploys at once take turns.  The exception is a migration headed
`-- ordinaut: no transaction` (`create index concurrently`): it runs alone, after those before it
have been committed.  On an empty database there is nobody to disturb, so there it loses its
`concurrently` and runs with the rest.

Prior art: PgQ's structure/*.sql manifests, graphile-worker's `breaking` flag, procrastinate's
schema-equals-migrations test.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from ordinaut.errors import ConfigurationError, VersionSkew, sentence
from ordinaut.groundwork import BEGIN, BOOKS, ENSURE_PARTITIONS, SCHEMA
from ordinaut.version import API, __version__

_HERE = Path(__file__).parent
_INCLUDE = re.compile(r"^\\ir (\S+)\s*$", re.MULTILINE)
_NO_TRANSACTION = re.compile(r"^-- ordinaut: no transaction\s*$", re.MULTILINE)
_CONCURRENTLY = re.compile(r"\bconcurrently\b", re.IGNORECASE)
OLDEST_SERVER = 150000
_DDL_LOCK_TIMEOUT = "500ms"  # everybody queues behind us for so long
_PAUSE = 2.0  # between two attempts, for those who queued, seconds
_LOCK_PATIENCE = 120.0  # how long an install tries to get its table locks, seconds

_Connection = psycopg.Connection[Any]


class SchemaError(ConfigurationError):
    """The database cannot be installed or upgraded, and why."""


class MigrationEdited(SchemaError):
    """A migration that this database already ran has since changed on disk."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def file(self) -> str:
        return f"{self.version:04}_{self.name}.sql"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def alone(self) -> bool:
        return _NO_TRANSACTION.search(self.text) is not None


def migrations(root: Path | None = None) -> list[Migration]:
    """Return every migration, in order."""
    found = []
    for path in sorted(_tree("migrations", root).glob("[0-9]*.sql")):
        version, _, name = path.stem.partition("_")
        found.append(Migration(int(version), name, path.read_text()))
    return found


def code(root: Path | None = None) -> dict[str, str]:
    """Return all of sql/, file name to text, in the order of sql/load.sql."""
    folder = _tree("sql", root)
    order = _INCLUDE.findall((folder / "load.sql").read_text())
    return {name: (folder / name).read_text() for name in order}


def code_sha256(root: Path | None = None) -> str:
    """Return the digest that ordinaut.loaded_code has for this code."""
    return hashlib.sha256("\n".join(code(root).values()).encode()).hexdigest()


def install(conn: _Connection, root: Path | None = None) -> list[Migration]:
    """Bring the database to this version and return the migrations it ran.

    Idempotent.  The connection must have no transaction open.

    Needs the right to create a schema in the database the first time, and to become the owner of
    the schema later; no superuser.

    Raises:
        MigrationEdited: before anything changed.
        VersionSkew: the database is newer than this package; nothing changed.
        SchemaError: server too old, rights missing, a schema that is not ours, or the tables
            stayed locked by others for two minutes; nothing changed.
    """
    _check_server(conn.info.server_version)
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise SchemaError("install needs a connection without an open transaction")
    ran: list[Migration] = []
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            with conn.transaction():
                alone = _install(conn, root, ran)
            if alone is None:
                return ran
            ran.append(_run_alone(conn, alone))
        except (errors.LockNotAvailable, errors.DeadlockDetected) as e:
            # Our DDL queues for its lock and everybody queues behind us: give way, come back.
            # And workers lock the tables in an order of their own.
            if time.monotonic() > deadline:
                raise SchemaError(
                    f"the tables of Ordinaut stayed locked by other sessions: {sentence(e)}",
                    "End the transactions that hold them (pg_blocking_pids) and install again.",
                ) from e
            time.sleep(_PAUSE)
        except errors.InsufficientPrivilege as e:
            raise SchemaError(
                f"role {conn.info.user} may not install into database {conn.info.dbname}:"
                f" {sentence(e)}",
                f"As its owner: grant create on database {conn.info.dbname} to {conn.info.user};"
                " to upgrade, connect as the role that installed Ordinaut.",
            ) from e


def check_api(conn: _Connection) -> None:
    """Refuse a database that lacks the engine or speaks another API than this package.

    Raises:
        SchemaError: Ordinaut is not installed there.
        VersionSkew: another API.  Exit 75.
    """
    _check_server(conn.info.server_version)
    try:
        found = _one(conn, "select to_regclass('ordinaut.loaded_code') is not null")
        api = found and _one(conn, "select api from ordinaut.loaded_code order by at desc limit 1")
    except errors.InsufficientPrivilege:
        return  # a role that may only call functions: register_worker compares for it
    if not api:
        raise SchemaError(
            f"Ordinaut is not installed in database {conn.info.dbname}", "Run: ordinaut install"
        )
    if api != API:
        raise VersionSkew(
            f"database {conn.info.dbname} speaks API {api}, this package ({__version__}) API {API}."
            + (" Upgrade the package." if api > API else " Run: ordinaut install")
        )


def _install(conn: _Connection, root: Path | None, ran: list[Migration]) -> Migration | None:
    """Do what one transaction can; return the migration that must run alone after it."""
    # After the lock we must see what the install before us has committed.
    conn.execute("set transaction isolation level read committed")
    conn.execute(BEGIN)
    conn.execute(SCHEMA)
    pending, fresh = _pending(conn, root)
    if not fresh:
        _refuse_pooler(conn, [m for m in pending if m.alone])
    conn.execute(f"set local lock_timeout = '{_DDL_LOCK_TIMEOUT}'")
    conn.execute(BOOKS)
    done: list[Migration] = []
    for m in pending:
        if m.alone and not fresh:
            ran += done
            return m
        _run(conn, f"migrations/{m.file}", quietly(m) if fresh else m.text)
        _record(conn, m)
        done.append(m)
    _load_code(conn, root)
    ran += done
    return None


def _pending(conn: _Connection, root: Path | None) -> tuple[list[Migration], bool]:
    """Return the migrations to run, and whether the database has nothing of ours yet."""
    known = migrations(root)
    if not _one(conn, "select to_regclass('ordinaut.schema_migration') is not null"):
        return known, _refuse_foreign(conn)
    done = {
        version: (name, sha256)
        for version, name, sha256 in conn.execute(
            "select m.version, m.name, m.sha256 from ordinaut.schema_migration as m"
        )
    }
    if not done:
        raise SchemaError(
            "schema ordinaut is half installed: schema_migration is there, and empty",
            "Nothing of it can be in use. Drop the schema and install again.",
        )
    ahead = sorted(set(done) - {m.version for m in known})
    if ahead:
        raise VersionSkew(
            f"database {conn.info.dbname} has migration {ahead[-1]:04}_{done[ahead[-1]][0]}, which"
            f" this package ({__version__}) does not know. Upgrade the package."
        )
    for m in known:
        if m.version in done and done[m.version][1] != m.sha256:
            raise MigrationEdited(
                f"migrations/{m.file} has changed since this database ran it",
                "Restore the released file; a change of the tables is a new migration.",
            )
    late = [m for m in known if m.version not in done and m.version < max(done)]
    if late:
        raise SchemaError(
            f"migrations/{late[0].file} was skipped: this database has already run {max(done):04}",
            "Give the new migration the next number.",
        )
    if _one(conn, "select to_regclass('ordinaut.loaded_code') is not null"):
        api = _one(conn, "select api from ordinaut.loaded_code order by at desc limit 1")
        if api is not None and api > API:
            raise VersionSkew(
                f"database {conn.info.dbname} speaks API {api}, this package ({__version__}) only"
                f" API {API}. Upgrade the package."
            )
    return [m for m in known if m.version not in done], False


def _refuse_foreign(conn: _Connection) -> bool:
    found = [
        name
        for (name,) in conn.execute(
            "select c.relname::text from pg_class as c"
            " where c.relnamespace = to_regnamespace('ordinaut')"
            " union all select p.proname::text from pg_proc as p"
            " where p.pronamespace = to_regnamespace('ordinaut') order by 1 limit 3"
        )
    ]
    if found:
        raise SchemaError(
            f"schema ordinaut in database {conn.info.dbname} is not one of ours: it has"
            f" {', '.join(found)} and no schema_migration",
            "Drop or rename that schema, or use another database.",
        )
    return True


def _refuse_pooler(conn: _Connection, alone: list[Migration]) -> None:
    """What runs outside a transaction needs a session, which a pooler gives to others."""
    if alone and _one(conn, "select pg_backend_pid()") != conn.info.backend_pid:
        raise SchemaError(
            f"migrations/{alone[0].file} runs outside a transaction, and a pooler stands between"
            f" here and database {conn.info.dbname}",
            "Nothing was changed. Install with a --dsn that leads to the server itself.",
        )


def _load_code(conn: _Connection, root: Path | None) -> None:
    for name, text in code(root).items():
        _run(conn, f"sql/{name}", text)
    now = (__version__, code_sha256(root), API)
    latest = "select version, sha256, api from ordinaut.loaded_code order by at desc limit 1"
    before = conn.execute(latest).fetchone()
    if before is not None and before[2] != API:
        conn.execute("update ordinaut.worker set is_stale = true")
    if before != now:
        conn.execute(
            "insert into ordinaut.loaded_code (version, sha256, api, at)"
            " values (%s, %s, %s, statement_timestamp())",
            now,
        )
    conn.execute(ENSURE_PARTITIONS)


def _run(conn: _Connection, file: str, text: str) -> None:
    try:
        conn.execute(text)
    except (errors.LockNotAvailable, errors.InsufficientPrivilege, psycopg.OperationalError):
        raise
    except psycopg.Error as e:
        at = e.diag.statement_position
        line = f" line {text[: int(at)].count(chr(10)) + 1}" if at else ""
        raise SchemaError(
            f"{file}{line}: {sentence(e)}",
            "Nothing was changed. Was the schema edited by hand? Compare it with ordinaut doctor.",
        ) from e


def _record(conn: _Connection, m: Migration) -> None:
    conn.execute(
        "insert into ordinaut.schema_migration (version, name, sha256, applied_at)"
        " values (%s, %s, %s, statement_timestamp())",
        [m.version, m.name, m.sha256],
    )


def _run_alone(conn: _Connection, m: Migration) -> Migration:
    """Run a migration statement by statement, each in a transaction of its own.

    A session lock, since there is no transaction to hold the other kind.  A failure leaves the
    migration unrecorded, so its file must be able to run again.
    """
    was = conn.autocommit
    conn.autocommit = True
    try:
        conn.execute("set lock_timeout = 0")
        conn.execute("select pg_advisory_lock(hashtext('ordinaut.schema'))")
        conn.execute(
            "select set_config('role', pg_get_userbyid(n.nspowner), false) from pg_namespace as n"
            " where n.nspname = 'ordinaut' and pg_has_role(current_user, n.nspowner, 'member')"
        )
        try:
            done = "select from ordinaut.schema_migration as m where m.version = %s"
            if conn.execute(done, [m.version]).fetchone() is None:
                for statement in re.split(r"(?<=;)[ \t]*\n", m.text):
                    if re.sub(r"--.*", "", statement).strip():
                        _run(conn, f"migrations/{m.file}", statement)
                _record(conn, m)
        finally:
            conn.execute("select pg_advisory_unlock(hashtext('ordinaut.schema'))")
            conn.execute("reset lock_timeout")
            conn.execute("reset role")
    finally:
        conn.autocommit = was
    return m


def quietly(m: Migration) -> str:
    """The migration for a database that nobody uses yet."""
    return _CONCURRENTLY.sub("", m.text) if m.alone else m.text


def _check_server(version: int) -> None:
    if version < OLDEST_SERVER:
        raise SchemaError(
            f"Ordinaut needs PostgreSQL 15 or newer, this server is {version // 10000}",
            "Upgrade the server, or use another one.",
        )


def _one(conn: _Connection, query: LiteralString) -> Any:
    row = conn.execute(sql.SQL(query)).fetchone()
    return row[0] if row else None


def _tree(name: str, root: Path | None = None) -> Path:
    """The packaged copy in a wheel, the repository's own folder in a checkout."""
    if root is not None:
        return root / name
    packaged = _HERE / f"_{name}"
    return packaged if packaged.is_dir() else _HERE.parent / name


def _main(arguments: list[str]) -> None:
    match arguments:
        case ["bundle"]:
            from ordinaut.bundle import bundle

            sys.stdout.write(bundle())
        case ["install", dsn]:
            with psycopg.connect(dsn, autocommit=True) as conn:
                for m in install(conn):
                    print(m.file)
        case _:
            sys.exit("usage: python -m ordinaut.schema bundle > ordinaut.sql | install DSN")


if __name__ == "__main__":
    _main(sys.argv[1:])
