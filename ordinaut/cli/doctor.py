"""
ordinaut doctor: what is configured, what is there, and what is wrong.

What a database can know of itself, `ordinaut.diagnose()` decides; what is added here only a
client can know.  Every check says ok, info, warn or fail, and what to do.  A check that cannot be
made because an earlier one failed is left out: one cause, one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import errors

from ordinaut import calls, db
from ordinaut.cli import base, reach, zonecheck
from ordinaut.cli.findings import Finding, of_problem, show
from ordinaut.errors import ConfigurationError, sentence
from ordinaut.settings import mask
from ordinaut.version import API, __version__

_SKEW = timedelta(seconds=5)


def examine(state: base.State) -> bool:
    """Print settings and findings, and return whether nothing failed."""
    settings = state.settings()
    sources = [
        {"setting": name, "value": value, "source": source}
        for name, value, source in settings.sources()
    ]
    findings = list(_findings(state))
    if state.json:
        base.answer({"settings": sources, "findings": findings})
    else:
        columns = [("setting", "setting"), ("value", "value"), ("source", "source")]
        base.table(sources, columns, "")
        base.console().print()
        show(findings)
    return not any(finding.verdict == "fail" for finding in findings)


def _findings(state: base.State) -> Iterator[Finding]:
    try:
        dsn = state.dsn()
    except ConfigurationError as exc:
        yield Finding("database", "fail", f"{exc}. {exc.hint}")
        return
    settings = state.settings()

    def connect() -> db.Connection:
        return db.connect(dsn, name="ordinaut-doctor", pooled=settings.pooled)

    try:
        conn = connect()
    except psycopg.Error as exc:
        reason = " ".join(str(exc).split())
        is_standby = reach.reaches_standby(dsn, settings.pooled)
        yield Finding(
            "database", "fail", f"{mask(dsn)}: {reason}",
            act="this is a standby: name all hosts in the DSN, and the primary is found"
            if is_standby else None,
        )  # fmt: skip
        return
    with conn:
        yield Finding("database", "ok", mask(dsn))
        server = calls.server(conn)
        yield from _server(server)
        yield from reach.check(conn, connect, settings)
        yield from _engine(conn, server)


def _server(server: calls.Server) -> Iterator[Finding]:
    old = server.version_num < 150000
    said = f"PostgreSQL {server.version}" + (": Ordinaut needs 15 or newer" if old else "")
    yield Finding("server", "fail" if old else "ok", said)
    yield Finding(
        "role",
        "ok",
        f"{server.role} on {server.database}" + (", superuser" if server.is_superuser else ""),
    )
    apart = abs(datetime.now(UTC) - server.now)
    yield Finding(
        "clock",
        "ok" if apart < _SKEW else "warn",
        f"{apart.total_seconds():.1f} s between this host and the server, whose clock counts;"
        f" session time zone {server.timezone}",
    )


def _engine(conn: db.Connection, server: calls.Server) -> Iterator[Finding]:
    if server.schema_usage is None:
        hint = "run: ordinaut install" if server.can_create else "its owner runs: ordinaut install"
        yield Finding("schema", "fail", f"{server.database} has no schema ordinaut; {hint}")
        return
    if not server.schema_usage:
        yield Finding(
            "rights",
            "fail",
            f"{server.role} may not use the schema; its owner: grant ordinaut_admin to"
            f" {server.role}",
        )
        return
    version = _version(conn)
    yield version
    yield from _functions(conn)
    if version.verdict != "fail":
        yield from _life(conn)
    yield from _zones(conn, server.now)


def _version(conn: db.Connection) -> Finding:
    found = calls.installed(conn)
    if found is None:
        return Finding("schema", "warn", "cannot tell its version: no right to read loaded_code")
    same = found.api == API
    said = f"Ordinaut {found.version}, API {found.api}, installed {base.when(found.at)}"
    ours = f"; this program is {__version__}, API {API}"
    return Finding("schema", "ok" if same else "fail", said + ("" if same else ours))


def _functions(conn: db.Connection) -> Iterator[Finding]:
    """Compare every function's body with the shipped files, to name what was hot-fixed."""
    from ordinaut import schema

    shipped = "\n".join(schema.code().values())
    there = calls.functions(conn)
    changed = sorted({row["name"] for row in there if row["body"].strip() not in shipped})
    if changed:
        yield Finding(
            "functions",
            "warn",
            f"{len(changed)} not as shipped: {', '.join(changed[:8])}"
            + (", …" if len(changed) > 8 else "")
            + "; `ordinaut install` restores them",
        )
    else:
        yield Finding("functions", "ok", f"{len(there)}, all as shipped")


def _life(conn: db.Connection) -> Iterator[Finding]:
    try:
        workers = calls.worker_status(conn)
        live = [row for row in workers if row.get("state") == "alive"]
        said = ", ".join(str(row.get("name") or row.get("worker_id")) for row in live)
        yield Finding(
            "workers",
            "ok" if live else "warn",
            f"{len(live)} live: {said}" if live else "none is live; start: ordinaut worker",
        )
        problems = calls.diagnose(conn, all=True)
        yield from (of_problem(found) for found in problems if found.severity != "ok")
        if quiet := [found.problem for found in problems if found.severity == "ok"]:
            yield Finding("diagnose", "ok", f"nothing is wrong with: {', '.join(quiet)}")
    except errors.InsufficientPrivilege as exc:
        yield Finding("rights", "fail", sentence(exc))


def _zones(conn: db.Connection, now: datetime) -> Iterator[Finding]:
    try:
        yield from (Finding(*said) for said in zonecheck.check(conn, now))
    except errors.InsufficientPrivilege as exc:
        yield Finding("zones", "fail", sentence(exc))
