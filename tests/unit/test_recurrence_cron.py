"""Cron: what is refused and why, what the fields mean, and two other engines where they agree."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim, CronSimError
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from ordinaut.recurrence import InvalidSchedule, parse

MONDAY = datetime(2026, 1, 5, 0, 30, tzinfo=UTC)

REFUSED = [  # expression, the field to blame
    ("", "expression"),
    ("invalid cron", "expression"),
    ("* * * *", "expression"),
    ("0 0 0 1 1 * 2026", "expression"),
    ("@reboot", "expression"),
    ("@every 5m", "expression"),
    ("@fortnightly", "expression"),
    ("1," * 600 + "1 * * * *", "expression"),
    ("60 9 * * *", "minute"),
    ("-1 9 * * *", "minute"),
    ("+1 9 * * *", "minute"),
    ("1.5 9 * * *", "minute"),
    ("٣ 9 * * *", "minute"),
    ("5,, 9 * * *", "minute"),
    ("*/0 * * * *", "minute"),
    ("*/90 * * * *", "minute"),
    ("?/5 * * * *", "minute"),
    ("1-2-3 * * * *", "minute"),
    ("MON * * * *", "minute"),
    ("60 * * * * *", "second"),
    ("0 25 * * *", "hour"),
    ("0 22-2 * * *", "hour"),
    ("0 9 32 * *", "day of month"),
    ("0 9 0 * *", "day of month"),
    ("0 9 L-31 * *", "day of month"),
    ("0 9 32W * *", "day of month"),
    ("0 9 1?5 * *", "day of month"),
    ("0 9 * 13 *", "month"),
    ("0 9 * FOO *", "month"),
    ("0 9 * * 8", "day of week"),
    ("0 9 * * FRI-MON", "day of week"),
    ("0 9 * * MON#6", "day of week"),
    ("0 9 * * MON#0", "day of week"),
    ("0 9 * * L", "day of week"),
    ("0 9 * * L5", "day of week"),
    ("0 9 * * MONDAY", "day of week"),
    ("0 0 30 2 *", "day of month"),
    ("0 0 31 4,6,9,11 *", "day of month"),
    ("0 0 31W FEB ?", "day of month"),
    ("0 0 L-29 2 *", "day of month"),
    ("0 0 30 2 */2", "day of month"),
]


@pytest.mark.parametrize(("expr", "field"), REFUSED)
def test_a_bad_expression_is_refused_by_its_field(expr, field):
    begin = time.process_time()
    with pytest.raises(InvalidSchedule) as caught:
        parse("cron", expr, "UTC")

    assert time.process_time() - begin < 0.05
    assert caught.value.field == field
    assert caught.value.reason


def walls(expr, limit=4):
    return [f"{o.local:%m-%d %H:%M}" for o in parse("cron", expr, "UTC").after(MONDAY, limit)]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("0 9 * * *", ["01-05 09:00", "01-06 09:00"]),
        ("*/5 * * * *", ["01-05 00:35", "01-05 00:40"]),
        ("0 0 1 * *", ["02-01 00:00", "03-01 00:00"]),
        ("0 9 * * MON-FRI", ["01-05 09:00", "01-06 09:00"]),
        ("5-5 * * * *", ["01-05 01:05", "01-05 02:05"]),
        ("50/5 * * * *", ["01-05 00:50", "01-05 00:55", "01-05 01:50"]),
        ("10-50/20,5 9 * * *", ["01-05 09:05", "01-05 09:10", "01-05 09:30", "01-05 09:50"]),
        ("0 0 * jan,MAR tue", ["01-06 00:00", "01-13 00:00"]),
        ("0 0 * * 7", ["01-11 00:00", "01-18 00:00"]),
        ("0 0 * * 0", ["01-11 00:00", "01-18 00:00"]),
        ("0 0 * * FRI-SUN", ["01-09 00:00", "01-10 00:00", "01-11 00:00"]),
        ("0 0 * * 5-7", ["01-09 00:00", "01-10 00:00", "01-11 00:00"]),
        ("0 0 L * *", ["01-31 00:00", "02-28 00:00"]),
        ("0 0 L-2 * *", ["01-29 00:00", "02-26 00:00"]),
        ("0 0 LW * *", ["01-30 00:00", "02-27 00:00"]),
        ("0 0 15W * *", ["01-15 00:00", "02-16 00:00", "03-16 00:00", "04-15 00:00"]),
        ("0 0 1W 8 *", ["08-03 00:00"]),  # Saturday the 1st: not back into July
        ("0 0 31W * ?", ["01-30 00:00", "03-31 00:00", "05-29 00:00"]),
        ("0 0 * * 5L", ["01-30 00:00", "02-27 00:00"]),
        ("0 0 ? * friL", ["01-30 00:00", "02-27 00:00"]),
        ("0 0 * * MON#2", ["01-12 00:00", "02-09 00:00"]),
        ("0 0 1 * MON#2", ["01-12 00:00", "02-01 00:00", "02-09 00:00"]),
        # Either day field will do, unless one begins with a star.
        ("0 0 13 * FRI", ["01-09 00:00", "01-13 00:00", "01-16 00:00"]),
        ("0 0 */2 * FRI", ["01-09 00:00", "01-23 00:00"]),
        ("0 0 13 * */5", ["02-13 00:00", "03-13 00:00"]),
        ("0 0 29 2 *", ["02-29 00:00"]),
        ("@hourly", ["01-05 01:00", "01-05 02:00"]),
        ("@daily", ["01-06 00:00", "01-07 00:00"]),
        ("@Midnight", ["01-06 00:00", "01-07 00:00"]),
        ("@weekly", ["01-11 00:00", "01-18 00:00"]),
        ("@monthly", ["02-01 00:00", "03-01 00:00"]),
        ("@yearly", ["01-01 00:00"]),
        ("@annually", ["01-01 00:00"]),
    ],
)
def test_what_the_fields_mean(expr, expected):
    assert walls(expr, len(expected)) == expected


def test_six_fields_have_the_seconds_first():
    found = parse("cron", "*/20 30 0 * * *", "UTC").after(MONDAY, 3)

    assert [f"{o.at:%d %H:%M:%S}" for o in found] == ["05 00:30:20", "05 00:30:40", "06 00:30:00"]


def test_weekdays_in_the_zone_of_the_task():
    schedule = parse("cron", "0 8 * * 1-5", "Asia/Tokyo")

    [found] = schedule.after(datetime(2026, 1, 9, 9, tzinfo=ZoneInfo("Asia/Tokyo")))

    assert found.local == datetime(2026, 1, 12, 8)
    assert found.at == datetime(2026, 1, 11, 23, tzinfo=UTC)


def lists(values):
    return st.lists(values, min_size=1, max_size=3).map(",".join)


def plain(low, high):
    number = st.integers(low, high)
    # croniter reads 5-5 as *, cronsim 5-5/2 as 5-59/2.
    spans = st.tuples(number, number).filter(lambda s: s[0] < s[1]).map(lambda s: f"{s[0]}-{s[1]}")
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(1, high - low).map("*/{}".format),
        lists(number.map(str) | spans),
        st.tuples(spans, st.integers(1, 7)).map(lambda s: f"{s[0]}/{s[1]}"),
    )


days = plain(1, 31) | st.sampled_from(["L", "LW"])
months = plain(1, 12) | st.sampled_from(["JAN-MAR", "FEB,AUG", "2"])
weekdays = plain(0, 6) | st.sampled_from(["MON-FRI", "7", "SUN", "5L", "2#2", "1#5", "TUE,THU"])
times = st.tuples(plain(0, 59), plain(0, 23)).map(" ".join)
expressions = st.tuples(times, days, months, weekdays).map(" ".join)
instants = st.datetimes(datetime(1995, 1, 1), datetime(2045, 1, 1)).map(
    lambda d: d.replace(microsecond=0, fold=0, tzinfo=UTC)
)
DEBIAN = ("UTC", "America/New_York", "Europe/Chisinau", "Asia/Beirut", "Australia/Lord_Howe",
          "America/Sao_Paulo")  # fmt: skip


# The other engines take seconds for rare dates: no time to shrink.
quick = settings(max_examples=150, deadline=None, phases=[Phase.reuse, Phase.generate])


@pytest.mark.slow
@quick
@given(expressions, instants, st.sampled_from(DEBIAN))
def test_as_cronsim_also_at_night(expr, start, zone):
    assume(zone != "Australia/Lord_Howe" or "*" not in expr[:9])  # see below
    try:
        theirs = CronSim(expr, start.astimezone(ZoneInfo(zone)))
        expected = [next(theirs).astimezone(UTC) for _ in range(5)]
    except (CronSimError, StopIteration):
        return

    assert [o.at for o in parse("cron", expr, zone).after(start, 5)] == expected


@pytest.mark.parametrize("zone", DEBIAN)
@pytest.mark.parametrize(
    "expr",
    ["30 2 * * *", "30 1 * * *", "0 0 * * *", "15 0,1,2,3 * * *", "*/20 * * * *", "0 */2 * * *",
     "* 2 * * *", "10,50 23,0,1,2 * * *", "0-59/7 1-3 * * *", "5 * * * *"],
)  # fmt: skip
def test_as_cronsim_through_years_of_nights(expr, zone):
    """2000 to 2026, around each change of the clocks."""
    if zone == "Australia/Lord_Howe" and "*" in expr[:4]:
        return  # cronsim steps by whole hours there and loses the half one
    where, schedule = ZoneInfo(zone), parse("cron", expr, zone)
    for year in range(2000, 2027):
        for month, day in ((3, 8), (3, 25), (4, 3), (10, 1), (10, 14), (10, 25), (11, 1)):
            start = datetime(year, month, day, 20, tzinfo=UTC)
            theirs = CronSim(expr, start.astimezone(where))

            expected = [next(theirs).astimezone(UTC) for _ in range(3)]

            assert [o.at for o in schedule.after(start, 3)] == expected


@pytest.mark.slow
@settings(quick, max_examples=80)
@given(st.tuples(times, plain(1, 31), plain(1, 12), plain(0, 6)).map(" ".join), instants)
def test_as_croniter_in_utc(expr, start):
    try:
        schedule = parse("cron", expr, "UTC")
    except InvalidSchedule:
        assert not croniter.is_valid(expr, strict=True)
        return
    theirs = croniter(expr, start, implement_cron_bug=True)

    expected = [theirs.get_next(datetime) for _ in range(5)]

    assert [o.at for o in schedule.after(start, 5)] == expected
