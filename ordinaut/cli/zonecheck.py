"""What doctor says of time: the zones in use by each copy of the IANA data, and the plans' age."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from psycopg import errors

from ordinaut import calls, db, zones
from ordinaut.recurrence import tzdata_version

_BACK, _AHEAD = timedelta(days=366), timedelta(days=5 * 366)


def check(conn: db.Connection, now: datetime) -> Iterator[tuple[str, str, str]]:
    """Yield check, verdict and detail."""
    uses = calls.zones_in_use(conn)
    folder = zones.system()
    low = now.replace(microsecond=0) - _BACK
    differ = 0
    for use in uses:
        name, high = use.timezone, low + _BACK + _AHEAD
        lines = {
            f"package ({tzdata_version()})": zones.of_package(name, low, high),
            "server": _of_server(conn, name, low, high),
        }
        server_differs = zones.disagreement(lines, low) is not None
        if folder is not None:
            lines[f"system ({folder})"] = zones.of_system(name, low, high, folder)
        if found := zones.disagreement(lines, low):
            differ += 1
            used = f"used by {use.example}" + f" and {use.uses - 1} more" * (use.uses > 1)
            yield f"zone {name}", "warn", f"{found}; {used}; {_advice(server_differs)}"
    if not differ:
        who = "package and server" + ", and this host's files" * (folder is not None)
        said = f"{len(uses)} in use, the same to {who} from {low:%Y-%m-%d} for six years"
        yield "zones", "ok", said
    yield _releases(uses)


def _of_server(conn: db.Connection, name: str, low: datetime, high: datetime) -> zones.Timeline:
    try:
        return calls.zone_changes(conn, name, low, high)
    except errors.InvalidParameterValue:
        return None


def _advice(server_differs: bool) -> str:
    if server_differs:
        return (
            "cron and rrule follow the package, once and SQL the server: update the older one,"
            " by pip install -U tzdata, or by the server's minor release or its host's tzdata"
        )
    return "only programs that tasks start on this host follow its files: update its tzdata"


def _releases(uses: list[calls.ZoneUse]) -> tuple[str, str, str]:
    ours = tzdata_version()
    found = sorted({release for use in uses for release in use.releases or ()})
    said = f"{ours}; plans are by {', '.join(found)}" if found else f"{ours}; there are no plans"
    if found and found[-1] > ours:
        return "tzdata", "warn", f"{said}: a host has a newer one; here: pip install -U tzdata"
    if found and found[0] < ours:
        return "tzdata", "warn", f"{said}: a scheduler with {ours} makes them anew"
    return "tzdata", "ok", said
