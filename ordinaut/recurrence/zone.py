"""
Zones: the one place that turns wall times into instants, and instants into wall times.

IANA data comes from the `tzdata` package and from nowhere else.  The server's copy, the system's
and Python's disagree on real zones (Europe/Chisinau changed its hour of change in 2026), so a
calendar must know which one it used: tzdata_version() says it.
"""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module

from ordinaut.recurrence.occurrence import InvalidSchedule

zoneinfo.reset_tzpath(to=())
zoneinfo.ZoneInfo.clear_cache()

_DAY = timedelta(hours=25)  # longer than any change: a zone that hops the date line moves by 24 h


def tzdata_version() -> str:
    """The release of the IANA data in use, like `2026f`."""
    return str(import_module("tzdata").IANA_VERSION)


@dataclass(frozen=True, slots=True)
class Change:
    """A moment when a zone's clocks are put forward or back.

    Attributes:
        at: the first instant of the new offset.
        before, after: offsets from UTC.
    """

    at: datetime
    before: timedelta
    after: timedelta

    @property
    def is_gap(self) -> bool:
        return self.after > self.before

    @property
    def length(self) -> timedelta:
        return abs(self.after - self.before)

    @property
    def low(self) -> datetime:
        """The first wall time that is skipped, or that comes twice."""
        return self.at.replace(tzinfo=None) + min(self.before, self.after)

    @property
    def high(self) -> datetime:
        """The first wall time that is as usual again."""
        return self.at.replace(tzinfo=None) + max(self.before, self.after)


class Zone:
    """A time zone by its IANA name.

    Args:
        info: another copy's data; None: the package's.
    """

    __slots__ = ("_info", "name")

    def __init__(self, name: str, info: zoneinfo.ZoneInfo | None = None) -> None:
        self.name = name
        self._info = info or zoneinfo.ZoneInfo(name)

    def wall(self, instant: datetime) -> datetime:
        """What a clock on the wall shows; fold=1 the second time it shows it."""
        return instant.astimezone(self._info).replace(tzinfo=None)

    def offset(self, instant: datetime) -> timedelta:
        offset = instant.astimezone(self._info).utcoffset()
        assert offset is not None
        return offset

    def instants(self, wall: datetime) -> tuple[datetime, datetime]:
        """`wall` by the offset before a change and by the one after it.

        The same twice: nothing changes there.  Ascending: it comes twice.  Descending: never.
        """
        aware = wall.replace(tzinfo=self._info, fold=0)
        before, after = aware.utcoffset(), aware.replace(fold=1).utcoffset()
        assert before is not None and after is not None
        first = (wall - before).replace(tzinfo=UTC, fold=0)
        return first, first if before == after else (wall - after).replace(tzinfo=UTC, fold=0)

    def first_instant(self, wall: datetime) -> datetime:
        """The first instant that shows `wall`; in a gap the first instant after it."""
        first, second = self.instants(wall)
        if first <= second:
            return first
        change = self.change(second, first)
        assert change is not None
        return change.at

    def change(self, low: datetime, high: datetime) -> Change | None:
        """The change after `low` and up to `high`, if any; two days apart at most."""
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        before, after = self.offset(low), self.offset(high)
        if before == after:
            return None
        while high - low > timedelta(seconds=1):
            middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
            if self.offset(middle) == before:
                low = middle
            else:
                high = middle
        return Change(high, before, after)

    def changes(self, low: datetime, high: datetime) -> Iterator[Change]:
        """All changes after `low` and up to `high`."""
        while low < high:
            end = min(low + timedelta(days=1), high)
            if change := self.change(low, end):
                yield change
            low = end

    def rewind(self, instant: datetime) -> datetime:
        """The earliest wall time that may still matter after `instant`.

        Usually the one on the wall.  Near a change an earlier wall time can have its instant
        later: moved out of the gap, or coming a second time.
        """
        wall = self.wall(instant).replace(fold=0)
        for low, high in ((instant - _DAY, instant), (instant, instant + _DAY)):
            change = self.change(low, high)
            if change and abs(instant - change.at) <= change.length:
                wall = min(wall, change.low)
        return wall


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - {"Factory"}


@lru_cache(maxsize=1024)
def zone(name: str) -> Zone:
    """The zone called `name`, exactly.

    Raises:
        InvalidSchedule: no such zone.  Abbreviations and POSIX rules (`CEST`, `UTC+3`) are none:
            the first are ambiguous, the second count westward.
    """
    if name not in _names():
        close = difflib.get_close_matches(name, _names(), n=1) if len(name) < 64 else []
        hint = f"; did you mean {close[0]}" if close else "; use an IANA name like Europe/Berlin"
        raise InvalidSchedule("timezone", f"there is no zone {name[:64]!r}{hint}")
    return Zone(name)
