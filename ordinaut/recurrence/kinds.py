"""The kinds of schedule: from an expression to a calendar, or to the sentence that refuses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from ordinaut.recurrence.calendars import Union
from ordinaut.recurrence.cron import parse_cron
from ordinaut.recurrence.expand import Expansion
from ordinaut.recurrence.interval import read_interval
from ordinaut.recurrence.occurrence import BEGIN, END, LAST_DAY, InvalidSchedule
from ordinaut.recurrence.rule import Moment, Rule, RuleText, read_rule
from ordinaut.recurrence.schedule import (
    AfterEnd,
    Elapsed,
    Every,
    Gap,
    Listed,
    RuleSet,
    Schedule,
    Wall,
    Wishes,
)
from ordinaut.recurrence.ticks import UNITS, Ticks
from ordinaut.recurrence.zone import Zone, zone

DstGap = Literal["shift", "skip"]
DstOverlap = Literal["first", "second", "both"]

MAX_COUNTED = 2000  # occurrences that a COUNT may walk through, where it cannot be computed
MAX_MEMBERS = 20
_MEMBERS = ("once", "interval", "cron", "rrule")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}", re.ASCII)


def parse(
    kind: str,
    expr: str,
    timezone: str,
    *,
    dtstart: datetime | None = None,
    start_at: datetime | None = None,
    dst_gap: DstGap | None = None,
    dst_overlap: DstOverlap | None = None,
) -> Schedule:
    """Read a schedule.

    Args:
        kind: cron, rrule, once, interval, or union: of which `expr` is a JSON array, as in
            [{"kind": "cron", "expr": "0 9 * * *"}, {"kind": "interval", "expr": "4 h"}].
        dtstart: where an interval or a rule without a DTSTART line is anchored; naive is wall
            time in `timezone`.  Store it with the task: INTERVAL and COUNT are counted from it.
        start_at: what the phase of an interval is counted from; None: 1970.
        dst_gap: `shift`: what falls into a skipped hour runs all the same; `skip`: not that day.
        dst_overlap: `first`, `second` or `both` of a repeated hour.  None for either is the rule
            of the kind: as in Debian's cron for cron and once, as in RFC 5545 for rrule.

    Raises:
        InvalidSchedule: with the field and the reason; also for what would never occur.
    """
    if dst_gap not in (None, "shift", "skip"):
        raise InvalidSchedule("dst_gap", f"{dst_gap!r} is neither 'shift' nor 'skip'")
    if dst_overlap not in (None, "first", "second", "both"):
        raise InvalidSchedule("dst_overlap", f"{dst_overlap!r} is not 'first', 'second' or 'both'")
    where = zone(timezone)
    if "\0" in expr:
        raise InvalidSchedule("expression", "contains a NUL character")
    if kind == "cron":
        return _cron(expr, where, dst_gap, dst_overlap)
    if kind == "once":
        return _once(expr, where, dst_gap, dst_overlap)
    if kind == "rrule":
        return _rrule(expr, where, dtstart, dst_gap, dst_overlap)
    if kind == "union":
        return _union(expr, timezone, dtstart, start_at, dst_gap, dst_overlap)
    if kind == "interval":
        _needs_no_policy("an interval", dst_gap, dst_overlap)
        interval = read_interval(expr)
        if interval.after_end:
            return AfterEnd(kind, expr, where, interval.every)
        if interval.phase is not None:
            dtstart = start_at or BEGIN
        if dtstart is None:
            raise InvalidSchedule("dtstart", "an interval needs an anchor")
        anchor = dtstart.astimezone(UTC) if dtstart.tzinfo else where.first_instant(dtstart)
        return Every(kind, expr, where, interval.every, anchor + (interval.phase or timedelta()))
    raise InvalidSchedule("kind", f"{kind[:40]!r} is not cron, rrule, once, interval or union")


def _union(
    expr: str,
    timezone: str,
    dtstart: datetime | None,
    start_at: datetime | None,
    gap: DstGap | None,
    overlap: DstOverlap | None,
) -> Schedule:
    try:
        members = json.loads(expr)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
        raise InvalidSchedule(
            "union",
            f"{expr[:40]!r} is no JSON array of 1 to {MAX_MEMBERS} schedules, as in "
            '[{"kind": "cron", "expr": "0 9 * * *"}]',
        )
    found: list[Schedule] = []
    has_policy = False
    for number, member in enumerate(members, 1):
        name, text = (member.get("kind"), member.get("expr")) if type(member) is dict else (0, 0)
        if name not in _MEMBERS or type(text) is not str or len(member) != 2:
            raise InvalidSchedule(
                f"member {number}", f"has not one kind of {', '.join(_MEMBERS)}, and its expr"
            )
        policy = (gap, overlap) if name in ("cron", "rrule") else (None, None)
        has_policy = has_policy or name in ("cron", "rrule")
        try:
            found.append(
                parse(
                    name,
                    text,
                    timezone,
                    dtstart=dtstart,
                    start_at=start_at,
                    dst_gap=policy[0],
                    dst_overlap=policy[1],
                )
            )
        except InvalidSchedule as exc:
            raise InvalidSchedule(f"member {number} ({name}), {exc.field}", exc.reason) from None
    if not has_policy:
        _needs_no_policy("a union without cron and rrule", gap, overlap)
    return Union(tuple(found))


def _cron(expr: str, where: Zone, gap: DstGap | None, overlap: DstOverlap | None) -> Schedule:
    cron = parse_cron(expr)
    gaps: dict[DstGap | None, Gap] = {
        None: "skip" if cron.follows_clock else "end if short", "shift": "end", "skip": "skip"
    }  # fmt: skip
    overlap = overlap or ("both" if cron.follows_clock else "first")
    return Wall("cron", expr, where, cron.wishes, gaps[gap], overlap, cron)


def _once(expr: str, where: Zone, gap: DstGap | None, overlap: DstOverlap | None) -> Schedule:
    text = expr.strip()
    try:
        moment = datetime.fromisoformat(text) if _ISO.match(text) else None
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidSchedule("once", f"{text[:40]!r} is not a time like 2027-03-28T09:30")
    if not BEGIN.year <= moment.year < END.year:
        raise InvalidSchedule("once", f"{text[:40]} is outside 1970 to 2200")
    if moment.tzinfo:
        return Listed("once", expr, where, (moment.astimezone(UTC),))
    found = Wall(
        "once",
        expr,
        where,
        _listed([moment]),
        "skip" if gap == "skip" else "end",
        overlap or "first",
    )
    if not found.after(BEGIN - timedelta(days=1)):
        raise InvalidSchedule("once", f"{text} does not exist in {where.name}: the clocks skip it")
    return found


def _rrule(
    expr: str,
    where: Zone,
    dtstart: datetime | None,
    gap: DstGap | None,
    overlap: DstOverlap | None,
) -> Schedule:
    text = read_rule(expr)
    start = _start(text, where, dtstart)
    members: list[Schedule] = []
    policy: tuple[Gap, DstOverlap] = ("skip" if gap == "skip" else "offset", overlap or "first")
    if text.rule:
        if text.rule.freq in UNITS:
            _needs_no_policy(f"FREQ={text.rule.freq}", gap, overlap)
            members.append(_elapsed(expr, text.rule, start, where))
        else:
            members.append(_coarse(expr, text.rule, start, where, policy))
    dates = [_placed("RDATE", tzid, moment, where) for tzid, moment in text.dates]
    walls = [m if isinstance(m, datetime) else datetime.combine(m, start.time()) for m in dates]
    floating = sorted({m for m in walls if m.tzinfo is None})
    if floating:
        members.append(Wall("rrule", expr, where, _listed(floating), *policy))
    if fixed := {m for m in walls if m.tzinfo}:
        members.append(Listed("rrule", expr, where, tuple(fixed)))
    without = [_placed("EXDATE", tzid, moment, where) for tzid, moment in text.exclusions]
    found = members[0]
    if len(members) > 1 or without:
        found = RuleSet(
            "rrule", expr, where, tuple(members),
            frozenset(m for m in without if isinstance(m, datetime) and m.tzinfo is None),
            frozenset(m for m in without if not isinstance(m, datetime)),
            frozenset(m for m in without if isinstance(m, datetime) and m.tzinfo),
        )  # fmt: skip
    if not found.after(BEGIN - timedelta(days=1)):
        raise _never(text, start)
    return found


def _never(text: RuleText, start: datetime) -> InvalidSchedule:
    parts = text.rule.parts if text.rule else {}
    if text.exclusions and parts:
        return InvalidSchedule("RRULE", "never occurs: EXDATE takes away all there is")
    if "UNTIL" in parts:
        return InvalidSchedule("UNTIL", f"nothing occurs between {start} and {parts['UNTIL']}")
    by = [f"{k}={v}" for k, v in parts.items() if k.startswith("BY")]
    days = next(
        (k for k in ("BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYDAY") if k in parts), "RRULE"
    )
    return InvalidSchedule(
        days, f"{' with '.join(by) or 'the rule'} never occurs between {start.year} and 2200"
    )


def _start(text: RuleText, where: Zone, dtstart: datetime | None) -> datetime:
    """DTSTART as wall time: the text's own, else the task's."""
    start = text.start
    if start is None:
        if dtstart is None:
            raise InvalidSchedule("DTSTART", "a rule needs a start to count from")
        start = where.wall(dtstart) if dtstart.tzinfo else dtstart
    elif text.zone:
        _same_zone("DTSTART", text.zone, where)
    if start.year >= END.year:
        raise InvalidSchedule("DTSTART", f"{start} is after 2200")
    return start.replace(microsecond=0, fold=0)


def _same_zone(part: str, name: str, where: Zone) -> None:
    utc = ("UTC", "Etc/UTC", "Etc/Zulu", "Zulu", "UCT", "Etc/UCT", "Universal")
    if zone(name).name != where.name and not (name in utc and where.name in utc):
        raise InvalidSchedule(
            part, f"is in {name}, and the schedule in {where.name}; make them the same"
        )


def _placed(part: str, tzid: str | None, moment: Moment, where: Zone) -> Moment:
    if tzid and not (isinstance(moment, datetime) and moment.tzinfo):
        _same_zone(part, tzid, where)
    return moment


def _elapsed(expr: str, rule: Rule, start: datetime, where: Zone) -> Schedule:
    ticks = Ticks(rule, start, where)
    until, last = _ends(rule)
    if rule.count and not any(part.startswith("BY") for part in rule.parts):
        if rule.count - 1 < (END - ticks.begin) // ticks.step:
            until = ticks.begin + (rule.count - 1) * ticks.step
    elif rule.count:
        counted = ticks.instants(ticks.begin - timedelta(microseconds=1))
        found = list(islice(counted, min(rule.count, MAX_COUNTED + 1)))
        until = _counted(rule.count, found)
    return Elapsed("rrule", expr, where, ticks, last, until)


def _coarse(
    expr: str, rule: Rule, start: datetime, where: Zone, policy: tuple[Gap, DstOverlap]
) -> Schedule:
    expansion = Expansion(rule, start)
    until, last = _ends(rule)
    if rule.count:
        plain = not any(part.startswith("BY") for part in rule.parts)
        if plain and rule.freq in ("DAILY", "WEEKLY"):
            days = (rule.count - 1) * rule.interval * (7 if rule.freq == "WEEKLY" else 1)
            if days < (LAST_DAY - start.date()).days:
                last = start + timedelta(days=days)
        else:
            walls = expansion.wishes(start)
            last = _counted(rule.count, list(islice(walls, min(rule.count, MAX_COUNTED + 1))))
    return Wall("rrule", expr, where, expansion.wishes, *policy, expansion, last, until)


def _counted(count: int, found: list[datetime]) -> datetime | None:
    """The count-th; None if the calendar ends before it."""
    if len(found) > MAX_COUNTED:
        raise InvalidSchedule(
            "COUNT", f"{count} is too far to be counted beside BY… parts; use UNTIL"
        )
    return found[count - 1] if len(found) >= count else None


def _ends(rule: Rule) -> tuple[datetime | None, Moment | None]:
    """UNTIL as an instant, or as wall time."""
    until = rule.until
    if isinstance(until, datetime) and until.tzinfo:
        return until, None
    return None, until


def _needs_no_policy(what: str, gap: DstGap | None, overlap: DstOverlap | None) -> None:
    for name, value in (("dst_gap", gap), ("dst_overlap", overlap)):
        if value is not None:
            raise InvalidSchedule(
                name, f"{what} follows elapsed time: no hour is skipped or repeated; leave it out"
            )


def _listed(walls: list[datetime]) -> Wishes:
    def wishes(low: datetime) -> Iterator[datetime]:
        return (wall for wall in walls if wall >= low)

    return wishes
