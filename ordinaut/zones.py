"""
Do all who tell the time here agree: the tzdata package, the server, and this host?

Plans follow the package.  `once`, and SQL, follow the server; programs that tasks start, the host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from zoneinfo import ZoneInfo

from ordinaut.recurrence.zone import Zone

# From where on which offset from UTC; None: the zone is not known there.
Timeline = Sequence[tuple[datetime, timedelta]] | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The first instant at which not all say the same, and what each says; None: no such zone."""

    at: datetime
    said: dict[str, timedelta | None]

    def __str__(self) -> str:
        who = ", ".join(
            f"{name} " + ("does not know it" if offset is None else _signed(offset))
            for name, offset in self.said.items()
        )
        return f"from {self.at:%Y-%m-%d %H:%M} UTC on: {who}"


def package() -> str:
    """Where the package keeps its zones."""
    return str(Path(str(import_module("tzdata").__file__)).parent / "zoneinfo")


def system() -> Path | None:
    """Where this host keeps its zones, as its C library finds them; None: it has none."""
    found = Path(os.environ.get("TZDIR") or "/usr/share/zoneinfo")
    return found if found.is_dir() else None


def of_package(name: str, low: datetime, high: datetime) -> Timeline:
    try:
        zone = Zone(name)
    except (KeyError, ValueError, OSError):
        return None
    return _timeline(zone, low, high)


def of_system(name: str, low: datetime, high: datetime, folder: Path) -> Timeline:
    try:
        with (folder / name).open("rb") as file:
            zone = Zone(name, ZoneInfo.from_file(file, key=name))
    except (ValueError, OSError):
        return None
    return _timeline(zone, low, high)


def _timeline(zone: Zone, low: datetime, high: datetime) -> Timeline:
    return [(low, zone.offset(low)), *((c.at, c.after) for c in zone.changes(low, high))]


def disagreement(timelines: Mapping[str, Timeline], low: datetime) -> Disagreement | None:
    """Where they first differ; a copy that lacks the zone differs at once, from `low` on."""
    instants = sorted({at for line in timelines.values() if line for at, _ in line} | {low})
    for instant in instants:
        said = {name: _at(line, instant) for name, line in timelines.items()}
        if len(set(said.values())) > 1:
            return Disagreement(instant, said)
    return None


def _at(timeline: Timeline, instant: datetime) -> timedelta | None:
    return next((offset for at, offset in reversed(timeline or ()) if at <= instant), None)


def _signed(offset: timedelta) -> str:
    minutes, seconds = divmod(abs(int(offset.total_seconds())), 60)
    text = f"{'-' if offset < timedelta(0) else '+'}{minutes // 60:02}:{minutes % 60:02}"
    return text + (f":{seconds:02}" if seconds else "")
