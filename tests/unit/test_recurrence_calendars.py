"""Unions, exclusions and intervals; and the sentences that describe them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ordinaut.recurrence import (
    Calendar,
    Excluded,
    InvalidSchedule,
    Union,
    describe,
    dst_report,
    excluding,
    parse,
)

BERLIN = "Europe/Berlin"
START = datetime(2026, 12, 23, 12, tzinfo=UTC)
CLOSED = {
    "name": "closed",
    "timezone": BERLIN,
    "dates": ["2026-12-25", "2026-12-26"],
    "ranges": [["2026-12-30T12:00", "2027-01-02"]],
    "weekly": [{"days": "SUN"}, {"days": "MON-FRI", "from": "22:00", "to": "06:00"}],
}


def cron(expr):
    return parse("cron", expr, BERLIN)


def walls(schedule, limit, start=START):
    return [f"{o.local:%m-%d %H:%M}" for o in schedule.after(start, limit)]


def test_a_union_fires_once_when_two_agree():
    both = Union((cron("0 9 * * *"), cron("0 9,10 * * *"), cron("30 9 * * *")))

    assert walls(both, 4) == ["12-24 09:00", "12-24 09:30", "12-24 10:00", "12-25 09:00"]


def test_a_calendar_takes_days_ranges_and_weekly_windows_away():
    open_hours = Union((cron("0 5,21,23 * * *"),), (Calendar.read(CLOSED),))

    # 24 Thu; 25, 26 closed; 27 Sunday; 28 Mon; 29 Tue; 30 Wed until noon; 2 Jan Saturday
    assert walls(open_hours, 6) == [
        "12-23 21:00", "12-24 21:00", "12-28 05:00", "12-28 21:00", "12-29 21:00", "01-02 21:00",
    ]  # fmt: skip


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens():
    calendar = Calendar.read(CLOSED)

    assert calendar.covers(datetime(2027, 1, 5, 4, tzinfo=UTC))  # Tuesday, opened on Monday
    assert not calendar.covers(datetime(2027, 1, 4, 4, tzinfo=UTC))  # Monday, Sunday opens none
    assert Union((cron("* * * * *"),), (calendar,)).excluded_by(START + timedelta(2)) == "closed"


def test_a_long_freeze_is_jumped_and_not_walked():
    freeze = Calendar.read({"ranges": [["2026-12-24T00:00Z", "2056-12-24T00:00Z"]]})
    each_second = Union((cron("* * * * * *"),), (freeze,))

    [found] = each_second.after(datetime(2026, 12, 24, tzinfo=UTC))

    assert found.at == datetime(2056, 12, 24, tzinfo=UTC)


def test_a_union_of_which_nothing_is_left_says_so():
    nights = Calendar.read(
        {"name": "quiet", "weekly": [{"days": "*", "from": "22:00", "to": "06:00"}]}
    )

    with pytest.raises(InvalidSchedule) as caught:
        Union((parse("cron", "0 3 * * *", "UTC"),), (nights,)).after(START)

    assert caught.value.field == "exclude"


def test_what_is_left_and_what_is_excluded_in_one_row():
    nights = Calendar.read({"name": "nights", "weekly": [{"from": "22:00", "to": "06:00"}]})
    weekend = [["2026-12-24T02:00", "2026-12-26"], ["2026-12-25", "2026-12-27T12:00"]]
    freeze = Calendar.read({"name": "freeze", "ranges": weekend})
    schedule = excluding(parse("cron", "0 */3 * * *", "UTC"), [nights, freeze])

    found = [
        f"{f.at:%d %H}" if not isinstance(f, Excluded)
        else f"{f.first.at:%d %H} to {f.until:%d %H} {f.by}"
        for f, _ in zip(schedule.judged(START), range(8), strict=False)
    ]  # fmt: skip

    assert found == [
        "23 15", "23 18", "23 21", "24 00 to 24 06 nights", "24 06 to 27 12 freeze",
        "27 12", "27 15", "27 18",
    ]  # fmt: skip
    assert schedule.excluded_by(datetime(2026, 12, 24, 3, tzinfo=UTC)) == "nights, freeze"
    assert schedule.excluded_by(datetime(2026, 12, 27, 12, tzinfo=UTC)) is None
    assert [o.at.hour for o in schedule.whole.after(START, 5)] == [15, 18, 21, 0, 3]


def test_a_union_without_and_with_exclusions_is_one_union():
    text = '[{"kind": "cron", "expr": "0 9 * * *"}, {"kind": "once", "expr": "2026-12-24T10:00"}]'
    both = parse("union", text, BERLIN, dtstart=START)
    without = excluding(both, [Calendar.read(CLOSED)])

    assert walls(both, 3) == ["12-24 09:00", "12-24 10:00", "12-25 09:00"]
    assert walls(without, 3) == ["12-24 09:00", "12-24 10:00", "12-28 09:00"]
    assert excluding(both, []) is both
    assert describe(without) == (
        "At 09:00; and once, at 2026-12-24T10:00; but not in closed, Europe/Berlin."
    )


@pytest.mark.parametrize(
    ("text", "policy", "field"),
    [
        ("", None, "union"), ("{}", None, "union"), ("[]", None, "union"),
        ("[" * 100_000, None, "union"), ("[" + '"x",' * 20 + '"x"]', None, "union"),
        ('["@daily"]', None, "member 1"), ('[{"kind": "cron"}]', None, "member 1"),
        ('[{"kind": "union", "expr": "[]"}]', None, "member 1"),
        ('[{"kind": ["cron"], "expr": "@daily"}]', None, "member 1"),
        ('[{"kind": "cron", "expr": "@daily", "x": 1}]', None, "member 1"),
        ('[{"kind": "cron", "expr": "@daily"}, {"kind": "cron", "expr": "0 0 30 2 *"}]', None,
         "member 2 (cron), day of month"),
        ('[{"kind": "interval", "expr": "5 min"}]', "skip", "dst_gap"),
        ('[{"kind": "rrule", "expr": "FREQ=HOURLY"}]', "skip", "member 1 (rrule), dst_gap"),
    ],
)  # fmt: skip
def test_a_bad_union_is_refused_with_its_member(text, policy, field):
    with pytest.raises(InvalidSchedule) as caught:
        parse("union", text, BERLIN, dtstart=START, dst_gap=policy)

    assert caught.value.field == field


def test_quiet_hours_in_a_repeated_hour_hold_both_times():
    quiet = Calendar.read(
        {"timezone": BERLIN, "weekly": [{"days": "*", "from": "02:00", "to": "02:30"}]}
    )
    quarters = Union((cron("*/15 * * * *"),), (quiet,))

    found = quarters.after(datetime(2026, 10, 24, 23, 50, tzinfo=UTC), 5)

    assert [f"{o.at:%H:%M} {o.local:%H:%M}" for o in found] == [
        "00:30 02:30", "00:45 02:45", "01:30 02:30", "01:45 02:45", "02:00 03:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        {"days": ["2026-12-25"]},
        {"dates": ["25.12.2026"]},
        {"dates": ["2026-02-30"]},
        {"ranges": [["2026-12-24", "2026-12-23"]]},
        {"ranges": ["2026-12-24"]},
        {"ranges": [5]},
        {"ranges": "2026-12-24"},
        {"dates": {"2026-12-24": 1}},
        {"weekly": ["SUN"]},
        {"ranges": [["2026-12-24", "later"]]},
        {"weekly": [{"days": "MON#2"}]},
        {"weekly": [{"days": "FUNDAY"}]},
        {"weekly": [{"days": "MON", "from": "25:00"}]},
        {"weekly": [{"days": "MON", "until": "05:00"}]},
        {"timezone": "Mars/Base"},
    ],
)
def test_a_bad_calendar_is_refused(data):
    with pytest.raises(InvalidSchedule):
        Calendar.read(data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("2 s", 2), ("1.5 min", 90), ("5m", 300), ("1 hour 30 minutes", 5400),
        ("1h30m", 5400), ("01:30:00", 5400), ("1 day", 86400), ("2 weeks", 1209600),
        ("PT15M", 900), ("P1DT12H", 129600), ("P1W", 604800), ("pt0.5h", 1800),
        ("3650 days", 315360000),
    ],
)  # fmt: skip
def test_an_interval_is_counted_from_its_anchor(text, seconds):
    anchor = datetime(2026, 3, 28, 12, tzinfo=UTC)
    schedule = parse("interval", text, BERLIN, dtstart=anchor)

    assert schedule.after(anchor - timedelta(1))[0].at == anchor
    assert [o.at - anchor for o in schedule.after(anchor, 2)] == [
        timedelta(seconds=seconds), timedelta(seconds=2 * seconds)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.5 s", "soon", "5 x", "1 month", "2 years", "P1M", "P1Y", "PT", "P", "-5 min",
     "5 min ago", "1e9", "inf", "nan", "999999999 w", "1:99", "PT..5S", "٣ s"],
)  # fmt: skip
def test_what_is_no_interval(text):
    with pytest.raises(InvalidSchedule) as caught:
        parse("interval", text, "UTC", dtstart=START)

    assert caught.value.field == "interval"


@pytest.mark.parametrize(
    ("kind", "expr", "sentence"),
    [
        ("cron", "30 2 * * *", "At 02:30, Europe/Berlin."),
        ("cron", "*/5 9-17 * * MON-FRI", "Every 5 minutes of hour 9-17 on Monday, Tuesday, "
         "Wednesday, Thursday and Friday, Europe/Berlin."),
        ("cron", "0 9 1 1,7 MON#2", "At 09:00 on day 1 of the month or on MON#2 in Jan and Jul, "
         "Europe/Berlin."),
        ("rrule", "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE;COUNT=5",
         "Every 2 weeks on Monday and Wednesday, 5 times, from 2026-12-23 13:00:00, "
         "Europe/Berlin."),
        ("interval", "90 s", "Every 0:01:30 of elapsed time, counted from 2026-12-23 12:00:00 UTC, "
         "Europe/Berlin."),
        ("once", "2027-01-01T09:00", "Once, at 2027-01-01T09:00, Europe/Berlin."),
    ],
)  # fmt: skip
def test_a_schedule_as_a_sentence(kind, expr, sentence):
    assert describe(parse(kind, expr, BERLIN, dtstart=START)) == sentence


def test_a_union_is_described_and_reported_by_its_members():
    union = Union((cron("30 2 * * *"), parse("rrule", "FREQ=DAILY;BYHOUR=2", "Europe/Paris",
                   dtstart=START)), (Calendar.read(CLOSED),))  # fmt: skip

    report = dst_report(union, 2027)

    assert describe(union).endswith("; but not in closed, Europe/Berlin.")
    assert [(d.timezone, len(d.moved)) for d in report] == [
        (BERLIN, 1), ("Europe/Paris", 1), (BERLIN, 1), ("Europe/Paris", 1)
    ]  # fmt: skip
