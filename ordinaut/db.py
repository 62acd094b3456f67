"""
Connect to PostgreSQL: the only psycopg.connect of what runs in production.

Every connection has a name that pg_stat_activity shows, gives up on a dead peer within seconds
and on a lock within `lock_timeout`, speaks UTC and UTF-8, and lands on a server that accepts
writes: after a failover a DSN with several hosts finds the new primary by itself.

Behind a pooler in transaction mode (`pooled=True`) a session is nobody's: nothing may be set
for it, nothing may be prepared in it, and PgBouncer refuses start-up options that it does not
track.  So none are sent.  Give the role its timeouts instead:

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
        pooled: a pooler in transaction mode stands between: see the head of this module.
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
    if not pooled:
        options = {
            "TimeZone": "UTC",
            "lock_timeout": _ms(lock_timeout),
            "statement_timeout": _ms(statement_timeout),
            "idle_in_transaction_session_timeout": _ms(idle_in_transaction),
        }
        ours = " ".join(f"-c {key}={value}" for key, value in options.items())
        # The last one wins, and that is what the user wrote.
        params["options"] = f"{ours} {given.pop('options', '')}".strip()
    return psycopg.connect(
        **(params | given | {"application_name": name}),
        autocommit=autocommit,
        prepare_threshold=None if pooled else prepare_threshold,
    )


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
