"""The examples of RFC 5545 3.8.5.3, all of them, as they stand there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ordinaut.recurrence import parse

WORKDAYS = "MO,TU,WE,TH,FR"
ALL_DAYS = "SU,MO,TU,WE,TH,FR,SA"
TWENTY = [f"{h:02}:{m:02}" for h in range(9, 17) for m in (0, 20, 40)]


def days(text: str, at: str = "09:00") -> list[str]:
    """`1997-09 2 4-6; 10 1` as wall times."""
    found, year = [], ""
    for group in text.split(";"):
        month, *numbers = group.split()
        if "-" in month:
            year, month = month.split("-")
        for number in numbers:
            first, _, last = number.partition("-")
            for day in range(int(first), int(last or first) + 1):
                found.append(f"{year}-{int(month):02}-{day:02} {at}")
    return found


AUTUMN = "1997-09 2-30; 10 1-31; 11 1-30; 12 1-23"
JANUARIES = "1998-1 1-31; 1999-1 1-31; 2000-1 1-31"
TUESDAYS = "1997-09 2 9 16 23 30; 10 7 14 21 28; 11 4"
FIVE_WEEKS = "1997-09 2 4 9 11 16 18 23 25 30; 10 2"
OTHER_MWF = (
    "1997-09 1 3 5 15 17 19 29; 10 1 3 13 15 17 27 29 31; 11 10 12 14 24 26 28; 12 8 10 12 22"
)
FIRST_FRIDAYS = "1997-09 5; 10 3; 11 7; 12 5"

EXAMPLES = [  # DTSTART, rule, what the RFC lists, does it end there?
    ("19970902", "FREQ=DAILY;COUNT=10", days("1997-09 2-11"), True),
    ("19970902", "FREQ=DAILY;UNTIL=19971224T000000Z", days(AUTUMN), True),
    ("19970902", "FREQ=DAILY;INTERVAL=2",
     days("1997-09 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30; 10 2 4 6"), False),
    ("19970902", "FREQ=DAILY;INTERVAL=10;COUNT=5", days("1997-09 2 12 22; 10 2 12"), True),
    ("19980101", f"FREQ=YEARLY;UNTIL=20000131T140000Z;BYMONTH=1;BYDAY={ALL_DAYS}",
     days(JANUARIES), True),
    ("19980101", "FREQ=DAILY;UNTIL=20000131T140000Z;BYMONTH=1", days(JANUARIES), True),
    ("19970902", "FREQ=WEEKLY;COUNT=10", days(TUESDAYS), True),
    ("19970902", "FREQ=WEEKLY;UNTIL=19971224T000000Z",
     days(TUESDAYS + " 11 18 25; 12 2 9 16 23"), True),
    ("19970902", "FREQ=WEEKLY;INTERVAL=2;WKST=SU",
     days("1997-09 2 16 30; 10 14 28; 11 11 25; 12 9 23; 1998-1 6 20; 2 3 17"), False),
    ("19970902", "FREQ=WEEKLY;UNTIL=19971007T000000Z;WKST=SU;BYDAY=TU,TH", days(FIVE_WEEKS), True),
    ("19970902", "FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", days(FIVE_WEEKS), True),
    ("19970901", "FREQ=WEEKLY;INTERVAL=2;UNTIL=19971224T000000Z;WKST=SU;BYDAY=MO,WE,FR",
     days(OTHER_MWF), True),
    ("19970902", "FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH",
     days("1997-09 2 4 16 18 30; 10 2 14 16"), True),
    ("19970905", "FREQ=MONTHLY;COUNT=10;BYDAY=1FR",
     days(FIRST_FRIDAYS + "; 1998-1 2; 2 6; 3 6; 4 3; 5 1; 6 5"), True),
    ("19970905", "FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR", days(FIRST_FRIDAYS), True),
    ("19970907", "FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU",
     days("1997-09 7 28; 11 2 30; 1998-1 4 25; 3 1 29; 5 3 31"), True),
    ("19970922", "FREQ=MONTHLY;COUNT=6;BYDAY=-2MO",
     days("1997-09 22; 10 20; 11 17; 12 22; 1998-1 19; 2 16"), True),
    ("19970928", "FREQ=MONTHLY;BYMONTHDAY=-3",
     days("1997-09 28; 10 29; 11 28; 12 29; 1998-1 29; 2 26"), False),
    ("19970902", "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15",
     days("1997-09 2 15; 10 2 15; 11 2 15; 12 2 15; 1998-1 2 15"), True),
    ("19970930", "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1",
     days("1997-09 30; 10 1 31; 11 1 30; 12 1 31; 1998-1 1 31; 2 1"), True),
    ("19970910", "FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15",
     days("1997-09 10-15; 1999-3 10-13"), True),
    ("19970902", "FREQ=MONTHLY;INTERVAL=2;BYDAY=TU",
     days("1997-09 2 9 16 23 30; 11 4 11 18 25; 1998-1 6 13 20 27; 3 3 10 17 24 31"), False),
    ("19970610", "FREQ=YEARLY;COUNT=10;BYMONTH=6,7",
     days("1997-6 10; 7 10; 1998-6 10; 7 10; 1999-6 10; 7 10; 2000-6 10; 7 10; 2001-6 10; 7 10"),
     True),
    ("19970310", "FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3",
     days("1997-3 10; 1999-1 10; 2 10; 3 10; 2001-1 10; 2 10; 3 10; 2003-1 10; 2 10; 3 10"), True),
    ("19970101", "FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200",
     days("1997-1 1; 4 10; 7 19; 2000-1 1; 4 9; 7 18; 2003-1 1; 4 10; 7 19; 2006-1 1"), True),
    ("19970519", "FREQ=YEARLY;BYDAY=20MO", days("1997-5 19; 1998-5 18; 1999-5 17"), False),
    ("19970512", "FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO",
     days("1997-5 12; 1998-5 11; 1999-5 17"), False),
    ("19970313", "FREQ=YEARLY;BYMONTH=3;BYDAY=TH",
     days("1997-3 13 20 27; 1998-3 5 12 19 26; 1999-3 4 11 18 25"), False),
    ("19970605", "FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8",
     days("1997-6 5 12 19 26; 7 3 10 17 24 31; 8 7 14 21 28; 1998-6 4 11 18 25; 7 2 9 16 23 30;"
          "8 6 13 20 27; 1999-6 3 10 17 24; 7 1 8 15 22 29; 8 5 12 19 26"), False),
    ("19970902", "EXDATE:19970902T090000 RRULE:FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13",
     days("1998-2 13; 3 13; 11 13; 1999-8 13; 2000-10 13"), False),
    ("19970913", "FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13",
     days("1997-9 13; 10 11; 11 8; 12 13; 1998-1 10; 2 7; 3 7; 4 11; 5 9; 6 13"), False),
    ("19961105", "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
     days("1996-11 5; 2000-11 7; 2004-11 2"), False),
    ("19970904", "FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3",
     days("1997-9 4; 10 7; 11 6"), True),
    ("19970929", f"FREQ=MONTHLY;BYDAY={WORKDAYS};BYSETPOS=-2",
     days("1997-9 29; 10 30; 11 27; 12 30; 1998-1 29; 2 26; 3 30"), False),
    ("19970902", "FREQ=MINUTELY;INTERVAL=15;COUNT=6",
     [f"1997-09-02 {t}" for t in ("09:00", "09:15", "09:30", "09:45", "10:00", "10:15")], True),
    ("19970902", "FREQ=MINUTELY;INTERVAL=90;COUNT=4",
     [f"1997-09-02 {t}" for t in ("09:00", "10:30", "12:00", "13:30")], True),
    ("19970902", "FREQ=DAILY;BYHOUR=9,10,11,12,13,14,15,16;BYMINUTE=0,20,40",
     [f"1997-09-{d:02} {t}" for d in (2, 3) for t in TWENTY], False),
    ("19970902", "FREQ=MINUTELY;INTERVAL=20;BYHOUR=9,10,11,12,13,14,15,16",
     [f"1997-09-{d:02} {t}" for d in (2, 3) for t in TWENTY], False),
    ("19970805", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO",
     days("1997-8 5 10 19 24"), True),
    ("19970805", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU",
     days("1997-8 5 17 19 31"), True),
    ("20070115", "FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5",
     days("2007-1 15 30; 2 15; 3 15 30"), True),
    # The RFC adds 15:00, but its UNTIL, 17:00Z, is 13:00 on a clock of New York.
    ("19970902", "FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T170000Z",
     ["1997-09-02 09:00", "1997-09-02 12:00"], True),
    ("19970902", "FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T170000",
     ["1997-09-02 09:00", "1997-09-02 12:00", "1997-09-02 15:00"], True),
]  # fmt: skip


@pytest.mark.parametrize(("start", "rule", "expected", "ends"), EXAMPLES)
def test_the_rfc_s_own_examples(start, rule, expected, ends):
    text = f"DTSTART;TZID=America/New_York:{start}T090000\n"
    text += rule if ":" in rule else f"RRULE:{rule}"
    schedule = parse("rrule", text, "America/New_York")

    found = schedule.after(datetime(1990, 1, 1, tzinfo=UTC), len(expected) + 1)

    assert [f"{o.local:%Y-%m-%d %H:%M}" for o in found[: len(expected)]] == expected
    assert (len(found) == len(expected)) is ends
    assert all(o.local - o.at.replace(tzinfo=None) in (-HOUR * 4, -HOUR * 5) for o in found)


HOUR = timedelta(hours=1)
