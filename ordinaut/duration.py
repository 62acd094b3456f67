"""Durations as people, PostgreSQL and ISO 8601 write them, as far as they have one length."""

from __future__ import annotations

import re

_UNITS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
    "ms": 0.001, "millisecond": 0.001, "milliseconds": 0.001,
}  # fmt: skip
_CALENDAR = {"mon", "mons", "month", "months", "y", "yr", "yrs", "year", "years"}
_WORD = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]*)[\s,]*", re.ASCII)
_CLOCK = re.compile(r"([0-9]{1,5}):([0-5][0-9])(?::([0-5][0-9](?:\.[0-9]{1,6})?))?", re.ASCII)
_ISO = re.compile(r"p(?:([0-9.]+)w)?(?:([0-9.]+)d)?(?:t(?:([0-9.]+)h)?(?:([0-9.]+)m)?"
                  r"(?:([0-9.]+)s)?)?", re.ASCII)  # fmt: skip


def seconds(text: str) -> float | None:
    """Read `90 s`, `1 hour 30 min`, `01:30:00`, `1 day 02:00:00`, `PT15M`; None: it is none.

    A bare number is seconds, a day 24 hours.

    Raises:
        ValueError: it has months or years.
    """
    text = text.strip().lower()
    if not 0 < len(text) <= 100:
        return None
    if text.startswith("p"):
        if re.match(r"p[^t]*[ym]", text):
            raise ValueError("months and years differ in length")
        match = _ISO.fullmatch(text)
        if not match or not any(match.groups()):
            return None
        try:
            parts = [float(part or 0) for part in match.groups()]
        except ValueError:
            return None
        return sum(n * size for n, size in zip(parts, (604800, 86400, 3600, 60, 1), strict=True))
    total, position = 0.0, 0
    while position < len(text):
        if clock := _CLOCK.fullmatch(text, position):
            return total + 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3] or 0)
        match = _WORD.match(text, position)
        if not match:
            return None
        if match[2] in _CALENDAR:
            raise ValueError("months and years differ in length")
        if match[2] not in _UNITS and (match[2] or match[0] != text):
            return None
        total += float(match[1]) * _UNITS.get(match[2], 1)
        position = match.end()
    return total
