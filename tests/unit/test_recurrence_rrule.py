"""RFC 5545 rules: what is refused, what the lines may say, dateutil where it is right."""

from __future__ import annotations

import calendar
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from dateutil import rrule as dateutil
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from ordinaut.recurrence import InvalidSchedule, parse

START = datetime(2026, 1, 5, 9, 30)  # a Monday
OLD = datetime(1970, 1, 1, tzinfo=UTC)

REFUSED = [  # rule, the part to blame
    ("", "RRULE"),
    ("invalid rrule", "expression"),
    ("FREQ=INVALID", "FREQ"),
    ("FREQ=DAILY;BADPROP=1", "BADPROP"),
    ("FREQ=WEEKLY;BYDAY=XX", "BYDAY"),
    ("FREQ=MONTHLY;BYMONTHDAY=32", "BYMONTHDAY"),
    ("INTERVAL=2", "FREQ"),
    ("FREQ=DAILY;FREQ=DAILY", "FREQ"),
    ("FREQ=DAILY;", "RRULE"),
    ("FREQ=DAILY;BYHOUR=", "RRULE"),
    ("FREQ=DAILY; BYHOUR=9", "expression"),
    ("FREQ=DAILY;COUNT=3;UNTIL=20270101", "COUNT"),
    ("FREQ=DAILY;COUNT=0", "COUNT"),
    ("FREQ=DAILY;COUNT=-1", "COUNT"),
    ("FREQ=DAILY;INTERVAL=0", "INTERVAL"),
    ("FREQ=DAILY;INTERVAL=1.5", "INTERVAL"),
    ("FREQ=DAILY;INTERVAL=٣", "INTERVAL"),
    ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL"),
    ("FREQ=DAILY;UNTIL=20270230", "UNTIL"),
    ("FREQ=DAILY;UNTIL=20200101", "UNTIL"),
    ("FREQ=YEARLY;BYMONTH=13", "BYMONTH"),
    ("FREQ=YEARLY;BYMONTH=0", "BYMONTH"),
    ("FREQ=DAILY;BYHOUR=24", "BYHOUR"),
    ("FREQ=DAILY;BYHOUR=-1", "BYHOUR"),
    ("FREQ=DAILY;BYMINUTE=60", "BYMINUTE"),
    ("FREQ=DAILY;BYSECOND=61", "BYSECOND"),
    ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY"),
    ("FREQ=YEARLY;BYYEARDAY=367", "BYYEARDAY"),
    ("FREQ=YEARLY;BYWEEKNO=54", "BYWEEKNO"),
    ("FREQ=MONTHLY;BYWEEKNO=20", "BYWEEKNO"),
    ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY"),
    ("FREQ=DAILY;BYYEARDAY=1", "BYYEARDAY"),
    ("FREQ=WEEKLY;BYDAY=1MO", "BYDAY"),
    ("FREQ=MONTHLY;BYDAY=6MO", "BYDAY"),
    ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY"),
    ("FREQ=YEARLY;BYDAY=54MO", "BYDAY"),
    ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO", "BYDAY"),
    ("FREQ=DAILY;BYSETPOS=1", "BYSETPOS"),
    ("FREQ=WEEKLY;WKST=8", "WKST"),
    ("FREQ=YEARLY;BYEASTER=0", "BYEASTER"),
    ("FREQ=YEARLY;RSCALE=GREGORIAN", "RSCALE"),
    ("RRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", "RRULE"),
    ("RRULE:FREQ=DAILY\nEXRULE:FREQ=WEEKLY", "EXRULE"),
    ("RRULE:FREQ=DAILY\nRDATE;VALUE=PERIOD:20260101T000000/PT1H", "RDATE"),
    ("DTSTART:20260105T093000Z\nRRULE:FREQ=DAILY", "DTSTART"),
    ("DTSTART;TZID=Europe/Paris:20260105T093000\nRRULE:FREQ=DAILY", "DTSTART"),
    ("DTSTART;TZID=Nowhere/Land:20260105T093000\nRRULE:FREQ=DAILY", "timezone"),
    ("DTSTART:22990105T093000\nRRULE:FREQ=DAILY", "DTSTART"),
    # never
    ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "BYMONTHDAY"),
    ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "BYMONTHDAY"),
    ("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", "BYMONTHDAY"),
    ("FREQ=MONTHLY;BYMONTH=4,6,9,11;BYMONTHDAY=31", "BYMONTHDAY"),
    ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6", "BYDAY"),
    ("FREQ=YEARLY;BYDAY=MO;BYSETPOS=300", "BYDAY"),
    ("FREQ=WEEKLY;BYDAY=MO,TU;BYSETPOS=3", "BYSETPOS"),
    ("FREQ=HOURLY;BYMINUTE=0,30;BYSETPOS=-3", "BYSETPOS"),
    (f"FREQ=HOURLY;BYSECOND=0,1,2;BYMINUTE={','.join(map(str, range(60)))};BYSETPOS=1", "BYSETPOS"),
    ("FREQ=YEARLY;BYWEEKNO=20;BYMONTH=1", "BYWEEKNO"),
    ("FREQ=YEARLY;INTERVAL=2;BYYEARDAY=366;BYMONTH=1", "BYYEARDAY"),
    ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", "BYDAY"),
    ("FREQ=HOURLY;INTERVAL=24;BYHOUR=3", "RRULE"),
    ("FREQ=SECONDLY;INTERVAL=86400;BYHOUR=9;BYMINUTE=0;BYSECOND=1", "RRULE"),
    ("FREQ=MINUTELY;BYHOUR=9;COUNT=100000", "COUNT"),
    ("RRULE:FREQ=DAILY;COUNT=2\nEXDATE:20260105,20260106", "RRULE"),
]


@pytest.mark.parametrize(("rule", "part"), REFUSED)
def test_a_bad_rule_is_refused_by_its_part(rule, part):
    begin = time.process_time()
    with pytest.raises(InvalidSchedule) as caught:
        parse("rrule", rule, "Europe/Berlin", dtstart=START)

    assert time.process_time() - begin < 0.05
    assert caught.value.field == part
    assert caught.value.reason


def test_a_rule_needs_a_start_to_count_from():
    with pytest.raises(InvalidSchedule) as caught:
        parse("rrule", "FREQ=DAILY", "UTC")

    assert caught.value.field == "DTSTART"


def walls(rule, limit=5, zone="Europe/Berlin", start=START, after=OLD):
    schedule = parse("rrule", rule, zone, dtstart=start)
    return [f"{o.local:%Y-%m-%d %H:%M}" for o in schedule.after(after, limit)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", ["2028-02-29 09:30", "2032-02-29 09:30"]),
        ("FREQ=MONTHLY;BYMONTHDAY=31", ["2026-01-31 09:30", "2026-03-31 09:30"]),
        ("FREQ=MONTHLY;BYDAY=5MO", ["2026-03-30 09:30", "2026-06-29 09:30"]),
        ("rrule:freq=weekly;byday=fr", ["2026-01-09 09:30", "2026-01-16 09:30"]),
        ("FREQ=DAILY;BYHOUR=8;BYSECOND=60", ["2026-01-06 08:30", "2026-01-07 08:30"]),
        # Positions count in whole weeks, also in the first, and a week number has one day.
        ("FREQ=WEEKLY;BYDAY=SU,MO;WKST=SU;BYSETPOS=1", ["2026-01-11 09:30", "2026-01-18 09:30"]),
        ("FREQ=YEARLY;BYWEEKNO=20", ["2026-05-11 09:30", "2027-05-17 09:30"]),
        ("FREQ=YEARLY;BYWEEKNO=-1;BYDAY=SU", ["2027-01-03 09:30", "2028-01-02 09:30"]),
        ("FREQ=YEARLY;BYYEARDAY=-1", ["2026-12-31 09:30", "2027-12-31 09:30"]),
        ("FREQ=HOURLY;BYMINUTE=15,45;BYSETPOS=-1", ["2026-01-05 09:45", "2026-01-05 10:45"]),
        # The rest of the lines.
        ("RDATE:20260105T120000,20260101T000000", ["2026-01-01 00:00", "2026-01-05 12:00"]),
        ("RRULE:FREQ=DAILY\nEXDATE;VALUE=DATE:20260106\nEXDATE:20260105T093000",
         ["2026-01-07 09:30", "2026-01-08 09:30"]),
        ("DTSTART:20260201T000000 RRULE:FREQ=DAILY RDATE:20260201T120000Z",
         ["2026-02-01 00:00", "2026-02-01 13:00"]),
        ("RRULE:FREQ=DA\r\n ILY;COUNT=2\r\n", ["2026-01-05 09:30", "2026-01-06 09:30"]),
    ],
)  # fmt: skip
def test_what_a_rule_means(rule, expected):
    assert walls(rule, len(expected)) == expected


def test_minutes_of_an_hour_where_summer_time_is_half_an_hour():
    rule = "FREQ=HOURLY;BYMINUTE=0,15,50;BYSECOND=0;BYHOUR=1,2,9"
    schedule = parse("rrule", rule, "Australia/Lord_Howe", dtstart=datetime(2026, 7, 1))

    found = schedule.after(datetime(2026, 10, 3, 14, tzinfo=UTC), 9)

    # 02:00 to 02:30 is skipped; the hours since are counted from the half hour.
    assert [f"{o.local:%d %H:%M}" for o in found] == [
        "04 01:00", "04 01:15", "04 01:50", "04 02:50", "04 09:00", "04 09:15", "04 09:50",
        "05 01:00", "05 01:15",
    ]  # fmt: skip
    assert found[3].at - found[2].at == timedelta(minutes=30)


def test_a_date_as_until_is_a_whole_day():
    assert walls("FREQ=HOURLY;INTERVAL=6;UNTIL=20260105") == [
        "2026-01-05 09:30", "2026-01-05 15:30", "2026-01-05 21:30",
    ]  # fmt: skip
    assert walls("FREQ=DAILY;UNTIL=20260106") == ["2026-01-05 09:30", "2026-01-06 09:30"]


def test_count_ends_a_rule_and_exdate_does_not_lengthen_it():
    assert len(walls("FREQ=DAILY;COUNT=3", 9)) == 3
    assert len(walls("RRULE:FREQ=DAILY;COUNT=3\nEXDATE:20260106T093000", 9)) == 2
    assert len(walls("FREQ=MINUTELY;COUNT=1000000", 9, after=datetime(2027, 1, 1, tzinfo=UTC))) == 9
    assert walls("FREQ=MINUTELY;COUNT=1000000", 9, after=datetime(2028, 1, 1, tzinfo=UTC)) == []


def test_alternate_mondays_stay_alternate_after_any_restart():
    rule = "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO;BYHOUR=10"
    whole = walls(rule, 100)

    later = walls(rule, 50, after=datetime(2027, 12, 1, 3, tzinfo=UTC))

    assert whole[:2] == ["2026-01-05 10:30", "2026-01-19 10:30"]
    assert [w for w in whole if w > "2027-12-01"] == later[: sum(w > "2027-12-01" for w in whole)]


def numbers(low, high, size=3):
    both = st.integers(low, high) | st.integers(-high, -low)
    return st.sets(both, min_size=1, max_size=size)


DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


@st.composite
def rules(draw, freqs):
    freq = draw(st.sampled_from(freqs))
    parts = {"FREQ": freq, "INTERVAL": draw(st.integers(1, 3) | st.integers(1, 30))}

    def some(name, values, odds=2):
        if draw(st.integers(0, odds)) == 0:
            parts[name] = ",".join(str(v) for v in sorted(draw(values), key=str))

    some("BYMONTH", st.sets(st.integers(1, 12), min_size=1, max_size=5))
    if freq != "WEEKLY":
        some("BYMONTHDAY", numbers(1, 31))
    if freq in ("YEARLY", "HOURLY", "MINUTELY"):
        some("BYYEARDAY", numbers(1, 366), 5)
    if freq == "YEARLY" and draw(st.integers(0, 3)) == 0:
        parts["BYWEEKNO"] = ",".join(map(str, draw(numbers(1, 53))))
        parts["BYDAY"] = ",".join(draw(st.sets(st.sampled_from(DAYS), min_size=1, max_size=4)))
    else:
        named = st.sampled_from(DAYS)
        # Either all or none with a number: dateutil wants both at once where the two are mixed.
        if freq in ("YEARLY", "MONTHLY") and draw(st.booleans()):
            nth = st.sampled_from(["1", "2", "5", "-1", "-2"])
            named = st.builds(str.__add__, nth, named)
        some("BYDAY", st.sets(named, min_size=1, max_size=4), 1)
    some("BYHOUR", st.sets(st.integers(0, 23), min_size=1, max_size=3))
    some("BYMINUTE", st.sets(st.integers(0, 59), min_size=1, max_size=3))
    some("WKST", st.sets(st.sampled_from(DAYS), min_size=1, max_size=1))
    if freq in ("YEARLY", "MONTHLY") and any(p.startswith("BY") for p in parts):
        some("BYSETPOS", numbers(1, 4, 2))
    return ";".join(f"{k}={v}" for k, v in parts.items())


starts = st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1)).map(
    lambda d: d.replace(microsecond=0, fold=0)
)


def compare(rule, start, days):
    until = start + timedelta(days=days)
    try:
        theirs = list(dateutil.rrulestr(rule, dtstart=start).replace(until=until))[:40]
    except ValueError:  # "generates an empty set"
        theirs = []
    try:
        schedule = parse("rrule", rule, "UTC", dtstart=start)
    except InvalidSchedule:
        assert theirs == []
        return
    ours = [o.local for o in schedule.after(start.replace(tzinfo=UTC) - timedelta(1), 40)]
    assert [wall for wall in ours if wall <= until] == theirs


# dateutil takes seconds for some rules that never match: no time to shrink.
quick = settings(max_examples=50, deadline=None, phases=[Phase.reuse, Phase.generate])


@pytest.mark.slow
@quick
@given(rules(["YEARLY", "MONTHLY", "WEEKLY", "DAILY"]), starts)
def test_as_dateutil_where_nothing_is_skipped_or_repeated(rule, start):
    compare(rule, start, 2500)


ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Beirut", "America/St_Johns")


def in_real_time(rule, start, zone, limit):
    """Every step of a rule, walked one by one (dateutil never returns from some of these)."""
    parts = dict(part.split("=") for part in rule.split(";"))
    unit = timedelta(hours=1) if parts["FREQ"] == "HOURLY" else timedelta(minutes=1)
    at, step = start.replace(tzinfo=zone).astimezone(UTC), unit * int(parts["INTERVAL"])
    allowed = {k: v.split(",") for k, v in parts.items() if k.startswith("BY")}
    while at < limit:
        wall = at.astimezone(zone)
        month_end = calendar.monthrange(wall.year, wall.month)[1] + 1
        year_end = 366 + calendar.isleap(wall.year)
        yearday = wall.timetuple().tm_yday
        shown = {
            "BYMONTH": {wall.month}, "BYMONTHDAY": {wall.day, wall.day - month_end},
            "BYYEARDAY": {yearday, yearday - year_end}, "BYDAY": {DAYS[wall.weekday()]},
            "BYHOUR": {wall.hour}, "BYMINUTE": {wall.minute},
        }  # fmt: skip
        if all({str(n) for n in shown[part]} & set(values) for part, values in allowed.items()):
            yield at
        at += step


@pytest.mark.slow
@settings(quick, max_examples=40)
@given(rules(["HOURLY", "MINUTELY"]), starts, st.sampled_from(ZONES))
def test_finer_rules_are_steps_of_real_time(rule, start, name):
    zone = ZoneInfo(name)
    assume("HOURLY" not in rule or "BYMINUTE" not in rule)
    limit = start.replace(tzinfo=UTC) + timedelta(days=4 if "MINUTELY" in rule else 90)
    theirs = list(islice(in_real_time(rule, start, zone, limit), 40))
    try:
        found = parse("rrule", rule, name, dtstart=start).after(OLD, 40)
    except InvalidSchedule:
        found = []
    assert [o.at for o in found if o.at < limit] == theirs
