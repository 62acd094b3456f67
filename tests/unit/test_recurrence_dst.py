"""Nights when the clocks change, by name and date; and what the report says about them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from ordinaut.recurrence import InvalidSchedule, Occurrence, dst_report, parse, tzdata_version

NEW_YORK = "America/New_York"
OLD = datetime(1990, 1, 1)
HOUR = timedelta(hours=1)


def fires(kind, expr, zone, day, **policy):
    """`07:00 gap` for each firing from 12 h before a day to its end, in UTC."""
    if kind == "rrule":
        policy["dtstart"] = OLD
    start = datetime.fromisoformat(f"{day}T00:00Z") - 12 * HOUR
    found = parse(kind, expr, zone, **policy).after(start, 200)
    return [
        f"{o.at:%d %H:%M}" + (f" {o.note}" if o.note else "")
        for o in found
        if o.at < start + 48 * HOUR
    ]


NIGHTS = [
    # New York: 2027-03-14 has no 02:00-03:00, 2026-11-01 has 01:00-02:00 twice.
    ("cron", "30 2 * * *", NEW_YORK, "2027-03-14", {}, ["14 07:00 gap", "15 06:30"]),
    ("cron", "0,15,30 2 * * *", NEW_YORK, "2027-03-14", {},
     ["14 07:00 gap", "15 06:00", "15 06:15", "15 06:30"]),
    ("cron", "0 2,3 * * *", NEW_YORK, "2027-03-14", {}, ["14 07:00 gap", "15 06:00", "15 07:00"]),
    ("cron", "30 2 * * *", NEW_YORK, "2027-03-14", {"dst_gap": "skip"}, ["15 06:30"]),
    ("cron", "*/30 2 * * *", NEW_YORK, "2027-03-14", {}, ["15 06:00", "15 06:30"]),
    ("cron", "*/30 2 * * *", NEW_YORK, "2027-03-14", {"dst_gap": "shift"},
     ["14 07:00 gap", "15 06:00", "15 06:30"]),
    ("cron", "30 1 * * *", NEW_YORK, "2026-11-01", {}, ["01 05:30 overlap first", "02 06:30"]),
    ("cron", "30 1 * * *", NEW_YORK, "2026-11-01", {"dst_overlap": "second"},
     ["01 06:30 overlap second", "02 06:30"]),
    ("cron", "30 1 * * *", NEW_YORK, "2026-11-01", {"dst_overlap": "both"},
     ["01 05:30 overlap first", "01 06:30 overlap second", "02 06:30"]),
    ("cron", "*/30 1 * * *", NEW_YORK, "2026-11-01", {},
     ["01 05:00 overlap first", "01 05:30 overlap first", "01 06:00 overlap second",
      "01 06:30 overlap second", "02 06:00", "02 06:30"]),
    ("rrule", "FREQ=DAILY;BYHOUR=2;BYMINUTE=0,30", NEW_YORK, "2027-03-14", {},
     ["14 07:00 gap", "14 07:30 gap", "15 06:00", "15 06:30"]),
    ("rrule", "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30", NEW_YORK, "2027-03-14", {},
     ["14 07:00 gap", "14 07:30 gap", "15 06:00", "15 06:30", "15 07:00", "15 07:30"]),
    ("rrule", "FREQ=DAILY;BYHOUR=2;BYMINUTE=30", NEW_YORK, "2027-03-14", {"dst_gap": "skip"},
     ["15 06:30"]),
    ("rrule", "FREQ=DAILY;BYHOUR=1", NEW_YORK, "2026-11-01", {},
     ["01 05:00 overlap first", "02 06:00"]),
    # Midnight does not exist (Sao Paulo, Beirut), or begins twice (St. John's, at 00:01).
    ("cron", "0 0 * * *", "America/Sao_Paulo", "2017-10-15", {}, ["15 03:00 gap", "16 02:00"]),
    ("cron", "@daily", "Asia/Beirut", "2026-03-29", {}, ["28 22:00 gap", "29 21:00"]),
    ("cron", "30 23 * * *", "America/Sao_Paulo", "2018-02-17", {},
     ["17 01:30", "18 01:30 overlap first"]),
    ("cron", "30 0 * * *", "Africa/Cairo", "2026-04-24", {}, ["23 22:00 gap", "24 21:30"]),
    ("cron", "0 0 * * *", "America/St_Johns", "2009-11-01", {},
     ["01 02:30 overlap first", "02 03:30"]),
    # Half an hour (Lord Howe): 02:00 to 02:30, and back.
    ("cron", "15 2 * * *", "Australia/Lord_Howe", "2026-10-04", {}, ["03 15:30 gap", "04 15:15"]),
    ("cron", "45 1 * * *", "Australia/Lord_Howe", "2026-04-05", {},
     ["04 14:45 overlap first", "05 15:15"]),
    # Samoa went over the date line: no 30 December 2011.  It is not fired on the 31st.
    ("cron", "0 9 * * *", "Pacific/Apia", "2011-12-30", {}, ["29 19:00", "30 19:00"]),
    ("cron", "0 9 * * *", "Pacific/Apia", "2011-12-30", {"dst_gap": "shift"},
     ["29 19:00", "30 10:00 gap", "30 19:00"]),
    ("rrule", "FREQ=DAILY;BYHOUR=9", "Pacific/Apia", "2011-12-30", {},
     ["29 19:00", "30 19:00 gap"]),
    # By the tzdata package: 01:00 UTC.  Debian's 2025b says 00:00 UTC.
    ("cron", "30 3 * * *", "Europe/Chisinau", "2026-10-25", {},
     ["25 00:30 overlap first", "26 01:30"]),
    ("cron", "30 2 * * *", "Europe/Chisinau", "2026-10-25", {}, ["24 23:30", "26 00:30"]),
    ("cron", "30 3 * * *", "Europe/Bucharest", "2025-03-30", {}, ["30 01:00 gap", "31 00:30"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "expr", "zone", "day", "policy", "expected"), NIGHTS)
def test_a_night_of_change(kind, expr, zone, day, policy, expected):
    found = fires(kind, expr, zone, day, **policy)

    assert [f for f in found if f >= expected[0][:5]][: len(expected)] == expected
    assert len(found) <= len(expected) + 4


@pytest.mark.parametrize(("day", "hours"), [("2027-03-14", 23), ("2026-11-01", 25)])
@pytest.mark.parametrize(("kind", "expr"), [("cron", "0 * * * *"), ("rrule", "FREQ=HOURLY")])
def test_hourly_is_an_hour_apart_whatever_the_clocks_do(kind, expr, day, hours):
    start = datetime.fromisoformat(f"{day}T04:59:59Z") - HOUR * (hours == 25)

    found = parse(kind, expr, NEW_YORK, dtstart=OLD).after(start, 30)

    assert {b.at - a.at for a, b in pairwise(found)} == {HOUR}
    assert sum(o.local.date() == date.fromisoformat(day) for o in found) == hours


def test_a_later_repetition_is_found_from_within_the_first():
    schedule = parse("cron", "10 1 * * *", NEW_YORK, dst_overlap="both")

    [found] = schedule.after(datetime(2026, 11, 1, 5, 45, tzinfo=UTC))

    assert found == Occurrence(
        datetime(2026, 11, 1, 6, 10, tzinfo=UTC), datetime(2026, 11, 1, 1, 10), "overlap second"
    )


@pytest.mark.parametrize(
    ("text", "zone", "policy", "at"),
    [
        ("2027-03-14T02:30", NEW_YORK, {}, "2027-03-14T07:00Z"),
        ("2026-11-01 01:30:15", NEW_YORK, {}, "2026-11-01T05:30:15Z"),
        ("2026-11-01T01:30", NEW_YORK, {"dst_overlap": "second"}, "2026-11-01T06:30Z"),
        ("2026-11-01T01:30-05:00", NEW_YORK, {}, "2026-11-01T06:30Z"),
        ("2026-07-01T12:00", "Europe/Chisinau", {}, "2026-07-01T09:00Z"),
        ("2026-07-01T12:00", "UTC", {}, "2026-07-01T12:00Z"),
        ("2011-12-30T12:00", "Pacific/Apia", {}, "2011-12-30T10:00Z"),
    ],
)
def test_once(text, zone, policy, at):
    [found] = parse("once", text, zone, **policy).after(datetime(1980, 1, 1, tzinfo=UTC), 5)

    assert found.at == datetime.fromisoformat(at)


@pytest.mark.parametrize(
    ("kind", "expr", "zone", "policy", "field"),
    [
        ("once", "tomorrow", "UTC", {}, "once"),
        ("once", "2026-02-30T10:00", "UTC", {}, "once"),
        ("once", "2026-07-01", "UTC", {}, "once"),
        ("once", "2206-07-01T00:00", "UTC", {}, "once"),
        ("once", "2027-03-14T02:30", NEW_YORK, {"dst_gap": "skip"}, "once"),
        ("cron", "* * * * *", "Mars/Base", {}, "timezone"),
        ("cron", "* * * * *", "CEST", {}, "timezone"),
        ("cron", "* * * * *", "UTC+3", {}, "timezone"),
        ("cron", "* * * * *", "europe/berlin", {}, "timezone"),
        ("cron", "* * * * *", "../etc/passwd", {}, "timezone"),
        ("cron", "* * * * *", "UTC", {"dst_gap": "later"}, "dst_gap"),
        ("cron", "* * * * *", "UTC", {"dst_overlap": "all"}, "dst_overlap"),
        ("rrule", "FREQ=HOURLY", "UTC", {"dst_gap": "skip", "dtstart": OLD}, "dst_gap"),
        ("interval", "1 h", "UTC", {"dst_overlap": "both", "dtstart": OLD}, "dst_overlap"),
        ("event", "user.created", "UTC", {}, "kind"),
    ],
)
def test_what_is_refused(kind, expr, zone, policy, field):
    with pytest.raises(InvalidSchedule) as caught:
        parse(kind, expr, zone, **policy)

    assert caught.value.field == field


def test_the_report_says_what_moves_and_why():
    spring, autumn = dst_report(parse("cron", "15,45 1,2 * * *", NEW_YORK), 2027)

    assert (spring.day, autumn.day) == (date(2027, 3, 14), date(2027, 11, 7))
    assert spring.change == "clocks go forward from 02:00 to 03:00 (UTC-05:00 to UTC-04:00)"
    assert [f"{o.at:%H:%M}" for o in spring.fires] == ["06:15", "06:45", "07:00"]
    assert spring.moved == (
        "02:15 does not exist: runs at 03:00, right after the gap",
        "02:45 does not exist: runs at 03:00, right after the gap",
    )
    assert [f"{o.at:%H:%M}" for o in autumn.fires] == ["05:15", "05:45", "07:15", "07:45"]
    assert (
        autumn.moved[0] == "01:15 comes twice: runs the first time, 05:15 UTC, and not at 06:15 UTC"
    )


def test_the_report_is_short_where_nothing_moves():
    assert dst_report(parse("cron", "0 9 * * *", "Asia/Tokyo"), 2027) == []
    assert [d.moved for d in dst_report(parse("cron", "0 9 * * *", NEW_YORK), 2027)] == [(), ()]
    lost = dst_report(parse("cron", "0 9 * * *", "Pacific/Apia"), 2011)[-1]
    assert (lost.day, lost.fires) == (date(2011, 12, 30), ())
    assert "change of date" in lost.moved[0]


def test_the_data_in_use_has_a_name():
    assert tzdata_version()[:2] == "20"
