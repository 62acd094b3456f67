"""
A clock that stands still until the test moves it, and the engine that moves with it.

    ordinaut_clock.travel_to("2026-11-21T08:00:00Z")   # a jump: what lies between is late now
    ordinaut_clock.advance("90 s")
    ordinaut_clock.advance_to_next_event()             # jump there, fire, and run what is due
    ordinaut_clock.run_until("2026-12-01T00:00:00Z")   # the same, event by event
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ordinaut.testing.database import Database
from ordinaut.testing.inline import SchedulerService, WorkRunner

_EVENTS = 100_000  # of one run_until: more than that is a loop


class Clock:
    """The clock of one database, standing still from now on."""

    def __init__(self, database: Database, worker: WorkRunner | None = None) -> None:
        self._db = database
        self.scheduler = SchedulerService(database)
        self.worker = worker or WorkRunner(database)
        self.travel_to(database.now)

    @property
    def now(self) -> datetime:
        """What ordinaut.now() says."""
        return self._db.frozen_at or self._db.now

    def travel_to(self, at: datetime | str) -> datetime:
        """Set the clock, also back; nothing is fired and nothing is run.

        Args:
            at: without an offset it is UTC.
        """
        when = _instant(at)
        self._db.travel(when)
        return when

    def advance(self, by: timedelta | float | str) -> datetime:
        """Move the clock on; nothing is fired and nothing is run.

        Args:
            by: a timedelta, seconds, or what PostgreSQL reads as an interval.
        """
        if isinstance(by, str):
            return self.travel_to(self._db.one("select ordinaut.now() + %s::interval", by))
        seconds = by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self.travel_to(self.now + seconds)

    def settle(self) -> int:
        """Fire and run what is due at this instant; return how many units ran."""
        ran = 0
        while True:
            fired = self.scheduler.run_once()
            done = self.worker.drain()
            ran += done
            if not fired and not done:
                return ran

    def advance_to_next_event(self) -> datetime | None:
        """Do what is due now, jump to the next instant at which something is, and do that.

        Returns:
            That instant; None, and the clock stands where it stood, when no time brings anything.
        """
        self.settle()
        at = self._db.next_event()
        if at is not None:
            self.travel_to(at)
            self.settle()
        return at

    def run_until(self, end: datetime | str) -> int:
        """Go from event to event until `end`; return how many units ran."""
        until = _instant(end)
        ran = self.settle()
        for _ in range(_EVENTS):
            at = self._db.next_event()
            if at is None or at > until:
                self.travel_to(until)
                return ran + self.settle()
            self.travel_to(at)
            ran += self.settle()
        raise AssertionError(f"after {_EVENTS} events it is still {self.now}")

    def close(self) -> None:
        """Let the database tell the real time again."""
        self.scheduler.close()
        self.worker.close()
        self._db.travel(None)


def _instant(at: datetime | str) -> datetime:
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
