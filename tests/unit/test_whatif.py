"""task simulate, forecast and task plan on a real database: what they say, and that they touch
nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ordinaut import Ordinaut, calls, db, planner
from ordinaut.apply import apply
from ordinaut.cli.main import invoke
from ordinaut.foresight import plan
from ordinaut.manifest import ManifestError, parse

Cli = Callable[..., tuple[int, Any]]
NOW = datetime(2027, 3, 26, 12, tzinfo=UTC)
TASKS = """\
calendars:
  - {name: holidays, timezone: Europe/Berlin, dates: [2027-03-29]}
tasks:
  - name: night
    uses: echo
    schedule: {cron: 30 2 * * *, timezone: Europe/Berlin}
    exclude: [holidays]
  - {name: often, uses: echo, schedule: {every: 20 min}, overlap: skip, catchup: all}
  - {name: by-hand, uses: echo, schedule: manual}
  - {name: after, uses: echo, schedule: {every: 10 min after end}}
"""


@pytest.fixture
def cli(dsn: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Cli:
    """Run a command; return its code and what it said, as JSON where that was asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.yaml").write_text(TASKS)

    def run(*argv: str) -> tuple[int, Any]:
        code = invoke([*argv, "--dsn", dsn])
        said = capsys.readouterr()
        text = said.out or said.err
        return code, json.loads(text) if "--json" in argv else text

    return run


def all_rows(dsn: str) -> list[Any]:
    """All that a plan or a simulation could have changed."""
    with db.connect(dsn, name="test") as conn:
        tables = ("task", "task_schedule", "calendar", "occurrence", "due_work", "run_log")
        return [
            conn.execute(f"select t::text from ordinaut.{table} as t order by 1").fetchall()
            for table in tables
        ]


SIMULATE = (
    "task", "simulate", "--from", "2027-03-27", "--to", "2027-03-30T12:00", "--duration", "30 min",
    "--outage", "2027-03-27T12:00/2027-03-27T13:30",
)  # fmt: skip


def test_simulate_says_of_a_live_task_and_of_its_manifest_the_same(cli: Cli, dsn: str) -> None:
    _, from_file = cli(*SIMULATE, "--file", "tasks.yaml", "--json")
    cli("task", "apply", "tasks.yaml")
    before = all_rows(dsn)
    code, told = cli(*SIMULATE, "night", "--json")
    assert code == 0
    assert told["tasks"][0] == next(t for t in from_file["tasks"] if t["task"] == "default/night")
    assert [(o["local"], o["decision"]) for o in told["tasks"][0]["occurrences"]] == [
        ("2027-03-27 02:30:00", "fired"),
        ("2027-03-28 03:00:00", "fired"),
        ("2027-03-29 02:30:00", "excluded"),
        ("2027-03-30 02:30:00", "fired"),
    ]
    assert told["tasks"][0]["counts"] == {"fired": 3, "excluded": 1}
    assert all_rows(dsn) == before


def test_simulate_says_what_is_odd_and_what_nobody_knows(cli: Cli) -> None:
    code, text = cli(*SIMULATE, "--file", "tasks.yaml", "--only-odd")
    assert code == 0
    assert "clocks: gap: 2027-03-28 02:30:00 was skipped" in text
    assert "calendar holidays" in text
    assert "overlap skip: an earlier run is live" in text
    assert "default/night: 3 fired, 1 excluded" in text
    assert "2027-03-30 02:30:00" not in text
    assert "default/by-hand: nobody knows when it occurs" in text


def test_the_example_of_odd_schedules_over_both_nights(cli: Cli) -> None:
    file = str(Path(__file__).parents[2] / "examples" / "schedules.yaml")
    for night in ("2026-10-24", "2027-03-27"):
        end = str(date.fromisoformat(night) + timedelta(days=2))
        _, told = cli("task", "simulate", "--file", file, "--from", night, "--to", end, "--json")
        assert told["untold"] == ["schedules/when-the-queue-is-long"]
        both = next(t for t in told["tasks"] if t["task"] == "schedules/half-past-two-both")
        fired = [o["local"] for o in both["occurrences"]]
        assert len(fired) == (3 if night == "2026-10-24" else 1)


def test_simulate_plays_an_expression_with_other_policies(cli: Cli) -> None:
    said = ("--cron", "*/10 * * * *", "--overlap", "buffer_all", "--catchup", "all", "--json")
    code, told = cli(*SIMULATE, *said)
    assert code == 0
    assert set(told["tasks"][0]["counts"]) == {"fired", "buffered"}
    assert told["duration"] == 1800.0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "give a task, or --file"),
        (("x", "--cron", "* * * * *"), "give a task, or --file"),
        (("--cron", "61 * * * *"), "minute"),
        (("--cron", "* * * * *", "--timezone", "Mars/Base"), "timezone"),
        (("--cron", "* * * * *", "--overlap", "maybe"), "'maybe' is not one of allow, skip"),
        (("--cron", "* * * * *", "--outage", "yesterday"), "not written as FROM/TO"),
        (("--cron", "* * * * *", "--from", "soon"), "'soon' is no time"),
        (("--cron", "* * * * *", "--duration", "1 month"), "months and years differ"),
        (("--cron", "* * * * * *", "--to", "2028-01-01"), "more than 100000 times"),
        (("--cron", "* * * * *", "--to", "2020-01-01"), "must end after it begins"),
        (("--file", "tasks.yaml", "--task", "nobody"), "has no task nobody"),
        (("--file", "tasks.yaml", "--timezone", "UTC"), "policies of its own"),
    ],
)
def test_a_mistake_is_one_sentence(cli: Cli, argv: tuple[str, ...], says: str) -> None:
    code, text = cli("task", "simulate", *argv)
    assert code == 2
    assert says in text
    assert "Traceback" not in text


def test_a_manifest_without_its_calendar_has_a_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(TASKS.replace("name: holidays", "name: other"))
    code, text = cli("task", "simulate", "--file", "tasks.yaml", "--task", "night")
    assert code == 78
    assert text.startswith("error: tasks.yaml:7: task night, exclude: there is no calendar hol")


def test_python_simulates_what_is_left_of_max_runs(dsn: str) -> None:
    day = timedelta(days=1)
    with Ordinaut(dsn) as ordinaut:
        ordinaut.create_task(
            "twice", "echo", schedule_kind="cron", schedule_expr="0 0 * * *", max_runs=2
        )
        now = datetime.now(UTC)
        ahead = ordinaut.simulate("twice", now + day, now + 9 * day)
        assert [fate.decision for fate in ahead] == ["fired", "fired"]
        with db.connect(dsn, name="test") as conn:
            conn.execute("update ordinaut.task_schedule set fired_count = 1")
        assert len(ordinaut.simulate("twice", now + day, now + 9 * day)) == 1
        assert len(ordinaut.simulate("twice", now - 9 * day, now)) == 2


def test_forecast_counts_what_the_calendars_say(cli: Cli, dsn: str) -> None:
    cli("task", "apply", "tasks.yaml")
    with db.connect(dsn, name="test") as conn:
        every = {"schedule_kind": "cron", "schedule_expr": "*/5 * * * *", "namespace": "bars"}
        calls.create_task(conn, "ends", "echo", **every, end_at="2099-03-28T01:10Z")
        calls.create_task(conn, "thrice", "echo", **every, start_at="2099-03-28", max_runs=3)
        calls.create_task(conn, "excluded", "echo", **every, exclude=[], end_at="2099-01-01")
        calls.create_task(conn, "paused", "echo", **every)
        calls.pause_task(conn, "bars/paused")
        while planner.step(conn)[0]:
            pass
    before = all_rows(dsn)
    window = ("--from", "2099-03-28T00:00Z", "--to", "2099-03-28T02:00Z", "--bucket", "30 min")
    code, told = cli("forecast", *window, "--namespace", "bars", "--json")
    assert code == 0
    assert [b["count"] for b in told["buckets"]] == [6 + 3, 6, 3, 0]
    assert told["busiest"] == "2099-03-28T00:00:00+00:00"
    assert told["buckets"][0]["top"] == [
        {"task": "bars/ends", "count": 6}, {"task": "bars/thrice", "count": 3}
    ]  # fmt: skip
    code, text = cli("forecast", *window)
    assert "◀ busiest" in text
    assert "of 1 at most the next is known: default/after" in text
    assert all_rows(dsn) == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--bucket", "1 s", "--to", "2099-01-01"), "more than 2000: widen them"),
        (("--bucket", "soon"), "is not a duration"),
        (("--to", "2020-01-01"), "must end after it begins"),
        (("--from", "now"), "'now' is no time"),
    ],
)
def test_a_forecast_is_bounded(cli: Cli, argv: tuple[str, ...], says: str) -> None:
    code, text = cli("forecast", *argv)
    assert code == 2
    assert says in text


@pytest.mark.slow
def test_a_plan_is_empty_when_apply_does_nothing(cli: Cli, dsn: str, tmp_path: Path) -> None:
    code, told = cli("task", "plan", "tasks.yaml", "--json")
    assert (code, told["changes"]) == (0, 5)
    assert all_rows(dsn)[0] == []
    cli("task", "apply", "tasks.yaml")
    before = all_rows(dsn)
    same = TASKS.replace("20 min", "1200 s").replace("30 2 * * *", '"30 2 * * *"')
    longer = TASKS.replace("[holidays]", "[holidays]\n    timeout: null\n    grace: 1 min")
    for text in (TASKS, same, longer):
        (tmp_path / "tasks.yaml").write_text(text)
        code, told = cli("task", "plan", "tasks.yaml", "--check", "--json")
        assert (code, told["changes"]) == (0, 0), text
        assert {item["action"] for item in told["items"]} == {"unchanged"}
        _, applied = cli("task", "apply", "tasks.yaml", "--json")
        assert {row["action"] for row in applied} == {"unchanged"}
    for old, new in (
        ("20 min", "21 min"), ("overlap: skip", "overlap: allow"), ("2027-03-29", "2027-03-30"),
        ("[holidays]", "[]"), ("uses: echo", "uses: fail"),
    ):  # fmt: skip
        (tmp_path / "tasks.yaml").write_text(TASKS.replace(old, new))
        code, text = cli("task", "plan", "tasks.yaml", "--check")
        assert code == 1, new
        assert "nothing was changed" in text
    assert all_rows(dsn) == before


def test_a_plan_lists_fields_and_the_firings_that_move(dsn: str) -> None:
    with db.connect(dsn, name="test") as conn:
        conn.execute("select set_config('test.now', %s, false)", [NOW.isoformat()])
        apply(conn, parse(TASKS, "tasks.yaml"))
        calls.create_task(conn, "other", "echo", schedule_kind="cron",
                          schedule_expr="0 8 * * *", exclude=["holidays"])  # fmt: skip
        text = TASKS.replace("30 2 * * *", "30 4 * * *").replace("2027-03-29", "2027-03-30")
        found = plan(conn, parse(text, "tasks.yaml"), NOW, timedelta(days=7))
        by_name = {one.name: one for one in found}
        assert {name: one.action for name, one in by_name.items()} == {
            "default/holidays": "updated", "default/night": "updated",
            "default/often": "unchanged", "default/by-hand": "unchanged",
            "default/after": "unchanged", "default/other": "affected",
        }  # fmt: skip
        night = by_name["default/night"]
        assert night.fields == {"schedule_expr": ("30 2 * * *", "30 4 * * *")}
        assert [f"{at:%d %H:%M}" for at in night.disappear] == [
            "27 01:30", "28 01:00", "30 00:30", "31 00:30", "01 00:30", "02 00:30",
        ]  # fmt: skip
        assert [f"{at:%d %H:%M}" for at in night.appear] == [
            "27 03:30", "28 02:30", "29 02:30", "31 02:30", "01 02:30", "02 02:30",
        ]  # fmt: skip
        other = by_name["default/other"]
        assert [f"{at:%d %H:%M}" for at in other.appear] == ["29 08:00"]
        assert [f"{at:%d %H:%M}" for at in other.disappear] == ["30 08:00"]
        with pytest.raises(ManifestError, match="task often, schedule"):
            plan(conn, parse(TASKS.replace("20 min", "x"), "tasks.yaml"), NOW, timedelta(days=7))


def test_a_long_list_of_firings_is_cut(cli: Cli, tmp_path: Path) -> None:
    cli("task", "apply", "tasks.yaml")
    (tmp_path / "tasks.yaml").write_text(TASKS.replace("20 min", "1 s"))
    code, text = cli("task", "plan", "tasks.yaml")
    assert code == 0
    assert "schedule_expr: 20 min -> 1 s" in text
    assert "more" in text
    assert len(text.splitlines()) < 30
