"""pg_cron's table, where it is: another extension's, read and never written."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row, scalar_row

from ordinaut.calls.base import Conn


@dataclass(frozen=True, slots=True)
class PgCronJob:
    """A row of cron.job."""

    jobid: int
    schedule: str
    command: str
    nodename: str
    database: str
    username: str
    active: bool
    jobname: str | None


@dataclass(frozen=True, slots=True)
class PgCron:
    """The jobs that this role may see, and where they were read."""

    database: str
    role: str
    timezone: str
    jobs: list[PgCronJob]


def pg_cron(conn: Conn) -> PgCron | None:
    """Return the jobs of pg_cron, or None where there is no table cron.job.

    A role that does not bypass row security sees its own jobs only.  Versions before 1.1 have no
    `active`, before 1.3 no `jobname`, before 1.6 no cron.timezone: then active, none and GMT.

    Raises:
        psycopg.errors.InsufficientPrivilege: no right on the schema or the table.
    """
    one = conn.cursor(row_factory=scalar_row)
    if not one.execute(
        "select exists (select from pg_catalog.pg_class as c"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = 'cron' and c.relname = 'job')"
    ).fetchone():
        return None
    rows = conn.cursor(row_factory=dict_row)
    here = rows.execute(
        "select current_database() as database, current_user as role,"
        " coalesce(nullif(current_setting('cron.timezone', true), ''), 'GMT') as timezone"
    ).fetchone()
    assert here is not None
    jobs = [
        PgCronJob(
            row["jobid"], row["schedule"], row["command"], row["nodename"], row["database"],
            row["username"], row.get("active", True), row.get("jobname"),
        )
        for row in rows.execute("select * from cron.job as j order by j.jobid").fetchall()
    ]  # fmt: skip
    return PgCron(here["database"], here["role"], here["timezone"], jobs)
