"""A schedule as an English sentence."""

from __future__ import annotations

from ordinaut.recurrence.calendars import Union
from ordinaut.recurrence.cron import Cron
from ordinaut.recurrence.expand import Expansion
from ordinaut.recurrence.occurrence import MONTHS
from ordinaut.recurrence.rule import WEEKDAYS, Rule
from ordinaut.recurrence.schedule import (
    AfterEnd,
    Elapsed,
    Every,
    Listed,
    RuleSet,
    Schedule,
    Wall,
)

_NAMES = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_SHORT = dict(zip(WEEKDAYS, _NAMES[1:] + _NAMES[:1], strict=True))
_UNITS = {"YEARLY": "year", "MONTHLY": "month", "WEEKLY": "week", "DAILY": "day",
          "HOURLY": "hour", "MINUTELY": "minute", "SECONDLY": "second"}  # fmt: skip
_PARTS = {"BYMONTH": "in month", "BYWEEKNO": "in week", "BYYEARDAY": "on day of the year",
          "BYMONTHDAY": "on day of the month", "BYDAY": "on", "BYHOUR": "at hour",
          "BYMINUTE": "at minute", "BYSECOND": "at second", "BYSETPOS": "number"}  # fmt: skip


def describe(schedule: Schedule) -> str:
    """Say what `schedule` means, in one sentence."""
    sentence = _sentence(schedule)
    return f"{sentence[0].upper()}{sentence[1:]}, {schedule.timezone}."


def _sentence(schedule: Schedule) -> str:
    if isinstance(schedule, Union):
        text = "; and ".join(_sentence(part) for part in schedule.includes)
        names = ", ".join(calendar.name for calendar in schedule.excludes)
        return f"{text}; but not in {names}" if names else text
    if isinstance(schedule, RuleSet):
        dates = ", and some dates" if len(schedule.members) > 1 else ""
        without = ", except some" if schedule.walls or schedule.days or schedule.instants else ""
        return _sentence(schedule.members[0]) + dates + without
    if isinstance(schedule, Every):
        return f"every {schedule.step} of elapsed time, counted from {schedule.anchor:%F %T} UTC"
    if isinstance(schedule, AfterEnd):
        return f"{schedule.step} of elapsed time after the end of its last run"
    if isinstance(schedule, Wall) and isinstance(schedule.source, Cron):
        return _cron(schedule.source)
    if isinstance(schedule, Wall) and isinstance(schedule.source, Expansion):
        return _rule(schedule.source.rule) + f", from {schedule.source.start}"
    if isinstance(schedule, Elapsed):
        return _rule(schedule.source.rule) + f" of elapsed time, from {schedule.source.start}"
    if isinstance(schedule, Listed) or schedule.kind == "once":
        return f"once, at {schedule.expr.strip()}"
    return "on the dates that are listed"


def _cron(cron: Cron) -> str:
    second, minute, hour, dom, _, dow = cron.fields
    times = cron.times
    if len(times) <= 6:
        when = "at " + _listed([t.isoformat("auto" if t.second else "minutes") for t in times])
    elif len(times.seconds) == 1 and times.seconds[0] == 0:
        when = "every minute" if minute == "*" else f"at minute {minute}"
        if minute.startswith("*/") and 60 % int(minute[2:]) == 0:
            when = f"every {minute[2:]} minutes"
        when += "" if hour == "*" else f" of hour {hour}"
    else:
        when = f"at second {second} of minute {minute} of hour {hour}"
    days = []
    if dom not in ("*", "?"):
        days.append(f"on day {dom} of the month")
    if dow not in ("*", "?"):
        plain = [_NAMES[day] for day in sorted(cron.weekdays)]
        days.append(f"on {dow}" if cron.numbered_weekdays else f"on {_listed(plain)}")
    joint = " or " if cron.either else " and "
    months = "" if len(cron.months) == 12 else " in " + _listed(
        [MONTHS[m - 1].title() for m in cron.months]
    )  # fmt: skip
    return f"{when}{' ' if days else ''}{joint.join(days)}{months}"


def _rule(rule: Rule) -> str:
    unit = _UNITS[rule.freq]
    text = f"every {unit}" if rule.interval == 1 else f"every {rule.interval} {unit}s"
    for part, words in _PARTS.items():
        if part in rule.parts:
            values = [_SHORT.get(v, v) for v in rule.parts[part].split(",")]
            text += f" {words} {_listed(values)}"
    if rule.count:
        text += f", {rule.count} times"
    if "UNTIL" in rule.parts:
        text += f", until {rule.until}"
    return text


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
