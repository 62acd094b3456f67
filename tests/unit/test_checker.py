"""The checker of recorded histories: it finds nothing in a correct one, and each violation."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import checker
from tests.chaos.calendar import Undecided, occurrences
from tests.chaos.history import History, load
from tests.chaos.invariants import Finding, decide
from tests.postgres import Databases
from tests.unit.checker import VIOLATIONS, Break, Broken
from tests.unit.checker.world import World

ALL = [f"I{n}" for n in range(1, 26)]


@pytest.fixture(scope="module")
def recorded(
    databases: Databases, clock_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A correct history, recorded from the real engine."""
    directory = tmp_path_factory.mktemp("history")
    with databases.fresh(clock_template) as dsn:
        world = World(dsn, directory)
        try:
            yield world.record()
        finally:
            world.close()


@pytest.fixture(scope="module")
def frozen(recorded: Path) -> bytes:
    return pickle.dumps(load(recorded))


@pytest.fixture
def history(frozen: bytes) -> History:
    thawed: History = pickle.loads(frozen)
    return thawed


def violated(findings: list[Finding]) -> dict[str, list[str]]:
    return {f.id: [what for what, _ in f.violations] for f in findings if f.violations}


def test_a_correct_history_is_clean_and_everything_in_it_is_checked(history: History) -> None:
    findings = decide(history)

    assert violated(findings) == {}
    assert [f.id for f in findings] == ALL
    assert [f.id for f in findings if f.checked == 0] == ["I21"]


@pytest.mark.parametrize(
    ("id", "break_it"), VIOLATIONS, ids=[f"{id}-{function.__name__}" for id, function in VIOLATIONS]
)
def test_a_violation_is_found_by_its_invariant_alone(
    history: History, id: str, break_it: Break
) -> None:
    break_it(Broken(history))

    assert list(violated(decide(history))) == [id]


def test_every_invariant_that_is_decided_has_a_violation() -> None:
    assert {id for id, _ in VIOLATIONS} == set(ALL) - {"I21"}


# What is allowed, and what is said of it


def test_lines_that_a_crash_cut_off_are_passed_over_and_counted(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(recorded, tmp_path / "history")
    for name in ("witness", "client", "samples", "faults"):
        with open(copied / f"{name}.jsonl", "a") as file:
            file.write('{"e": "start", "run": "0196')

    assert checker.main([str(copied)]) == 0
    assert capsys.readouterr().out.count("1 lines were cut off and are passed over") == 4


def test_the_last_line_of_a_call_is_missing_and_its_answer_unknown(history: History) -> None:
    last = max(row["n"] for row in history.client if row["call"] == "enqueue")
    history.client = [r for r in history.client if r["n"] != last or r["t1"] is None]

    findings = {f.id: f for f in decide(history)}

    assert violated(list(findings.values())) == {}
    assert "1 runs come from calls whose answer was lost" in findings["I17"].notes


def test_an_unknown_enqueue_need_not_exist(history: History) -> None:
    call = next(row for row in history.client if row["call"] == "enqueue")
    history.client.append({**call, "n": 999, "t1": None, "args": {"idempotency_key": "never"}})

    assert violated(decide(history)) == {}


def failed_over(history: History, at: float) -> None:
    history.config["declared"]["async_failover"] = True
    history.faults.append({"fault": "promote", "target": "standby", "t0": at, "t1": at})


def test_what_a_declared_failover_took_is_named_and_no_violation(history: History) -> None:
    broken = Broken(history)
    call = broken.calls("complete_work")[0]
    failed_over(history, call["t1"] + 1)
    run = broken.row("task_run", lease_id=call["args"]["lease_id"])
    # It ran again, under another lease, which the promoted server knows.
    again = {**broken.seen(run, "start"), "token": "again"}
    history.witness += [
        {**again, "rt": again["rt"] + 5, "mt": again["mt"] + 5},
        {**again, "e": "end", "outcome": "success", "rt": again["rt"] + 6, "mt": again["mt"] + 6},
    ]
    run.update(lease_id="again", output=None)
    lost = {**broken.calls("enqueue")[0], "n": 999, "args": {}, "result": "gone", "t1": call["t1"]}
    history.client.append(lost)
    # The worker that holds it goes on until it hears that its lease is gone.
    history.witness.append({**again, "run": "gone", "work": "gone", "token": "gone"})

    findings = {f.id: f for f in decide(history)}

    assert violated(list(findings.values())) == {}
    assert findings["I7"].notes[0].startswith("allowed rerun, by the declared failover")
    assert findings["I9"].notes == ["lost, by the declared failover: run gone"]


def test_a_step_may_follow_a_need_that_a_declared_failover_forgot(history: History) -> None:
    broken = Broken(history)
    need, step = broken.step("fetch"), broken.step("left")
    start = broken.seen(step, "start")
    forgotten = {**start, "token": "forgotten", "mt": broken.seen(need, "end")["mt"] - 0.05}
    history.witness.insert(0, forgotten)
    undeclared = copy.deepcopy(history)
    failed_over(history, start["rt"])

    assert "I15" in violated(decide(undeclared))
    assert violated(decide(history)) == {}


def test_what_was_lost_long_before_a_failover_is_a_violation(history: History) -> None:
    call = Broken(history).calls("enqueue")[0]
    failed_over(history, call["t1"] + 600)
    history.samples = []
    history.client.append({**call, "n": 999, "args": {}, "result": "gone"})

    assert list(violated(decide(history))) == ["I9"]


def test_a_clock_that_was_shifted_on_purpose_is_no_evidence(history: History) -> None:
    for row in history.witness:
        if row["boot"] == "here" and row["e"] == "start":
            row["rt"] -= 3600
    assert "I12" in violated(decide(pickle.loads(pickle.dumps(history))))

    history.config["shifted"] = ["here"]

    assert violated(decide(history)) == {}


def test_what_cannot_be_decided_is_said(history: History) -> None:
    history.witness, history.samples, history.client = [], [], []
    history.config = {"now": history.config["now"]}

    findings = {f.id: f for f in decide(history)}

    assert violated(list(findings.values())) == {}
    assert findings["I8"].undecided == ["there is no witness"]
    assert findings["I18"].undecided == ["no fifo_keys are declared"]
    assert findings["I21"].undecided == ["one database is one tenant"]
    assert findings["I22"].undecided == ["no canary is declared"]
    assert {findings[n].verdict for n in ("I8", "I18", "I21", "I22", "I24")} == {"not decided"}


def test_a_violation_is_printed_with_its_rows_and_ends_with_1(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(recorded, tmp_path / "history")
    runs = (copied / "dump" / "task_run.jsonl").read_text().splitlines()
    row = next(json.loads(line) for line in runs if json.loads(line)["state"] == "timed_out")
    kept = [line for line in runs if row["run_id"] not in line]
    (copied / "dump" / "task_run.jsonl").write_text("\n".join(kept) + "\n")

    assert checker.main([str(copied)]) == 1

    out = capsys.readouterr().out
    assert f"VIOLATION: run {row['run_id']} was acknowledged and does not exist" in out
    assert out.splitlines()[-1].endswith("2 violated: I9, I17")


def test_a_directory_without_a_dump_is_no_history(tmp_path: Path) -> None:
    assert checker.main([str(tmp_path)]) == 2


def test_the_checker_never_imports_the_product(recorded: Path) -> None:
    script = (
        "import sys; from tests.chaos.checker import main; code = main(sys.argv[1:]);"
        "print([m for m in sys.modules if m.split('.')[0] in ('ordinaut', 'psycopg')]);"
        "sys.exit(code)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(recorded)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.splitlines()[-1] == "[]"


# Calendars, by another engine


def task(kind: str, expr: str, zone: str = "UTC", **fields: Any) -> dict[str, Any]:
    return {
        "schedule_kind": kind, "schedule_expr": expr, "timezone": zone, "start_at": None,
        "end_at": None, "created_at": "2026-03-29T00:10:00+00:00", **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (task("cron", "30 2 * * *", "Europe/Berlin"), ["03-29T01:00", "03-30T00:30"]),
        (task("cron", "@hourly"), ["03-29T01:00", "03-29T02:00"]),
        (task("cron", "0 */30 * * * *"), ["03-29T00:30", "03-29T01:00"]),
        (task("interval", "90 min"), ["03-29T01:40", "03-29T03:10"]),
        (task("interval", "15 min phase 2 min"), ["03-29T00:17", "03-29T00:32"]),
        (task("interval", "1 day 02:00:00", start_at="2026-03-30T00:00:00Z"),
         ["03-30T00:00", "03-31T02:00"]),
        (task("interval", "1 hour", end_at="2026-03-29T01:30:00Z"), ["03-29T01:10"]),
        (task("once", "2026-03-29T02:30", "Europe/Berlin"), ["03-29T01:00"]),
        (task("once", "2026-10-25T02:30", "Europe/Berlin"), ["10-25T00:30"]),
        (task("once", "2026-05-01T12:00+02:00"), ["05-01T10:00"]),
        (task("once", "2026-01-01T00:00"), []),
        (task("manual", ""), []),
    ],
)  # fmt: skip
def test_a_calendar_is_recomputed(task: dict[str, Any], expected: list[str]) -> None:
    after = datetime(2026, 3, 29, 0, 10, tzinfo=UTC)

    found = [at.strftime("%m-%dT%H:%M") for at in islice(occurrences(task, after), 2)]

    assert found == expected


@pytest.mark.parametrize(
    "task",
    [
        task("rrule", "FREQ=DAILY"),
        task("interval", "10 min after end"),
        task("interval", "a while"),
        task("once", "some day"),
        task("cron", "61 * * * *"),
        task("cron", "0 * * * *", dst_gap="skip"),
    ],
)
def test_a_calendar_of_another_kind_is_not_decided(task: dict[str, Any]) -> None:
    with pytest.raises(Undecided):
        list(islice(occurrences(task, datetime(2026, 3, 29, tzinfo=UTC)), 1))
