"""Connect a worker and put it on the list: what blocks, in a thread that lives as long."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from datetime import timedelta

from psycopg import errors

from ordinaut import calls, db
from ordinaut.exchange import Line
from ordinaut.heartbeat import clock
from ordinaut.version import API, __version__
from ordinaut.workerconfig import WorkerConfig

# What a database answers that has no Ordinaut, half of it, or none for this role.
NOT_INSTALLED = (
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.UndefinedTable,
    errors.InsufficientPrivilege,
)


def enlist(
    config: WorkerConfig,
    tools: Sequence[str],
    known: tuple[bytes, float] | None,
    former: bytes | None,
) -> tuple[Line, bytes, float]:
    """Connect, and register unless the worker is known already.

    Args:
        known: the worker's id, and when the database last proved to know it; None: register
            under a new id.  Always a new one: an answer that was lost may have made the last real.
        former: the id that the worker had before it was fenced.  Its tools are dead, so what it
            held need not wait for its ttl.

    Returns:
        The line, the id, and when (by `clock`) the database knew it.

    Raises:
        VersionSkew: exit 75.
        NOT_INSTALLED, InvalidParameterValue: exit 78.
        psycopg.OperationalError: try again later.
    """
    conn = db.connect(
        config.dsn,
        name=f"ordinaut worker {config.name or ''}".strip(),
        pooled=config.pooled,
        connect_timeout=timedelta(seconds=5),
        lock_timeout=timedelta(seconds=2),
        statement_timeout=timedelta(seconds=10),
    )
    try:
        if known is None:
            if former is not None:
                calls.deregister_worker(conn, uuid.UUID(bytes=former), "stopped")
            known = uuid.uuid4().bytes, clock()
            calls.register_worker(
                conn,
                uuid.UUID(bytes=known[0]),
                config.queues,
                tools,
                name=config.name or f"{socket.gethostname()} {os.getpid()}",
                version=__version__,
                api=API,
                ttl=timedelta(seconds=config.ttl),
                concurrency=config.concurrency,
            )
        listen = config.notify and config.listen_dsn is None and not db.is_pooled(conn)
        return Line(conn, listen=listen), *known
    except BaseException:
        conn.close()
        raise
