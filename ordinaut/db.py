"""
Connect to PostgreSQL: the only psycopg.connect of what runs in production.

Every connection has a name that pg_stat_activity shows, gives up on a dead peer within seconds
and on a lock within `lock_timeout`, speaks UTC and UTF-8, and lands on a server that accepts
writes: after a failover a DSN with several hosts finds the new primary by itself.

Behind a pooler in transaction mode a session is nobody's: nothing may be set for it, nothing may
be prepared in it, and PgBouncer refuses start-up options that it does not track.  A pooler need
not be announced: it makes up the process id of its answer to a login, so the id that the server
itself tells is another one, and what looks like a pooler is never trusted with a session.  Give
the role its timeouts instead:

    alter role app set lock_timeout = '5s';
    alter role app set idle_in_transaction_session_timeout = '60s';
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

Connection = psycopg.Connection[Any]


class _Ours(psycopg.Connection[Any]):
    pooled = False


# What PgBouncer says of an option that it does not know; libpq has no SQLSTATE for it.
_UNTRACKED = "unsupported startup parameter"

# Same call again, soon: the server said that nothing happened.
AGAIN = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)


def connect(
    dsn: str,
    *,
    name: str,
    autocommit: bool = True,
    pooled: bool = False,
    connect_timeout: timedelta = timedelta(seconds=10),
    lock_timeout: timedelta = timedelta(seconds=5),
    statement_timeout: timedelta | None = timedelta(seconds=60),
    idle_in_transaction: timedelta | None = timedelta(seconds=60),
    peer_timeout: timedelta = timedelta(seconds=20),
    prepare_threshold: int | None = 2,
) -> Connection:
    """Open a connection.

    Args:
        dsn: a libpq conninfo string or URL; what it says wins over what is said here, except
            for the name.
        name: application_name; cut to 63 bytes by the server.
        pooled: a pooler stands between; one that can be found out need not be announced.
        connect_timeout: per host of the DSN; whole seconds, at least 2.
        statement_timeout: None for none.
        idle_in_transaction: the server ends a transaction that idles for longer; None for never.
        peer_timeout: how long a peer may leave sent data unanswered before the socket is dead.
        prepare_threshold: prepare a statement after so many executions; None for never.

    Raises:
        psycopg.OperationalError: no host answers, refuses us, or accepts writes.
    """
    given = conninfo_to_dict(dsn)
    params: dict[str, Any] = {
        "connect_timeout": max(2, int(connect_timeout.total_seconds())),
        "client_encoding": "UTF8",
        "target_session_attrs": "read-write",
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": _ms(peer_timeout),
    }
    session = {
        "TimeZone": "UTC",
        "lock_timeout": _ms(lock_timeout),
        "statement_timeout": _ms(statement_timeout),
        "idle_in_transaction_session_timeout": _ms(idle_in_transaction),
    }
    ours = " ".join(f"-c {key}={value}" for key, value in session.items())
    params |= given | {"application_name": name}
    # The last one wins, and that is what the user wrote.
    direct = params | {"options": f"{ours} {given.get('options', '')}".strip()}
    try:
        conn = _open(params if pooled else direct)
    except psycopg.OperationalError as exc:
        if pooled or _UNTRACKED not in str(exc):
            raise
        conn = _open(params)
    conn.pooled = pooled or _is_behind_pooler(conn)
    conn.prepare_threshold = None if conn.pooled else prepare_threshold
    conn.autocommit = autocommit
    return conn


def is_pooled(conn: Connection) -> bool:
    """Say whether `connect` found that a pooler stands between."""
    return isinstance(conn, _Ours) and conn.pooled


def _open(params: dict[str, Any]) -> _Ours:
    return _Ours.connect(**params, autocommit=True, prepare_threshold=None)


def _is_behind_pooler(conn: Connection) -> bool:
    try:
        [(pid,)] = conn.execute("select pg_catalog.pg_backend_pid()").fetchall()
    except BaseException:
        conn.close()
        raise
    return bool(pid != conn.info.backend_pid)


def is_gone(exc: BaseException) -> bool:
    """Say whether the cure for `exc` is a new connection.

    True for a lost or refused connection, a server that stops or starts, a standby, and for
    0A000: a prepared call whose result type an upgrade has changed.
    """
    if isinstance(exc, AGAIN):
        return False
    if isinstance(exc, errors.FeatureNotSupported):
        return "cached plan" in str(exc)
    if isinstance(exc, errors.QueryCanceled):  # a statement timeout: the connection is fine
        return False
    return isinstance(
        exc,
        psycopg.OperationalError | psycopg.InterfaceError | errors.ReadOnlySqlTransaction,
    )


class Backoff:
    """How long to wait before the next attempt to reconnect: doubling, capped, jittered."""

    def __init__(self, base: float = 0.1, cap: float = 10.0) -> None:
        self.base, self.cap = base, cap
        self.failures = 0

    def next(self) -> float:
        """Count a failure and return the seconds to wait: half to all of the doubled delay."""
        delay = min(self.cap, self.base * 2 ** min(self.failures, 20))
        self.failures += 1
        return float(delay * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        self.failures = 0


def _ms(value: timedelta | None) -> int:
    return 0 if value is None else max(1, int(value.total_seconds() * 1000))
