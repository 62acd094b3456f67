"""The command line, the manifests and the Python API on a real database."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import Ordinaut, calls, db
from ordinaut.cli.main import invoke
from ordinaut.errors import Conflict, NotFound, RunFailed, WaitTimeout

TASKS = """\
tasks:
  - {name: a, uses: echo, schedule: {every: 5 min}, timeout: 10 s, retry: {base: 1 s}}
  - {name: b, uses: echo, schedule: manual, priority: 3}
  - {name: c, uses: echo, schedule: {at: "2099-01-01T10:00"}, timezone: Europe/Berlin}
"""


@pytest.fixture
def cli(dsn: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    """Run a command; return its code and what it said, as JSON where that was asked for."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, Any]:
        code = invoke([*argv, "--dsn", dsn])
        said = capsys.readouterr()
        text = said.out or said.err
        return code, json.loads(text) if "--json" in argv else text

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "tasks.yaml").write_text(text)
        return "tasks.yaml"

    return write


def actions(answer: tuple[int, Any]) -> dict[str, str]:
    code, rows = answer
    assert code == 0, rows
    return {row["task"].removeprefix("default/"): row["action"] for row in rows}


def revisions(dsn: str) -> dict[str, int]:
    with db.connect(dsn, name="test") as conn:
        return {task.name: task.revision for task in calls.list_tasks(conn)}


def test_apply_creates_then_changes_nothing_then_only_what_changed(cli, manifest, dsn):
    file = manifest(TASKS)
    assert set(actions(cli("task", "apply", file, "--json")).values()) == {"created"}
    born = revisions(dsn)

    assert set(actions(cli("task", "apply", file, "--json")).values()) == {"unchanged"}
    assert revisions(dsn) == born

    file = manifest(TASKS.replace("5 min", "300 s").replace("priority: 3", "priority: 4"))
    code, rows = cli("task", "apply", file, "--json")
    assert actions((code, rows)) == {"a": "unchanged", "b": "updated", "c": "unchanged"}
    assert [row["fields"] for row in rows if row["action"] == "updated"] == ["priority"]


def test_a_dry_run_changes_nothing(cli, manifest, dsn):
    assert set(actions(cli("task", "apply", manifest(TASKS), "--dry-run", "--json")).values()) == {
        "created"
    }
    assert revisions(dsn) == {}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("5 min", "5 parsec", "tasks.yaml:2: task a, schedule"),
        ("timeout: 10 s", "timeout: soon", "tasks.yaml:2: task a, timeout"),
        ("priority: 3", "priority: 30", "tasks.yaml:3: task b, priority"),
        ("name: c", "name: 'c d'", "tasks.yaml:4: task c d, name"),
        ("Europe/Berlin", "Mars/Base", "tasks.yaml:4: task c"),
        ("2099-01-01T10:00", "infinity", "tasks.yaml:4: task c"),
        ("at:", "cron:", "tasks.yaml:4: task c, schedule"),
        ("5 min", "5 min phase 6 min", "tasks.yaml:2: task a, schedule"),
        (
            "every: 5 min",
            "condition: {every: 5 s, query: commit}",
            "tasks.yaml:2: task a, schedule",
        ),
    ],
)
def test_what_the_database_refuses_has_a_line_and_nothing_is_applied(
    cli, manifest, dsn, old, new, says
):
    code, text = cli("task", "apply", manifest(TASKS.replace(old, new)))
    assert code == 78
    assert text.startswith(f"error: {says}")
    assert revisions(dsn) == {}


CALENDARS = """\
tasks:
  - name: night
    uses: echo
    schedule: {cron: "30 2 * * *", timezone: America/New_York, dst_gap: skip}
  - name: payday
    uses: echo
    timezone: Europe/Berlin
    schedule: {rrule: FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=9;BYMINUTE=0;BYSECOND=0}
"""


def test_calendars_from_a_manifest_are_previewed_and_explained(cli, manifest):
    assert actions(cli("task", "apply", manifest(CALENDARS), "--json")) == {
        "night": "created", "payday": "created"
    }  # fmt: skip
    assert actions(cli("task", "apply", manifest(CALENDARS), "--json")) == {
        "night": "unchanged", "payday": "unchanged"
    }  # fmt: skip

    code, rows = cli("task", "preview", "payday", "-n", "24", "--json")
    assert code == 0
    assert len(rows) == 24
    assert all(row["local"].startswith("Fri ") and "09:00:00" in row["local"] for row in rows)
    code, text = cli("task", "dst-report", "night", "--year", "2027")
    assert code == 0
    assert "2027-03-14" in text
    assert "does not exist: left out" in text


TOLD = """\
tasks:
  - {name: phase, uses: echo, schedule: {every: 1 hour phase 5 min}}
  - {name: follow, uses: echo, schedule: {every: 10 min after end}}
  - {name: unpaid, uses: echo, schedule: {condition: {every: 30 s, query: select true}}}
"""


def test_what_no_calendar_knows_is_applied_and_says_so(cli, manifest, dsn):
    assert set(actions(cli("task", "apply", manifest(TOLD), "--json")).values()) == {"created"}
    same = TOLD.replace("5 min", "300 s").replace("10 min", "600 s")
    assert set(actions(cli("task", "apply", manifest(same), "--json")).values()) == {"unchanged"}
    other = same.replace("300 s", "6 min").replace("every: 600 s after end", 'cron: "0 9 * * *"')
    assert actions(cli("task", "apply", manifest(other), "--json")) == {
        "phase": "updated", "follow": "updated", "unpaid": "unchanged"
    }  # fmt: skip
    cli("task", "apply", manifest(TOLD))

    code, rows = cli("task", "preview", "phase", "-n", "3", "--json")
    assert code == 0
    assert all(row["utc"].endswith(":05:00") for row in rows)
    code, rows = cli("task", "preview", "follow", "--json")
    assert (code, len(rows)) == (0, 1)
    assert rows[0]["note"].startswith("only the next is known")
    with db.connect(dsn, name="test") as conn:
        conn.execute("update ordinaut.task_schedule set next_run = null")
    code, text = cli("task", "preview", "follow")
    assert code == 0
    assert "after the end of its last run" in text
    assert "none is known: its last run has not ended" in " ".join(text.split())
    code, text = cli("task", "preview", "unpaid")
    assert (code, "nobody knows when it becomes true" in " ".join(text.split())) == (2, True)
    assert cli("task", "dst-report", "follow")[0] == 2
    code, text = cli("task", "list")
    assert (code, "every every" in text) == (0, False)


def test_policies_from_a_manifest(cli, manifest):
    text = """\
tasks:
  - name: p
    uses: echo
    schedule: {every: 5 min, start_at: "2026-01-01T00:00"}
    overlap: buffer_one
    catchup: all
    catchup_window: 2 hours
    catchup_rate: 6
    jitter: 90 s
    max_runs: 1000
    pause_on_failure: 5
"""
    assert actions(cli("task", "apply", manifest(text), "--json")) == {"p": "created"}
    assert actions(cli("task", "apply", manifest(text), "--json")) == {"p": "unchanged"}
    task = cli("task", "show", "p", "--json")[1]
    assert (task["overlap"], task["catchup_rate"], task["max_runs"]) == ("buffer_one", 6, 1000)
    text = text.replace("buffer_one", "skip").replace("catchup_rate: 6", "catchup_rate: null")
    code, rows = cli("task", "apply", manifest(text), "--json")
    assert [row["fields"] for row in rows] == ["catchup_rate, overlap"]
    code, said = cli("task", "apply", manifest(text.replace("overlap: skip", "overlap: both")))
    assert code == 78
    assert said.startswith("error: tasks.yaml:5: task p, overlap")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("30 2 * * *", "0 0 30 2 *", "tasks.yaml:4: task night, schedule: day of month: 30 never"),
        ("America/New_York", "America/NewYork", "tasks.yaml:4: task night"),
        ("skip", "jump", "tasks.yaml:4: task night"),
        ("-1FR", "-9FR", "tasks.yaml:8: task payday, schedule: BYDAY"),
    ],
)
def test_a_calendar_that_is_none_is_refused_in_its_line(cli, manifest, dsn, old, new, says):
    code, text = cli("task", "apply", manifest(CALENDARS.replace(old, new)))

    assert code == 78
    assert text.startswith(f"error: {says}")
    assert revisions(dsn) == {}


CLOSED = """\
calendars:
  - {name: holidays, timezone: Europe/Berlin, dates: [2099-12-25], note: we rest}
  - {name: nights, weekly: [{from: 22:00, to: 06:00}]}
tasks:
  - name: report
    uses: echo
    schedule: [{cron: 0 3 * * *}, {cron: 0 9 * * *}, {at: 2099-12-25T10:00}]
    exclude: [nights, holidays]
    start_at: 2099-12-24T00:00
"""


def test_calendars_to_exclude_come_from_a_manifest_and_applying_twice_changes_nothing(
    cli, manifest, dsn
):
    assert actions(cli("--json", "task", "apply", manifest(CLOSED), "--dry-run")) == {
        "calendar default/holidays": "created", "calendar default/nights": "created",
        "report": "created",
    }  # fmt: skip
    assert cli("calendar", "list")[1].startswith("no calendars")
    cli("task", "apply", manifest(CLOSED))
    again = actions(cli("--json", "task", "apply", manifest(CLOSED)))
    assert set(again.values()) == {"unchanged"}
    assert revisions(dsn) == {"report": 1}

    changed = CLOSED.replace("22:00", "23:00").replace("[nights, holidays]", "nights")
    code, rows = cli("--json", "task", "apply", manifest(changed))
    assert [(r["task"], r["action"], r["fields"]) for r in rows] == [
        ("calendar default/holidays", "unchanged", "-"),
        ("calendar default/nights", "updated", "data"),
        ("default/report", "updated", "exclude"),
    ]
    assert code == 0
    assert cli("task", "apply", manifest(CLOSED.replace("[2099-12-25]", "[2099-12-35]")))[1] == (
        "error: tasks.yaml:2: calendar holidays: '2099-12-35' is not a date\n"
    )
    assert (
        "exclude 'none' is no calendar of namespace default"
        in (cli("task", "apply", manifest(CLOSED.replace("[nights, ", "[none, ")))[1])
    )


def test_a_preview_shows_what_is_excluded_and_why(cli, manifest):
    cli("task", "apply", manifest(CLOSED))

    code, rows = cli("--json", "task", "preview", "report", "-n", "2")

    assert code == 0
    assert [(r["utc"], r["excluded"]) for r in rows] == [
        ("2099-12-24 03:00:00", "by nights, as all until Thu 2099-12-24 06:00:00"),
        ("2099-12-24 09:00:00", None),
        ("2099-12-25 03:00:00", "by nights, holidays, as all until Fri 2099-12-25 23:00:00"),
        ("2099-12-26 03:00:00", "by nights, as all until Sat 2099-12-26 06:00:00"),
        ("2099-12-26 09:00:00", None),
    ]
    code, text = cli("task", "preview", "report")
    assert "but not in nights, holidays, UTC." in text.replace("\n", " ")
    code, days = cli("--json", "task", "dst-report", "report", "--year", "2101")
    assert (code, days) == (0, [])
    assert "not in nights, holidays" in cli("task", "list")[1]


def test_a_preview_of_which_nothing_is_left_ends(cli, manifest):
    cli("calendar", "set", "always", "--weekly", "*")
    cli("task", "apply", manifest(
        "tasks: [{name: t, uses: echo, schedule: {cron: 30 2 * * *}, exclude: always,"
        " timezone: Europe/Berlin}]"
    ))  # fmt: skip

    code, rows = cli("--json", "task", "preview", "t", "-n", "3")
    assert (code, len(rows)) == (0, 10)
    assert all("by always" in row["excluded"] for row in rows)
    code, days = cli("--json", "task", "dst-report", "t", "--year", "2027")
    assert [(len(day["fires"]), day["excluded"]) for day in days] == [(0, 1), (0, 1)]


def test_calendars_on_the_command_line(cli, manifest):
    assert cli(
        "calendar", "set", "ops/quiet", "--weekly", "MON-FRI 22:00-06:00", "--weekly", "SAT,SUN",
        "--date", "2026-12-25", "--range", "2026-12-24T14:00/2027-01-02",
        "--timezone", "Europe/Berlin", "-m", "we rest",
    ) == (0, "ops/quiet is created\n")  # fmt: skip
    code, [row] = cli("calendar", "list", "--json")
    assert (code, row["data"]["weekly"][0]) == (
        0,
        {"days": "MON-FRI", "from": "22:00", "to": "06:00"},
    )
    text = cli("calendar", "show", "ops/quiet")[1]
    for said in ("MON-FRI 22:00-06:00; SAT,SUN", "2026-12-24T14:00 to 2027-01-02", "we rest"):
        assert said in text
    assert "1 dates, 1 ranges, 2 weekly" in cli("calendar", "list")[1]
    assert cli("calendar", "set", "ops/quiet", '{"dates": ["2026-12-26"]}')[1] == (
        "ops/quiet is updated\n"
    )
    cli("task", "apply", manifest(
        "tasks: [{name: t, namespace: ops, uses: echo, schedule: {every: 1 h}, exclude: quiet}]"
    ))  # fmt: skip
    assert cli("calendar", "drop", "ops/quiet")[0] == 1
    assert cli("calendar", "drop", "quiet")[0] == 1
    for argv in (
        [], ["{}", "--date", "2026-12-25"], ["[]"], ["{"], ["--date", "25.12."], ["--range", "x"],
        ["--weekly", "MON 22:00"], ["--weekly", "FUNDAY"], ['{"days": []}'],
        ["{}", "--timezone", "Mars/Base"],
    ):  # fmt: skip
        code, said = cli("calendar", "set", "x", *argv)
        assert (code, said.count("error: ")) == (2, 1), said
    assert cli("calendar", "set", "x", '{"timezone": "UTC"}')[0] == 2
    cli("task", "cancel", "ops/t")
    assert cli("calendar", "drop", "ops/quiet") == (0, "ops/quiet is dropped\n")


def test_a_preview_of_an_expression_needs_no_database(cli):
    argv = ("task", "preview", "--rrule", "FREQ=DAILY;BYHOUR=2;BYMINUTE=30;BYSECOND=0;COUNT=2",
            "--start", "2199-03-10T02:30", "--timezone", "America/New_York")  # fmt: skip
    assert [row["local"] for row in cli(*argv, "--json")[1]] == [
        "Sun 2199-03-10 03:30:00", "Mon 2199-03-11 02:30:00"
    ]  # fmt: skip
    assert "02:30:00 is skipped" in cli(*argv)[1]
    assert cli("task", "preview", "--cron", "61 * * * *")[0] == 2
    assert cli("task", "preview")[0] == 2
    assert cli("task", "preview", "x", "--cron", "@daily")[0] == 2


def test_verbs_on_a_task(cli, manifest):
    cli("task", "apply", manifest(TASKS))

    assert cli("task", "pause", "a", "-m", "holiday", "--json")[1]["status"] == "paused"
    assert cli("task", "show", "a", "--json")[1]["status_note"] == "holiday"
    assert "holiday" in cli("task", "list")[1]
    assert "paused" in cli("why", "a")[1]
    assert cli("task", "run", "a")[0] == 1  # OR031, not active
    assert cli("task", "resume", "a", "--json")[1]["status"] == "active"
    assert cli("task", "snooze", "a", "2 hours")[0] == 0
    assert cli("task", "run", "b", "--payload", '{"x": 1}', "--json")[1]["outcome"] == "new"
    assert cli("task", "cancel", "a", "--json")[1]["status"] == "cancelled"


def test_runs_are_found_by_the_tail_of_their_id(cli):
    run_id = cli("enqueue", "echo", '{"message": "hi"}', "--json")[1]["run_id"]

    assert run_id[-8:] in cli("run", "list")[1]
    assert cli("run", "show", run_id[-6:], "--json")[1]["payload"] == {"message": "hi"}
    assert cli("run", "log", run_id[-8:])[0] == 0
    assert "no_worker" in cli("why", run_id[-8:])[1]
    assert cli("run", "cancel", run_id[-8:], "--json")[1]["outcome"] == "cancelled"
    assert cli("run", "cancel", run_id)[0] == 1  # too late
    retried = cli("run", "retry", run_id[-8:], "--json")[1]
    assert [row["run_id"] for row in retried] == [run_id]
    assert retried[0]["retried_as"] != run_id


def test_queues(cli):
    cli("enqueue", "echo")
    assert cli("queue", "pause", "default", "-m", "move")[0] == 0
    assert cli("queue", "set", "default", "--max-running", "3")[0] == 0
    [row] = cli("queue", "list", "--json")[1]
    assert (row["queue"], row["note"], row["max_running"]) == ("default", "move", 3)
    assert cli("queue", "resume", "default")[0] == 0
    assert cli("queue", "set", "default")[0] == 2


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["task", "show", "nix"], 1, "'nix'"),
        (["run", "show", "00000000"], 1, "00000000"),
        (["run", "retry"], 2, "give an ID"),
        (["why", "00000000"], 1, "00000000"),
        (["enqueue", "echo", "{bad"], 2, "not JSON"),
        (["enqueue", "echo", "@nix"], 2, "cannot read nix"),
        (["enqueue", "echo", "{}", "--run-at", "infinity"], 2, "run_at"),
        (["enqueue", "echo", "{}", "--run-at", "noon-ish"], 2, "noon-ish"),
        (["enqueue", "echo", "{}", "--delay", "5 parsec"], 2, "5 parsec"),
        (["enqueue", "e c h o"], 2, "tool"),
        (["enqueue", "echo", "--queue", "no such name!"], 2, "queue"),
        (["enqueue", "echo", '"\\u0000"'], 2, "\\u0000 cannot be"),
        (["enqueue", "echo", "--priority", "12"], 2, "--priority"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(cli, argv, code, says):
    got, text = cli(*argv)
    assert got == code
    assert text.startswith("error: ")
    assert says in text


def test_a_payload_of_ten_megabytes_is_refused(cli, tmp_path, dsn):
    (tmp_path / "big.json").write_text(json.dumps("x" * 10_000_000))
    code, text = cli("enqueue", "echo", "@big.json")
    assert code == 2
    assert len(text) < 500


def test_doctor_tells_a_healthy_database_from_an_empty_one(cli, dsn, clean_dsn):
    code, report = cli("doctor", "--json")
    verdicts = {f["check"]: f["verdict"] for f in report["findings"]}
    assert code == 0
    assert verdicts["schema"] == "ok"
    assert verdicts["functions"] == "warn"  # the clock of ordinaut.testing replaced now()
    assert any("now" in f["detail"] for f in report["findings"] if f["check"] == "functions")
    assert {s["setting"]: s["source"] for s in report["settings"]}["dsn"] == "command line"

    assert invoke(["doctor", "--dsn", clean_dsn]) == 1
    assert invoke(["task", "list", "--dsn", clean_dsn]) == 78
    assert invoke(["install", "--dsn", clean_dsn]) == 0
    assert invoke(["doctor", "--dsn", clean_dsn]) == 0


def test_the_python_api(dsn):
    with Ordinaut(dsn) as ordinaut:
        task_id = ordinaut.create_task("t", "echo", {"n": 1}, schedule_kind="manual")
        with pytest.raises(Conflict):
            ordinaut.create_task("t", "echo")
        run = ordinaut.run_now(task_id)
        assert run.outcome == "new"
        assert run.run_id is not None
        assert ordinaut.get_run(run.run_id).payload == {"n": 1}
        with pytest.raises(WaitTimeout):
            ordinaut.wait(run.run_id, timeout=0)
        with pytest.raises(NotFound):
            ordinaut.get_run("01a1fbf8-673a-7c80-82d8-000000000000")


def test_wait_returns_the_output_or_raises_the_failure(dsn):
    with Ordinaut(dsn) as ordinaut, db.connect(dsn, name="test") as conn:
        good = ordinaut.enqueue("echo").run_id
        [work] = calls.lease_work(conn, "me")
        calls.complete_work(conn, work.lease_id, output={"answer": 42})
        bad = ordinaut.enqueue("echo").run_id
        [work] = calls.lease_work(conn, "me")
        calls.fail_work(conn, work.lease_id, error="no luck", retryable=False)

        assert good is not None
        assert bad is not None
        assert ordinaut.wait(good) == {"answer": 42}
        with pytest.raises(RunFailed, match="no luck"):
            ordinaut.wait(bad)


def test_an_enqueue_follows_the_callers_transaction(dsn):
    with Ordinaut(dsn) as ordinaut, db.connect(dsn, name="test") as conn:
        with conn.transaction(force_rollback=True):
            lost = ordinaut.enqueue("echo", connection=conn).run_id
        with conn.transaction():
            kept = ordinaut.enqueue_many(
                [{"payload": {"n": n}} for n in range(3)], tool="echo", connection=conn
            )

        assert lost is not None
        with pytest.raises(NotFound):
            ordinaut.get_run(lost)
        payloads = [ordinaut.get_run(k.run_id).payload for k in kept if k.run_id]
        assert payloads == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_every_sqlstate_has_its_class(dsn):
    from ordinaut import errors

    classes = {
        cls.sqlstate
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.OrdinautError)
    } - {None}
    with psycopg.connect(dsn) as conn:
        codes = {code for (code,) in conn.execute("select code from ordinaut.error_code")}
    assert classes == {code for code in codes if code.startswith("OR")}


def test_every_call_takes_the_arguments_of_its_function(dsn):
    """But for the words that Python keeps for itself."""
    kept = {"lasting": "for", "low": "from", "high": "to"}
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "select p.proname, p.proargnames[1:p.pronargs] from pg_proc as p"
            " where p.pronamespace = 'ordinaut'::regnamespace"
        ).fetchall()
    functions = {name: set(arguments or ()) for name, arguments in found}
    internal = {("lease_work", "p_floors")}  # of the worker's hot path
    differ = []
    for name in set(calls.__all__) & functions.keys():
        takes = {
            f"p_{kept.get(word, word)}"
            for word in list(inspect.signature(getattr(calls, name)).parameters)[1:]
        }
        differ += [(name, word) for word in takes ^ functions[name]]
    assert set(differ) <= internal
