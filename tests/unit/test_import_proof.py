"""The proof bites: another calendar, another clock or another zone is found, and shown."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
import typer

from ordinaut.cli import imports
from ordinaut.importing.crontab import read_crontab
from ordinaut.importing.found import Found, Job
from ordinaut.importing.proof import compare, prove
from ordinaut.importing.reference import NotCron, firings, read
from ordinaut.recurrence import InvalidSchedule, parse

NOW = datetime(2026, 10, 1, tzinfo=UTC)


def job(expr: str, was: str | None = None, **more: Any) -> Job:
    given = {"kind": "cron", "timezone": "Europe/Berlin", "daemon": "cron"} | more
    schedule = given.pop("schedule", {})
    task = {"name": "a", "schedule": schedule}
    return Job("tab:1", task, was or expr, given["kind"], expr, given["timezone"], given["daemon"])


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        ("30 2 * * *", "31 2 * * *", {}),
        ("0 0 1 * 1", "0 0 */1 * 1", {}),
        ("30 2 * * *", "30 2 * * *", {"schedule": {"dst_gap": "skip"}}),
        ("30 2 * * *", "30 2 * * *", {"schedule": {"dst_overlap": "both"}}),
        ("30 2 * * *", "30 2 * * *", {"daemon": "pg_cron"}),
        ("*/30 2 * * *", "0,30 2 * * *", {}),
        ("59 s", "30 seconds", {"kind": "interval", "daemon": "pg_cron"}),
    ],
)
def test_a_difference_is_found_and_shown(ours, theirs, more):
    proof = prove(job(ours, theirs, **more), NOW)
    assert proof.verdict == "differs"
    first = proof.differences[0]
    assert first.ours != first.theirs
    assert first.n >= 1


def test_a_difference_is_said_and_is_exit_code_1(capsys):
    with pytest.raises(typer.Exit) as ended:
        imports.answer(Found(items=[job("30 2 * * *", was="31 2 * * *")]), None, True)
    assert ended.value.exit_code == 1
    assert "a: firing 1: ours 2" in capsys.readouterr().err
    imports.answer(Found(items=[job("30 2 * * *")]), None, True)
    imports.answer(Found(items=[job("30 2 * * *", was="31 2 * * *")]), None, False)


def test_the_first_differences_are_shown_and_an_end_is_one():
    days = [NOW + timedelta(days=n) for n in range(5)]
    assert compare("w", days, days) == ()
    [found] = compare("w", days, days[:4])
    assert (found.n, found.ours, found.theirs) == (5, days[4], None)
    assert [d.n for d in compare("w", days, days[1:])] == [1, 2, 3]


@pytest.mark.parametrize(
    ("night", "expr", "cron", "pg_cron"),
    [  # UTC; the first column is what Debian's cron 3.0pl1-162 was seen to do in these nights
        ("2026-10-25", "30 2 * * *", "00:30", "00:30 01:30"),
        ("2026-10-25", "5,35 2 * * *", "00:05 00:35", "00:05 00:35 01:05 01:35"),
        ("2026-10-25", "15 * * * *", "00:15 01:15 02:15", "00:15 01:15 02:15"),
        ("2026-10-25", "0 2-3 * * *", "00:00 02:00", "00:00 01:00 02:00"),
        ("2026-10-25", "40 */2 * * *", "00:40 01:40", "00:40 01:40"),
        ("2026-10-25", "50 0-23 * * *", "00:50 02:50", "00:50 01:50 02:50"),
        ("2027-03-28", "30 2 * * *", "01:00", ""),
        ("2027-03-28", "15 * * * *", "00:15 01:15 02:15", "00:15 01:15 02:15"),
        ("2027-03-28", "40 */2 * * *", "02:40", "02:40"),
        ("2027-03-28", "50 0-23 * * *", "00:50 01:00 01:50 02:50", "00:50 01:50 02:50"),
    ],
)
def test_the_nights_of_berlin(night, expr, cron, pg_cron):
    begin = datetime.fromisoformat(f"{night}T00:00Z") - timedelta(minutes=1)
    end = begin + timedelta(hours=3)
    for daemon, expected in (("cron", cron), ("pg_cron", pg_cron)):
        found = islice(firings(read(expr), "Europe/Berlin", begin, daemon), 200)
        fired = [f"{at:%H:%M}" for at in found if at <= end]
        assert fired == expected.split() if expected else fired == [], daemon


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* * 0 * *", "* * * 0 *", "* * * * 8",
     "5-1 * * * *", "*/0 * * * *", "5/2 * * * *", "a * * * *", "* * * foo *", "* * $ * *",
     "@reboot", "@DAILY", "1,,2 * * * *", "-1 * * * *",
     "* * * * sat-sun", "\u0663 * * * *", "* jan * * *"],
)  # fmt: skip
def test_what_cron_does_not_read_is_refused(text):
    with pytest.raises(NotCron):
        read(text)


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca",
         "America/Santiago", "Africa/Cairo", "Pacific/Chatham", "Antarctica/Troll")  # fmt: skip


def field(dice: random.Random, low: int, high: int) -> str:
    def part() -> str:
        first, last = sorted((dice.randint(low, high), dice.randint(low, high)))
        forms = ["*", f"*/{dice.randint(1, high - low)}", f"{first}", f"{first}-{last}"]
        return dice.choice([*forms, f"{first}", f"{first}-{last}/{dice.randint(1, high - low)}"])

    return ",".join(part() for _ in range(dice.choice([1, 1, 1, 2])))


@pytest.mark.parametrize("seed", range(40))
def test_our_calendars_are_cron_s_and_pg_cron_s(seed):
    """Two implementations that share no code, on expressions that nobody would write."""
    dice = random.Random(seed)
    expr = " ".join(field(dice, *bounds) for bounds in ((0, 59), (0, 5), (1, 31), (1, 12), (0, 6)))
    zone = dice.choice(ZONES)
    for daemon, policy in (("cron", {}), ("pg_cron", {"dst_gap": "skip", "dst_overlap": "both"})):
        try:
            ours = [o.at for o in parse("cron", expr, zone, **policy).after(NOW, 300)]
        except InvalidSchedule as exc:
            assert "never occurs" in exc.reason
            ours = []
        theirs = list(islice(firings(read(expr, daemon), zone, NOW, daemon), 300))
        assert ours == theirs, (daemon, expr, zone)


def test_croniter_is_asked_where_it_reads_as_cron_does():
    asked = {
        expr: prove(job(expr), NOW).witnesses
        for expr in ("*/5 * * * *", "5-5 * * * *", "0 0 1,* * 1", "0 0 1-10 * */2")
    }
    assert [len(witnesses) for witnesses in asked.values()] == [2, 1, 1, 2]


def test_the_proof_of_a_crontab_is_of_its_zone():
    [ours] = read_crontab(b"30 2 * * * true", "tab", timezone="America/New_York").jobs
    assert prove(ours, NOW).timezone == "America/New_York"
    assert prove(ours, NOW).until == prove(ours, NOW + timedelta(minutes=1)).until
