"""What holds for every schedule, in every zone and year."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ordinaut.recurrence import InvalidSchedule, parse

ZONES = st.sampled_from([
    "UTC", "America/New_York", "Europe/Berlin", "Europe/London", "Europe/Dublin",
    "Europe/Chisinau", "Europe/Moscow", "Europe/Istanbul", "Africa/Cairo", "Africa/Casablanca",
    "Africa/Monrovia", "America/Asuncion", "America/Caracas", "America/Havana",
    "America/Sao_Paulo", "America/St_Johns", "America/Godthab", "Antarctica/Troll",
    "Asia/Amman", "Asia/Beirut", "Asia/Gaza", "Asia/Kathmandu", "Asia/Pyongyang", "Asia/Tehran",
    "Atlantic/Azores", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham",
    "Pacific/Fakaofo", "Pacific/Kwajalein",
])  # fmt: skip

MINUTES = st.sampled_from(["0", "30", "*", "*/7", "0,59", "15-20", "1-59/2"])
HOURS = st.sampled_from(["0", "1", "2", "3", "23", "*", "*/2", "0-3", "1,2", "22,23,0"])
DAYS = st.sampled_from(["* * *", "* * SUN", "L * ?", "1 1 *", "29 2 *", "13 * 5", "LW * *"])
CRON = st.tuples(st.just("cron"), st.builds("{} {} {}".format, MINUTES, HOURS, DAYS))
SECONDS = st.tuples(st.just("cron"), st.builds("*/17 {} {} * * *".format, MINUTES, HOURS))
COARSE = st.builds(
    "FREQ={};INTERVAL={};BYHOUR={};BYMINUTE={}{}".format,
    st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY"]),
    st.integers(1, 5),
    st.sampled_from(["0", "1,2,3", "23", "0,2"]),
    st.sampled_from(["0", "0,30", "15,45"]),
    st.sampled_from(["", ";BYDAY=SU", ";BYDAY=SU,MO,SA", ";BYMONTH=3,4,10,11"]),
)
FINE = st.builds(
    "FREQ={};INTERVAL={}{}".format,
    st.sampled_from(["HOURLY", "MINUTELY", "SECONDLY"]),
    st.sampled_from([1, 2, 7, 90]),
    st.sampled_from(["", ";BYHOUR=0,1,2,23", ";BYDAY=SU", ";BYMINUTE=0,30", ";BYMONTH=10"]),
)
RULES = st.tuples(st.just("rrule"), COARSE | FINE)
SCHEDULES = CRON | SECONDS | RULES
POLICIES = st.fixed_dictionaries(
    {"dst_gap": st.sampled_from([None, "shift", "skip"]),
     "dst_overlap": st.sampled_from([None, "first", "second", "both"])}
)  # fmt: skip
DTSTART = datetime(1969, 5, 1, 0, 30)


@st.composite
def moments(draw, zone):
    """Instants, mostly close to a change of the zone's clocks."""
    at = draw(st.datetimes(datetime(1971, 1, 1), datetime(2040, 1, 1)))
    at = at.replace(fold=0, tzinfo=UTC)
    if draw(st.integers(0, 4)):
        offset = at.astimezone(zone).utcoffset()
        for _ in range(300):
            if (at + timedelta(days=1)).astimezone(zone).utcoffset() != offset:
                break
            at += timedelta(days=1)
        else:
            return at
        low, high = at, at + timedelta(days=1)
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            low, high = (
                (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
            )
        at = high + timedelta(minutes=draw(st.integers(-180, 180)))
    return at


@st.composite
def cases(draw):
    name = draw(ZONES)
    kind, expr = draw(SCHEDULES)
    fine = kind == "rrule" and any(f in expr for f in ("HOURLY", "MINUTELY", "SECONDLY"))
    policy = {} if fine else draw(POLICIES)
    try:
        schedule = parse(kind, expr, name, dtstart=DTSTART, **policy)
    except InvalidSchedule:
        reject()  # every 4th month from May is none of its months
    return schedule, policy, draw(moments(ZoneInfo(name))), draw(st.integers(0, 14))


@pytest.mark.slow
@settings(max_examples=350, deadline=None)
@given(cases())
def test_increasing_real_and_the_same_from_any_start(case):
    schedule, policy, start, cut = case
    zone = ZoneInfo(schedule.timezone)

    found = schedule.after(start, 15)

    # strictly increasing, and after the start
    assert all(a.at < b.at for a, b in pairwise(found))
    assert all(start < o.at and o.at.tzinfo is UTC for o in found)
    # the same from any instant in between
    if cut < len(found):
        here = found[cut].at
        assert schedule.after(here, 14 - cut) == found[cut + 1 :]
        assert schedule.after(here - timedelta(microseconds=1), 1) == [found[cut]]
        between = start + (here - start) / 2
        rest = [o for o in found if o.at > between]
        assert schedule.after(between, len(rest)) == rest
    # what the clocks show is what was wished for, unless that did not exist
    for o in found:
        shown = o.at.astimezone(zone).replace(tzinfo=None)
        if o.note == "gap":
            assert shown != o.local
            assert policy.get("dst_gap") != "skip"
        else:
            assert shown.replace(fold=0) == o.local
            assert (o.note == "overlap second") == bool(shown.fold)
    # bounded: well under it, but for a machine that does other things too
    begin = time.process_time()
    schedule.after(start, 1)
    assert time.process_time() - begin < 0.05


words = st.text("0123456789*/,-?LW#MONFRISUJAN@ \t;=:TZ", max_size=40)
parts = st.lists(
    st.tuples(
        st.sampled_from(["BYDAY", "BYHOUR", "BYMINUTE", "BYSECOND", "BYMONTH", "BYMONTHDAY",
                         "BYYEARDAY", "BYSETPOS", "BYWEEKNO", "COUNT", "INTERVAL", "WKST"]),
        st.sampled_from(["MO", "1MO", "-1SU", "0", "1", "2,3", "29", "30", "31", "-1", "-31",
                         "366", "53", "1000", "86399", "999999"]),
    ),
    max_size=5,
).map(lambda pairs: "".join(f";{k}={v}" for k, v in pairs))  # fmt: skip
hostile = st.one_of(
    st.tuples(st.just("cron"), words),
    st.tuples(st.just("cron"), st.lists(words, min_size=5, max_size=6).map(" ".join)),
    st.tuples(st.just("once"), words),
    st.tuples(st.just("interval"), words),
    st.tuples(st.just("rrule"), words),
    st.tuples(
        st.just("rrule"),
        st.builds(
            "FREQ={}{}".format,
            st.sampled_from(
                ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]
            ),
            parts,
        ),
    ),
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(hostile, ZONES)
def test_any_text_is_a_schedule_or_refused_soon(text, zone):
    kind, expr = text
    begin = time.process_time()
    try:
        found = parse(kind, expr, zone, dtstart=datetime(2026, 1, 1, 9)).after(
            datetime(2026, 6, 1, tzinfo=UTC), 1
        )
    except InvalidSchedule as refused:
        assert refused.field and refused.reason
    else:
        assert found or kind in ("once", "rrule")
    # 50 ms of work for the parse and 50 for the search, doubled for a busy machine
    assert time.process_time() - begin < 0.2


def test_typical_schedules_cost_far_less_than_a_millisecond():
    start = datetime(2026, 6, 1, tzinfo=UTC)
    for kind, expr in (
        ("cron", "30 2 * * *"), ("cron", "*/5 9-17 * * MON-FRI"), ("cron", "0 0 LW * *"),
        ("rrule", "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO;BYHOUR=10"), ("rrule", "FREQ=MINUTELY"),
        ("rrule", "FREQ=MONTHLY;BYDAY=-1FR"), ("interval", "90 s"),
    ):  # fmt: skip
        best = 1.0
        for _ in range(5):
            begin = time.process_time()
            parse(kind, expr, "America/New_York", dtstart=DTSTART).after(start, 1)
            best = min(best, time.process_time() - begin)

        assert best < 0.003, (kind, expr)
