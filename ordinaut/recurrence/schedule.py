"""The schedules: wall times, real time, and the DST policy that turns one into the other."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Literal

from ordinaut.recurrence.cron import Cron
from ordinaut.recurrence.expand import Expansion
from ordinaut.recurrence.occurrence import BEGIN, END, FIRST, GAP, SECOND, Occurrence
from ordinaut.recurrence.rule import Moment
from ordinaut.recurrence.ticks import Ticks
from ordinaut.recurrence.zone import Change, Zone

# In a gap: drop; to its end; to its end unless it is longer than LONG; by the offset before it.
Gap = Literal["skip", "end", "end if short", "offset"]
Overlap = Literal["first", "second", "both"]
Wishes = Callable[[datetime], Iterator[datetime]]

LONG = timedelta(hours=3)  # Debian cron's bound: a longer jump is no summer time, but another date


class Schedule(ABC):
    """A calendar: immutable, without a clock, the same answers from any starting point."""

    kind: str
    expr: str
    zone: Zone

    @property
    def timezone(self) -> str:
        return self.zone.name

    def after(self, instant: datetime, limit: int = 1) -> list[Occurrence]:
        """The next occurrences after `instant`, strictly.

        Args:
            instant: aware; any zone.
            limit: how many at most.

        Returns:
            Ascending, no instant twice.  Fewer than `limit`: the calendar ends there, or 2200 does.

        Raises:
            InvalidSchedule: the search was given up, it would not have ended soon.
        """
        if instant.tzinfo is None:
            raise ValueError("after() needs an aware datetime")
        instant = max(instant.astimezone(UTC), BEGIN - timedelta(microseconds=1))
        if instant >= END:
            return []
        return list(islice(takewhile(lambda o: o.at < END, self.walk(instant)), limit))

    @property
    def whole(self) -> Schedule:
        """This schedule, with what calendars exclude from it."""
        return self

    def excluded_by(self, instant: datetime) -> str | None:
        """The names of the calendars that exclude `instant`; None if none does."""
        return None

    @abstractmethod
    def walk(self, after: datetime) -> Iterator[Occurrence]:
        """All occurrences after an instant of UTC between 1970 and 2200."""


@dataclass(frozen=True, slots=True)
class Wall(Schedule):
    """Wall times of a zone, under a policy.

    Attributes:
        source: what the wishes come from, for those who describe it.
        last: the last wall time or date that counts.
        until: the last instant that counts.
    """

    kind: str
    expr: str
    zone: Zone
    wishes: Wishes
    gap: Gap
    overlap: Overlap
    source: Cron | Expansion | None = None
    last: Moment | None = None
    until: datetime | None = None

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        latest = after
        for at, wall, note in self._resolved(after):
            if self.until is not None and at > self.until:
                return
            if at > latest:
                latest = at
                yield Occurrence(at, wall, note or None)

    def _resolved(self, after: datetime) -> Iterator[tuple[datetime, datetime, str]]:
        """Instant, wish and note, by instant; the same instant may come twice, the first counts."""
        held: list[tuple[datetime, datetime, str]] = []  # come later than their wall time says
        walls = self.wanted(self.zone.rewind(after))
        while (wall := next(walls, None)) is not None:
            first, second = self.zone.instants(wall)
            if first == second:
                ready = (first, wall, "")
            elif first < second:
                ready = (second, wall, SECOND) if self.overlap == "second" else (first, wall, FIRST)
                if self.overlap == "both":
                    heapq.heappush(held, (second, wall, SECOND))
            elif self.gap == "offset":
                heapq.heappush(held, (first, wall, GAP))
                continue
            else:
                change = self.zone.change(second, first)
                assert change is not None
                if not self.drops(change):
                    heapq.heappush(held, (change.at, wall, GAP))
                walls = self.wanted(change.high)  # the rest of the gap has the same fate
                continue
            while held and held[0] <= ready:
                yield heapq.heappop(held)
            yield ready
        while held:
            yield heapq.heappop(held)

    def drops(self, gap: Change) -> bool:
        """Is what falls into this gap dropped?"""
        return self.gap == "skip" or (self.gap == "end if short" and gap.length > LONG)

    def wanted(self, low: datetime) -> Iterator[datetime]:
        """Wall times from `low` on, as far as COUNT and UNTIL go."""
        if self.last is None:
            return self.wishes(low)
        return takewhile(self._counts, self.wishes(low))

    def _counts(self, wall: datetime) -> bool:
        last = self.last
        if isinstance(last, datetime):
            return wall <= last
        return last is None or wall.date() <= last


@dataclass(frozen=True, slots=True)
class Elapsed(Schedule):
    """A rule of HOURLY or finer: real time, whatever the clocks do."""

    kind: str
    expr: str
    zone: Zone
    source: Ticks
    last: Moment | None = None
    until: datetime | None = None

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        for at in self.source.instants(after):
            if self.until is not None and at > self.until:
                return
            occurrence = observed(self.zone, at)
            if isinstance(self.last, datetime) and occurrence.local > self.last:
                return
            if type(self.last) is date and occurrence.local.date() > self.last:
                return
            yield occurrence


@dataclass(frozen=True, slots=True)
class Every(Schedule):
    """Anchor + n x duration, n >= 0."""

    kind: str
    expr: str
    zone: Zone
    step: timedelta
    anchor: datetime

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        number = max(0, (after - self.anchor) // self.step + 1)
        while (at := self.anchor + number * self.step) < END:
            yield observed(self.zone, at)
            number += 1


@dataclass(frozen=True, slots=True)
class AfterEnd(Schedule):
    """A duration after the end of the last run: no calendar knows when that is."""

    kind: str
    expr: str
    zone: Zone
    step: timedelta

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Listed(Schedule):
    """Instants that were given as such."""

    kind: str
    expr: str
    zone: Zone
    instants: tuple[datetime, ...]

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        return (observed(self.zone, at) for at in sorted(self.instants) if at > after)


@dataclass(frozen=True, slots=True)
class RuleSet(Schedule):
    """A rule and its RDATEs, without its EXDATEs."""

    kind: str
    expr: str
    zone: Zone
    members: tuple[Schedule, ...]
    walls: frozenset[datetime] = field(default_factory=frozenset)
    days: frozenset[date] = field(default_factory=frozenset)
    instants: frozenset[datetime] = field(default_factory=frozenset)

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        for occurrence in merged(self.members, after):
            if (
                occurrence.local not in self.walls
                and occurrence.local.date() not in self.days
                and occurrence.at not in self.instants
            ):
                yield occurrence


def merged(members: tuple[Schedule, ...], after: datetime) -> Iterator[Occurrence]:
    """The occurrences of several schedules; an instant that they share is the first one's."""
    latest = after
    for occurrence in heapq.merge(*(m.walk(after) for m in members), key=lambda o: o.at):
        if occurrence.at > latest:
            latest = occurrence.at
            yield occurrence


def observed(zone: Zone, at: datetime) -> Occurrence:
    """An occurrence at an instant, and what the clocks show then."""
    wall = zone.wall(at)
    face = wall.replace(fold=0)
    first, second = zone.instants(face)
    note = None if first == second else SECOND if wall.fold else FIRST
    return Occurrence(at, face, note)
