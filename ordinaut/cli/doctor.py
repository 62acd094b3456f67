"""
ordinaut doctor: what is configured, what is there, and what is wrong.

Every check says ok, warn or fail, and what to do.  A check that cannot be made because an
earlier one failed is left out: one cause, one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import errors

from ordinaut import calls, db
from ordinaut.cli import base, zonecheck
from ordinaut.errors import ConfigurationError, sentence
from ordinaut.settings import mask
from ordinaut.version import API, __version__

_SKEW = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: verdict is ok, warn or fail."""

    check: str
    verdict: str
    detail: str


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
        columns = [("check", "check"), ("verdict", "verdict"), ("detail", "detail")]
        base.table(findings, columns, "", style="verdict")
    return not any(finding.verdict == "fail" for finding in findings)


def _findings(state: base.State) -> Iterator[Finding]:
    try:
        dsn = state.dsn()
    except ConfigurationError as exc:
        yield Finding("database", "fail", f"{exc}. {exc.hint}")
        return
    try:
        conn = db.connect(dsn, name="ordinaut-doctor", pooled=state.settings().pooled)
    except psycopg.Error as exc:
        reason = " ".join(str(exc).split())
        yield Finding("database", "fail", f"{mask(dsn)}: {reason}")
        return
    with conn:
        yield Finding("database", "ok", mask(dsn))
        yield from _server(conn)


def _server(conn: db.Connection) -> Iterator[Finding]:
    server = calls.server(conn)
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
    yield _version(conn)
    yield from _functions(conn)
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
        late = calls.late(conn, limit=1000)
        yield Finding(
            "late",
            "warn" if late else "ok",
            f"{len(late)} late: {_first(late[0])}" if late else "nothing is late",
        )
    except errors.InsufficientPrivilege as exc:
        yield Finding("rights", "fail", sentence(exc))


def _zones(conn: db.Connection, now: datetime) -> Iterator[Finding]:
    try:
        yield from (Finding(*said) for said in zonecheck.check(conn, now))
    except errors.InsufficientPrivilege as exc:
        yield Finding("zones", "fail", sentence(exc))


def _first(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {base.show(v)}" for k, v in row.items() if v is not None)[:160]
