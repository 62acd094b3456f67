"""Operating the engine: time, queues, housekeeping, and asking it about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row, scalar_row

from ordinaut.calls.base import Conn, rows, scalar, view
from ordinaut.calls.task import Interval


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick did, and when the next firing is due (None: nothing is planned)."""

    fired: int
    missed: int
    next_run: datetime | None
    floor: datetime | None
    at: datetime  # the server's clock: next_run - at is how long to sleep


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much of what went."""

    what: str
    n: int


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why something has not run; `ready` if there is none."""

    reason: str
    detail: str | None
    since: datetime | None
    until: datetime | None
    subject: str | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong; severity: critical, warning, info, or ok: a check found nothing."""

    problem: str
    severity: str
    subject: str | None
    detail: str
    since: datetime | None
    evidence: dict[str, Any] | None
    act: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """The server as this connection sees it."""

    version: str
    version_num: int
    database: str
    role: str
    is_superuser: bool
    can_create: bool
    timezone: str
    now: datetime
    in_recovery: bool
    schema_usage: bool | None  # None: there is no schema ordinaut


@dataclass(frozen=True, slots=True)
class Installed:
    """What the installer recorded last."""

    version: str
    api: int
    sha256: str
    at: datetime


def tick(conn: Conn, limit: int | None = None, floor: datetime | None = None) -> Ticked:
    """Fire what is due.

    Any number of callers may tick; an occurrence fires once.

    Args:
        limit: at most so many tasks; None: 1000.
        floor: a hint, the one that the last call returned; None now and then, because a task
            may be planned in the past.

    Returns:
        next_run: when the next is due; in the past, there is more to fire.

    Source: sql/tick.sql, ordinaut.tick
    """
    cur = conn.cursor(row_factory=class_row(Ticked))
    found = cur.execute(
        "select t.fired, t.missed, t.next_run, t.floor, ordinaut.now() as at"
        " from ordinaut.tick(p_limit => coalesce(%s, 1000), p_floor => %s) as t",
        [limit, floor],
    ).fetchone()
    assert found is not None
    return found


def prune(conn: Conn, keep: Interval | None = None, limit: int | None = None) -> list[Pruned]:
    """Do one step of keeping house: commit, and call again until there are no rows.

    Args:
        keep: what is older goes; None: 30 days.
        limit: at most so many rows of a table; None: 5000.

    Source: sql/retention.sql, ordinaut.prune
    """
    return rows(conn, Pruned, "prune", keep=keep, limit=limit)


def why(conn: Conn, id: str) -> list[Reason]:
    """Return every reason why a task, run or unit of work has not run.

    Args:
        id: an id, the unique tail of one, or the name of a task.

    Raises:
        NotFound: nothing has it.

    Source: sql/why.sql, ordinaut.why
    """
    return rows(conn, Reason, "why", id=id)


def diagnose(conn: Conn, patience: Interval | None = None, *, all: bool = False) -> list[Problem]:
    """Return what is wrong just now, and who did it; empty: nothing is.

    Args:
        patience: what lasts for less is left out; None: 60 s.
        all: also a row for each check that found nothing.

    Source: sql/diagnose.sql, ordinaut.diagnose
    """
    return rows(conn, Problem, "diagnose", patience=patience, all=all)


def backend_pid(conn: Conn) -> int:
    """Return the process of the server that answers; behind a pooler, not always the same."""
    found = conn.cursor(row_factory=scalar_row).execute("select pg_backend_pid()").fetchone()
    assert isinstance(found, int)
    return found


def pause_queue(conn: Conn, queue: str, note: str | None = None) -> None:
    """Let nobody lease from a queue.

    Source: sql/task.sql, ordinaut.pause_queue
    """
    scalar(conn, "pause_queue", queue=queue, note=note)


def resume_queue(conn: Conn, queue: str, note: str | None = None) -> None:
    """Let a paused queue be leased from again.

    Source: sql/task.sql, ordinaut.resume_queue
    """
    scalar(conn, "resume_queue", queue=queue, note=note)


def set_queue(
    conn: Conn,
    queue: str,
    *,
    max_running: int | None = None,
    max_pending: int | None = None,
    ageing: Interval | None = None,
) -> None:
    """Set the limits of a queue.

    Args:
        max_running: at most so many units of it are on loan.
        max_pending: an enqueue beyond it is refused.
        ageing: work that has waited so long rises by one priority.

    Source: sql/task.sql, ordinaut.set_queue
    """
    scalar(
        conn, "set_queue", queue=queue, max_running=max_running, max_pending=max_pending,
        ageing=ageing,
    )  # fmt: skip


def queue_depth(conn: Conn) -> list[dict[str, Any]]:
    """Return the view queue_depth: a row per queue.  Source: sql/observe.sql"""
    return view(conn, "queue_depth")


def worker_status(conn: Conn) -> list[dict[str, Any]]:
    """Return the view worker_status: a row per worker.  Source: sql/observe.sql"""
    return view(conn, "worker_status")


def late(conn: Conn, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the view late: work and tasks that should have started.  Source: sql/observe.sql"""
    return view(conn, "late", limit)


def server(conn: Conn) -> Server:
    """Return what the server says about itself and about us.  Needs no installed schema."""
    cur = conn.cursor(row_factory=class_row(Server))
    found = cur.execute(
        "select current_setting('server_version') as version,"
        " current_setting('server_version_num')::integer as version_num,"
        " current_database() as database, current_user as role,"
        " (select rolsuper from pg_catalog.pg_roles where rolname = current_user) as is_superuser,"
        " has_database_privilege(current_database(), 'create') as can_create,"
        " current_setting('TimeZone') as timezone, clock_timestamp() as now,"
        " pg_is_in_recovery() as in_recovery,"
        " (select has_schema_privilege(n.oid, 'usage') from pg_catalog.pg_namespace as n"
        "  where n.nspname = 'ordinaut') as schema_usage"
    ).fetchone()
    assert found is not None
    return found


def installed(conn: Conn) -> Installed | None:
    """Return what was installed last, or None where nothing readable is."""
    cur = conn.cursor(row_factory=scalar_row)
    table = cur.execute(
        "select has_table_privilege(c.oid, 'select') from pg_catalog.pg_class as c"
        " where c.oid = to_regclass('ordinaut.loaded_code')"
    ).fetchone()
    if not table:
        return None
    return (
        conn.cursor(row_factory=class_row(Installed))
        .execute(
            "select version, api, sha256, at from ordinaut.loaded_code order by at desc limit 1"
        )
        .fetchone()
    )


def functions(conn: Conn) -> list[dict[str, Any]]:
    """Return name and body of every function in the schema, as the catalog has them."""
    cur = conn.cursor(row_factory=dict_row)
    return cur.execute(
        "select p.proname as name, p.prosrc as body from pg_catalog.pg_proc as p"
        " join pg_catalog.pg_namespace as n on n.oid = p.pronamespace"
        " where n.nspname = 'ordinaut' order by 1"
    ).fetchall()


def same_interval(conn: Conn, left: str, right: str) -> bool:
    """Say whether two texts mean the same interval to PostgreSQL.

    Raises:
        psycopg.errors.DataError: one of them is no interval.
    """
    cur = conn.cursor(row_factory=scalar_row)
    return bool(cur.execute("select %s::interval = %s::interval", [left, right]).fetchone())
