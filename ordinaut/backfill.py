"""
Backfills: expands what was asked for of calendars that SQL cannot compute, a slice at a time.

Ten thousand occurrences may take seconds, and the scheduler that expands them has ticks to make:
what is not finished after 0.1 s goes on with the next step.  What is kept between two steps is
only work: who loses it begins anew, and any number may expand the same backfill, for the database
takes it once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import psycopg

from ordinaut import calls, db, planner
from ordinaut.recurrence import Excluded, InvalidSchedule, Occurrence, Union

log = logging.getLogger(__name__)

_MOST: Final = 10_000  # occurrences of a backfill; one more shows that there are too many
_BUDGET = 0.1  # seconds: a tick waits for us


class _Expansion:
    """One backfill, as far as it is expanded."""

    def __init__(self, asked: calls.UnplannedBackfill) -> None:
        self.asked = asked
        self.found: list[datetime] = []
        self.notes: dict[str, str] = {}
        self._walk = self._judged()

    def go(self, stop: float) -> bool:
        """Go on until the end, or until the monotonic clock shows `stop`; return whether it ended.

        Raises:
            InvalidSchedule: with the field and the reason.
        """
        for found in self._walk:
            at = found.at if isinstance(found, Occurrence) else found.first.at
            if self.asked.end_at is not None and at > self.asked.end_at:
                return True
            if isinstance(found, Occurrence):
                self.found.append(at)
                if found.note:
                    self.notes[planner.key(found)] = planner.note(found)
            if len(self.found) > _MOST:
                return True
            if time.monotonic() > stop:
                return False
        return True

    def _judged(self) -> Iterator[Occurrence | Excluded]:
        schedule = planner.of_unplanned(self.asked)
        after = self.asked.plan_after.astimezone(UTC)
        yield from schedule.judged(after) if isinstance(schedule, Union) else schedule.walk(after)


class Backfills:
    """Whoever expands backfills: a scheduler, or a dry run."""

    def __init__(self) -> None:
        self._going: _Expansion | None = None

    def step(self, conn: db.Connection, backfill_id: UUID | None = None) -> bool:
        """Go on with the oldest that waits, for 0.1 s at most.

        Args:
            backfill_id: only with this one.

        Returns:
            Whether there may be more to do.
        """
        going = self._going
        if going is None:
            asked = calls.unplanned_backfills(conn, limit=1, backfill_id=backfill_id)
            if not asked:
                return False
            going = _Expansion(asked[0])
        self._going = None
        try:
            if going.go(time.monotonic() + _BUDGET):
                calls.plan_backfill(conn, going.asked.backfill_id, going.found, going.notes)
            else:
                self._going = going
            return True
        except InvalidSchedule as exc:
            reason = str(exc)
        except psycopg.Error:
            raise
        except Exception as exc:  # of a pure function: the same tomorrow, and others wait
            log.exception("backfill %s cannot be expanded", going.asked.backfill_id)
            reason = f"its calendar cannot be computed: {exc!r}"
        if calls.fail_backfill(conn, going.asked.backfill_id, reason):
            log.error("backfill %s failed: %s", going.asked.backfill_id, reason)
        return True
