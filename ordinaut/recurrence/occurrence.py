"""What a calendar answers with: an occurrence, or the sentence that refuses it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from ordinaut.errors import ConfigurationError

# The span that the database accepts for any instant.
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(2200, 1, 1, tzinfo=UTC)
LAST_DAY = date(2200, 1, 2)  # local dates run ahead of UTC

GAP = "gap"
FIRST = "overlap first"
SECOND = "overlap second"

MONTHS = (
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
)  # fmt: skip


class InvalidSchedule(ConfigurationError):
    """The expression cannot be a calendar.

    Attributes:
        field: the part to blame, in the user's words: `day of month`, `BYDAY`, `timezone`.
        reason: one sentence, fit to be shown as it is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A point of a calendar.

    Attributes:
        at: the instant, in UTC.
        local: the wall time that was wished for, in the schedule's zone, without a zone.
        note: what summer time did to it: None, `gap` (the wall time did not exist and was moved),
            `overlap first` or `overlap second` (it came twice, and this is which).
    """

    at: datetime
    local: datetime
    note: str | None = None


class Times:
    """The times of day of a rule, hours x minutes x seconds, in order and by number.

    By number, because a rule may mean any of 86,400 times a day: none of them is built before
    it is asked for.
    """

    __slots__ = ("hours", "minutes", "seconds")

    def __init__(self, hours: set[int], minutes: set[int], seconds: set[int]) -> None:
        self.hours = tuple(sorted(hours))
        self.minutes = tuple(sorted(minutes))
        self.seconds = tuple(sorted(seconds))

    def __len__(self) -> int:
        return len(self.hours) * len(self.minutes) * len(self.seconds)

    def __iter__(self) -> Iterator[time]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> time:
        rest, second = divmod(number, len(self.seconds))
        hour, minute = divmod(rest, len(self.minutes))
        return time(self.hours[hour], self.minutes[minute], self.seconds[second])

    def rank(self, low: time) -> int:
        """How many are before `low`."""
        hour = bisect_left(self.hours, low.hour)
        if hour == len(self.hours) or self.hours[hour] != low.hour:
            return hour * len(self.minutes) * len(self.seconds)
        minute = bisect_left(self.minutes, low.minute)
        rank = (hour * len(self.minutes) + minute) * len(self.seconds)
        if minute == len(self.minutes) or self.minutes[minute] != low.minute:
            return rank
        return rank + bisect_left(self.seconds, low.second + bool(low.microsecond))
