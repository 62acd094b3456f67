"""
What the database is to be told: results, notes, and results that it could not take yet.

Only losing their lease takes results away unheard.
"""

from __future__ import annotations

import json
from typing import Any

from ordinaut.wire import LEASE, WORK, Result, Unit

_NOTES = 10_000  # lines kept while the database does not take them
_ASIDE = 0.5  # seconds until results whose run is held by somebody are offered again


class Outbox:
    """Filled by the crew, emptied by each exchange."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._notes: dict[object, dict[str, Any]] = {}
        self._aside: list[Result] = []  # another transaction holds their runs
        self._aside_until = 0.0

    def __bool__(self) -> bool:
        """Is anything still to be told?"""
        return bool(self.results or self._aside or self._notes)

    @property
    def noted(self) -> bool:
        return bool(self._notes)

    def report(self, unit: Unit, outcome: str, error: bytes | None = None, spent: int = 0) -> None:
        """Add a result that no child gave; `spent` are microseconds."""
        self.results.append((unit[LEASE], unit[WORK], outcome, None, error, spent))

    def note(self, lease_id: bytes, work_id: bytes, event: str, data: bytes) -> None:
        """Add a line for the journal; of progress only the last word counts."""
        if len(self._notes) >= _NOTES:
            return
        note = {"lease_id": lease_id.hex(), "work_id": work_id.hex(), "event": event}
        note["data"] = json.loads(data)
        self._notes[work_id if event == "progress" else object()] = note

    def put_aside(self, results: list[Result], now: float) -> None:
        """Keep results that cannot be settled yet: each exchange that has them waits for them."""
        self._aside += results
        self._aside_until = now + _ASIDE

    def retry_aside(self, now: float) -> float | None:
        """Offer those again whose time has come; return when it comes, None: there are none."""
        if not self._aside:
            return None
        if now < self._aside_until:
            return self._aside_until
        self.results += self._aside
        self._aside = []
        return None

    def take(self) -> tuple[list[Result], bytes | None]:
        """Hand over the results and, as a JSON array, the notes."""
        results, notes = self.results, list(self._notes.values())
        self.results, self._notes = [], {}
        return results, json.dumps(notes).encode() if notes else None

    def drop(self, lease_id: bytes) -> None:
        """Forget the results of a lease that the database took back."""
        self.results = [result for result in self.results if result[0] != lease_id]
        self._aside = [result for result in self._aside if result[0] != lease_id]

    def clear(self) -> None:
        self.results, self._aside, self._notes = [], [], {}
