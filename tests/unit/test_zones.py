"""Zones: what the server, this host and the tzdata package say of them, and who says otherwise."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import calls, zones
from ordinaut.cli.main import invoke
from ordinaut.recurrence.zone import Zone

FROM, TO = datetime(2005, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, tzinfo=UTC)

CHANGES = {  # between FROM and TO: of 20 years that no release will rewrite
    "UTC": 0,
    "Asia/Kolkata": 0,
    "Australia/Lord_Howe": 40,
    "America/Sao_Paulo": 29,
    "Africa/Casablanca": 47,
    "Pacific/Apia": 23,
    "Europe/Berlin": 40,
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_server_knows_every_change_to_the_second(conn, name):
    ours = list(Zone(name).changes(FROM, TO))
    there = calls.zone_changes(conn, name, FROM, TO)
    assert there[0] == (FROM, Zone(name).offset(FROM))
    assert there[1:] == [(change.at, change.after) for change in ours]
    assert len(ours) == CHANGES[name]


def test_lord_howe_moves_by_half_an_hour(conn):
    changes = calls.zone_changes(conn, "Australia/Lord_Howe", datetime(2024, 1, 1, tzinfo=UTC), TO)
    assert changes == [
        (datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=11)),
        (datetime(2024, 4, 6, 15, tzinfo=UTC), timedelta(hours=10, minutes=30)),
        (datetime(2024, 10, 5, 15, 30, tzinfo=UTC), timedelta(hours=11)),
    ]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CET-1CEST", FROM, TO),
        ("Mars/Base", FROM, TO),
        ("Europe/Berlin", TO, FROM),
        ("Europe/Berlin", FROM, FROM + timedelta(days=21 * 366)),
        ("Europe/Berlin", None, TO),
    ],
)
def test_what_is_no_zone_or_no_span_is_refused(conn, name, low, high):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute("select * from ordinaut.zone_changes(%s, %s, %s)", [name, low, high])


@pytest.fixture
def doctor(dsn: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    """Run doctor; return what it says of zones: verdict and detail by check."""
    monkeypatch.chdir(tmp_path)

    def run() -> dict[str, tuple[str, str]]:
        invoke(["doctor", "--dsn", dsn, "--json"])
        findings = json.loads(capsys.readouterr().out)["findings"]
        return {f["check"]: (f["verdict"], f["detail"]) for f in findings}

    return run


def planned(dsn: str, *names: str, tzdata: str = "2025b") -> None:
    with psycopg.connect(dsn) as conn:
        for name in names:
            calls.create_task(
                conn, name.replace("/", "-"), "echo", schedule_kind="cron",
                schedule_expr="@daily", timezone=name,
            )  # fmt: skip
        for task in calls.unplanned_tasks(conn):
            calls.plan_task(conn, task.task_id, task.revision, [], task.now, tzdata)


def test_doctor_says_who_disagrees_on_a_zone_from_when_on_and_what_to_do(
    doctor, dsn, tmp_path, monkeypatch
):
    planned(dsn, "Europe/Berlin", "Asia/Tokyo")
    system = tmp_path / "zoneinfo"
    (system / "Europe").mkdir(parents=True)
    (system / "Asia").mkdir()
    package = Path(zones.package())
    shutil.copy(package / "Asia/Tokyo", system / "Asia/Tokyo")
    shutil.copy(package / "Africa/Algiers", system / "Europe/Berlin")  # UTC+1, no summer time
    monkeypatch.setenv("TZDIR", str(system))

    verdict, detail = doctor()["zone Europe/Berlin"]
    assert verdict == "warn"
    assert f"system ({system}) +01:00" in detail
    assert "+02:00" in detail
    assert "default/Europe-Berlin" in detail
    assert "zone Asia/Tokyo" not in doctor()


def test_the_zones_of_calendars_are_in_use_too(conn):
    calls.set_calendar(conn, "freeze", {"dates": ["2027-12-24"]}, timezone="Asia/Tokyo")
    [use] = calls.zones_in_use(conn)
    assert (use.timezone, use.uses, use.example) == ("Asia/Tokyo", 1, "calendar default/freeze")
    assert use.releases is None


def test_doctor_is_content_where_all_agree(doctor, dsn, tmp_path, monkeypatch):
    planned(dsn, "Asia/Tokyo")
    monkeypatch.setenv("TZDIR", zones.package())
    verdict, detail = doctor()["zones"]
    assert verdict == "ok", detail
    assert detail.startswith("1 in use")


def test_doctor_names_a_zone_that_a_copy_lacks(doctor, dsn, tmp_path, monkeypatch):
    planned(dsn, "Asia/Tokyo")
    (tmp_path / "zoneinfo").mkdir()
    monkeypatch.setenv("TZDIR", str(tmp_path / "zoneinfo"))
    verdict, detail = doctor()["zone Asia/Tokyo"]
    assert verdict == "warn"
    assert "does not know it" in detail


def test_a_host_without_zones_is_no_disagreement(doctor, dsn, monkeypatch):
    planned(dsn, "Asia/Tokyo")
    monkeypatch.setenv("TZDIR", "/nowhere")
    assert doctor()["zones"][0] == "ok"


@pytest.mark.parametrize(
    ("release", "verdict", "says"),
    [("2025b", "warn", "a scheduler"), ("2199z", "warn", "pip install -U tzdata")],
)
def test_doctor_names_the_releases_that_plans_were_made_with(doctor, dsn, release, verdict, says):
    planned(dsn, "Asia/Tokyo", tzdata=release)
    found = doctor()["tzdata"]
    assert found[0] == verdict
    assert release in found[1]
    assert says in found[1]


def test_the_package_is_pinned_to_a_range():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    [pin] = [d for d in project["project"]["dependencies"] if d.startswith("tzdata")]
    assert pin.startswith("tzdata>=")
    assert "<" in pin
