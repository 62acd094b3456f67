"""
The text of an RFC 5545 rule: RRULE, and DTSTART, RDATE, EXDATE beside it.

    FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17            the rule alone; DTSTART is the task's

    DTSTART;TZID=Europe/Berlin:20260105T093000   or the lines of an iCalendar
    RRULE:FREQ=WEEKLY;BYDAY=MO,WE;UNTIL=20261231
    EXDATE:20260406T093000,20260525
    RDATE:20260407T093000

Strict where dateutil shrugs: COUNT beside UNTIL, INTERVAL=0, BYMONTH=13, a part given twice,
BYSETPOS alone, BYWEEKNO without YEARLY, 1MO with WEEKLY are refused.  An UNTIL or EXDATE that is
a date means that whole local day.  There is one RRULE (a union takes several) and no EXRULE.
DTSTART counts only if the rule matches it, as in dateutil: a task's start need not be on a beat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Literal

from ordinaut.recurrence.occurrence import InvalidSchedule

Freq = Literal["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]
FREQS: tuple[Freq, ...] = (
    "YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY",
)  # fmt: skip
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

# part: the Rule's attribute, lowest, highest; negatives count from the end where lowest is 1
_NUMBERS = {
    "BYSECOND": ("seconds", 0, 60, False),
    "BYMINUTE": ("minutes", 0, 59, False),
    "BYHOUR": ("hours", 0, 23, False),
    "BYMONTHDAY": ("monthdays", 1, 31, True),
    "BYYEARDAY": ("yeardays", 1, 366, True),
    "BYWEEKNO": ("weeknos", 1, 53, True),
    "BYMONTH": ("months", 1, 12, False),
    "BYSETPOS": ("positions", 1, 366, True),
}
_ORDINAL = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_STAMP = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})(?:T([0-9]{2})([0-9]{2})([0-9]{2})(Z?))?")
_LINE = re.compile(r"(DTSTART|RRULE|RDATE|EXDATE|EXRULE)((?:;[^:;\s]+)*):(\S*)", re.I)
_SPLIT = re.compile(r"\s+(?=(?:DTSTART|RRULE|RDATE|EXDATE|EXRULE)[:;])", re.I)

Moment = date | datetime  # a date, a naive wall time, or an instant


@dataclass(slots=True)
class Rule:
    """RRULE, part by part; empty means not given.  Weekdays are (ordinal or 0, 0 for Monday)."""

    freq: Freq = "DAILY"
    interval: int = 1
    count: int | None = None
    until: Moment | None = None
    week_start: int = 0
    seconds: set[int] = field(default_factory=set)
    minutes: set[int] = field(default_factory=set)
    hours: set[int] = field(default_factory=set)
    weekdays: set[tuple[int, int]] = field(default_factory=set)
    monthdays: set[int] = field(default_factory=set)
    yeardays: set[int] = field(default_factory=set)
    weeknos: set[int] = field(default_factory=set)
    months: set[int] = field(default_factory=set)
    positions: set[int] = field(default_factory=set)
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class RuleText:
    """What the lines say.

    Attributes:
        zone: the TZID of DTSTART, `UTC` for one that ends in Z, None for a floating one.
    """

    rule: Rule | None = None
    start: datetime | None = None
    zone: str | None = None
    dates: list[tuple[str | None, Moment]] = field(default_factory=list)
    exclusions: list[tuple[str | None, Moment]] = field(default_factory=list)


def read_rule(text: str) -> RuleText:
    """Read a rule, or the lines of a recurrence set.

    Raises:
        InvalidSchedule: naming the part.
    """
    if len(text) > 100_000:
        raise InvalidSchedule("expression", "is longer than 100 000 characters")
    found, seen = RuleText(), set()
    for name, params, value in _lines(text):
        if name in seen and name in ("RRULE", "DTSTART"):
            hint = ": a union takes several schedules" if name == "RRULE" else ""
            raise InvalidSchedule(name, f"is given twice{hint}")
        seen.add(name)
        tzid = _params(name, params)
        if name == "RRULE":
            found.rule = _rule(value)
        elif name == "EXRULE":
            raise InvalidSchedule(name, "is no longer part of RFC 5545; exclude a calendar instead")
        elif name == "DTSTART":
            start = _moment(name, value)
            if not isinstance(start, datetime):
                start = datetime.combine(start, time())
            found.zone = "UTC" if start.tzinfo else tzid
            found.start = start.replace(tzinfo=None)
        else:
            into = found.dates if name == "RDATE" else found.exclusions
            into += [(tzid, _moment(name, word)) for word in value.split(",")]
    if found.rule is None and not found.dates:
        raise InvalidSchedule("RRULE", "there is no rule; write FREQ=DAILY;BYHOUR=9 or the like")
    return found


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    unfolded = re.sub(r"\r?\n[ \t]", "", text.strip())
    for line in (part for raw in unfolded.splitlines() for part in _SPLIT.split(raw.strip())):
        if not line:
            continue
        match = _LINE.fullmatch(line if re.match(r"[A-Za-z]+[:;]", line) else f"RRULE:{line}")
        if not match:
            reason = "has a space in it" if " " in line else "cannot be read"
            raise InvalidSchedule("expression", f"{line[:60]!r} {reason}")
        yield match[1].upper(), match[2], match[3]


def _params(line: str, params: str) -> str | None:
    """The TZID among the parameters of a line."""
    tzid = None
    for param in params.split(";")[1:]:
        key, _, value = param.partition("=")
        if key.upper() == "TZID":
            tzid = value.strip('"')
        elif (key.upper(), value.upper()) not in {("VALUE", "DATE"), ("VALUE", "DATE-TIME")}:
            raise InvalidSchedule(line, f"the parameter {param[:40]} is not supported")
    return tzid


def _moment(part: str, text: str) -> Moment:
    match = _STAMP.fullmatch(text)
    if not match:
        raise InvalidSchedule(part, f"{text[:40]!r} is not a time like 20260105T093000")
    year, month, day, hour, minute, second = (int(n or 0) for n in match.groups()[:6])
    try:
        if match[4] is None:
            return date(year, month, day)
        moment = datetime(year, month, day, hour, minute, min(second, 59))
    except ValueError:
        raise InvalidSchedule(part, f"{text[:40]} is not on the calendar") from None
    return moment.replace(tzinfo=UTC) if match[7] else moment


def _rule(text: str) -> Rule:
    rule = Rule()
    for word in text.upper().split(";"):
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise InvalidSchedule("RRULE", f"{word[:40]!r} is not a part like FREQ=DAILY")
        if name in rule.parts:
            raise InvalidSchedule(name, "is given twice")
        rule.parts[name] = value
        _part(rule, name, value)
    if "FREQ" not in rule.parts:
        raise InvalidSchedule("FREQ", "is missing")
    _check_together(rule)
    return rule


def _part(rule: Rule, name: str, value: str) -> None:
    if name == "FREQ":
        if value not in FREQS:
            raise InvalidSchedule(name, f"{value[:40]} is none of {', '.join(FREQS)}")
        rule.freq = value
    elif name == "INTERVAL":
        rule.interval = _integer(name, value, 1, 1_000_000)
    elif name == "COUNT":
        rule.count = _integer(name, value, 1, 1_000_000_000 - 1)
    elif name == "UNTIL":
        rule.until = _moment(name, value)
    elif name == "WKST":
        if value not in WEEKDAYS:
            raise InvalidSchedule(name, f"{value[:40]} is none of {', '.join(WEEKDAYS)}")
        rule.week_start = WEEKDAYS.index(value)
    elif name == "BYDAY":
        for word in value.split(","):
            match = _ORDINAL.fullmatch(word)
            if not match or (match[1] and not 1 <= abs(int(match[1])) <= 53):
                raise InvalidSchedule(name, f"{word[:40]!r} is not a day like MO, 2TU or -1FR")
            rule.weekdays.add((int(match[1] or 0), WEEKDAYS.index(match[2])))
    elif name in _NUMBERS:
        attribute, low, high, negative = _NUMBERS[name]
        numbers = {_integer(name, word, low, high, negative) for word in value.split(",")}
        # RFC 5545 3.3.12: without leap seconds 60 means 59.
        setattr(rule, attribute, {min(n, 59) for n in numbers} if name == "BYSECOND" else numbers)
    else:
        raise InvalidSchedule(name[:40], "is not a part of RFC 5545 rules")


def _integer(part: str, text: str, low: int, high: int, negative: bool = False) -> int:
    if not _INTEGER.fullmatch(text):
        raise InvalidSchedule(part, f"{text[:40]!r} is not a number")
    number = int(text)
    if not low <= (abs(number) if negative else number) <= high:
        either = f"{low} and {high}" + (f", or -{high} and -{low}" if negative else "")
        raise InvalidSchedule(part, f"{number} is not between {either}")
    return number


def _check_together(rule: Rule) -> None:
    """Refuse parts that RFC 5545 3.3.10 does not allow beside each other."""
    freq, parts = rule.freq, rule.parts
    if "COUNT" in parts and "UNTIL" in parts:
        raise InvalidSchedule("COUNT", "and UNTIL exclude each other")
    for part, allowed in (
        ("BYWEEKNO", ("YEARLY",)),
        ("BYYEARDAY", ("YEARLY", "HOURLY", "MINUTELY", "SECONDLY")),
        ("BYMONTHDAY", tuple(f for f in FREQS if f != "WEEKLY")),
    ):
        if part in parts and freq not in allowed:
            raise InvalidSchedule(part, f"does not go with FREQ={freq}")
    if any(ordinal for ordinal, _ in rule.weekdays):
        if freq not in ("MONTHLY", "YEARLY") or rule.weeknos:
            beside = "BYWEEKNO" if rule.weeknos else f"FREQ={freq}"
            raise InvalidSchedule("BYDAY", f"a numbered day does not go with {beside}")
        if freq == "MONTHLY" or rule.months:
            for ordinal, day in rule.weekdays:
                if abs(ordinal) > 5:
                    raise InvalidSchedule("BYDAY", f"no month has {ordinal}{WEEKDAYS[day]}")
    if rule.positions and not any(p.startswith("BY") and p != "BYSETPOS" for p in parts):
        raise InvalidSchedule("BYSETPOS", "needs another BY… part to choose from")
    size = _most(rule)
    if rule.positions and min(map(abs, rule.positions)) > size:
        raise InvalidSchedule("BYSETPOS", f"never occurs: FREQ={freq} has at most {size} to choose")
    if rule.positions and freq in ("HOURLY", "MINUTELY") and size > 120:
        raise InvalidSchedule("BYSETPOS", f"chooses among {size} times; 120 is the most for {freq}")


def _most(rule: Rule) -> int:
    """How many times a period of the rule can have, at most."""
    days = {
        "YEARLY": 366,
        "MONTHLY": 31,
        "WEEKLY": len(rule.weekdays) or 1,
    }.get(rule.freq, 1)
    parts = {"HOURLY": 2, "MINUTELY": 1, "SECONDLY": 0}.get(rule.freq, 3)  # finer than the period
    for values in (rule.seconds, rule.minutes, rule.hours)[:parts]:
        days *= len(values) or 1
    return days
