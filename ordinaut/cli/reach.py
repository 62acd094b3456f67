"""What doctor says of the way to the server: poolers, encryption, and where the password lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ordinaut import calls, db
from ordinaut.cli.findings import Finding
from ordinaut.settings import Settings

_LOCAL = ("", "localhost", "127.0.0.1", "::1")


def check(
    conn: db.Connection, again: Callable[[], db.Connection], settings: Settings
) -> Iterator[Finding]:
    """Yield findings about `conn`; `again` opens another one like it."""
    yield _pooler(conn, again, settings)
    yield from _encryption(conn)
    yield from _password(settings)


def _pooler(conn: db.Connection, again: Callable[[], db.Connection], settings: Settings) -> Finding:
    if not _is_behind_one(conn):
        if settings.pooled:
            return Finding(
                "pooler", "warn", "none stands between, and pooled is set: nobody listens",
                act="take pooled out: work then starts when it is enqueued, not at the next poll",
            )  # fmt: skip
        return Finding("pooler", "ok", "none: the server is reached directly")
    said = "one stands between, and leaves us our session"
    if _is_shared(conn, again):
        said = "one in transaction mode stands between: another client got our server process"
    if settings.listen_dsn is None:
        return Finding(
            "pooler", "warn" if settings.notify else "ok",
            f"{said}; workers do not listen through one, and poll",
            act="listen_dsn: the same database without the pooler" if settings.notify else None,
        )  # fmt: skip
    try:
        with db.connect(settings.listen_dsn, name="ordinaut-doctor") as direct:
            if not _is_behind_one(direct):
                return Finding("pooler", "ok", f"{said}; listen_dsn leads around it")
            wrong = "leads to a pooler too"
    except psycopg.Error as exc:
        wrong = "cannot be reached: " + " ".join(str(exc).split())
    return Finding(
        "pooler", "warn", f"{said}; listen_dsn {wrong}",
        act="listen_dsn: the same database without the pooler",
    )  # fmt: skip


def _is_behind_one(conn: db.Connection) -> bool:
    # A pooler makes up the process id that a login is answered with.
    return conn.info.backend_pid != calls.backend_pid(conn)


def _is_shared(conn: db.Connection, again: Callable[[], db.Connection]) -> bool:
    """Prove that sessions change hands: two clients meet one server process, or one meets two.

    The other client holds its process in a transaction, so that ours must be given another.
    """
    ours = {calls.backend_pid(conn)}
    with again() as other, other.transaction():
        theirs = calls.backend_pid(other)
        ours.add(calls.backend_pid(conn))
    return len(ours) > 1 or theirs in ours


def _encryption(conn: db.Connection) -> Iterator[Finding]:
    if conn.pgconn.ssl_in_use:
        yield Finding("encryption", "ok", "TLS")
    elif conn.info.host.startswith("/") or conn.info.host in _LOCAL:
        yield Finding("encryption", "ok", "none, and none needed: the server is on this host")
    else:
        yield Finding(
            "encryption", "warn", f"none to {conn.info.host}: payloads can be read on the way",
            act="sslmode=verify-full in the DSN, and ssl = on at the server",
        )  # fmt: skip


def _password(settings: Settings) -> Iterator[Finding]:
    [source] = [where for name, _, where in settings.sources() if name == "dsn"]
    has_one = bool(conninfo_to_dict(settings.dsn or "").get("password"))
    if has_one and source == "command line":
        yield Finding(
            "password", "warn", "it is on the command line, where every user of this host sees it",
            act="ORDINAUT_DSN in the environment, or ~/.pgpass",
        )  # fmt: skip
    elif has_one and Path(source).is_file() and Path(source).stat().st_mode & 0o077:
        yield Finding(
            "password", "warn", f"it is in {source}, which other users of this host may read",
            act=f"chmod 600 {source}",
        )  # fmt: skip
    elif has_one:
        yield Finding("password", "ok", f"in the DSN, from {source}")
    elif "PGPASSWORD" in os.environ:
        yield Finding("password", "ok", "from PGPASSWORD")


def reaches_standby(dsn: str, pooled: bool) -> bool:
    """Say whether a server answers that accepts no writes, where `db.connect` found none."""
    try:
        with db.connect(
            psycopg.conninfo.make_conninfo(dsn, target_session_attrs="any"),
            name="ordinaut-doctor",
            pooled=pooled,
        ) as conn:
            return calls.server(conn).in_recovery
    except psycopg.Error:
        return False
