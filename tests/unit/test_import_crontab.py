"""A crontab becomes a manifest: every line is a task, or is said why not."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ordinaut import calls, db
from ordinaut.cli.main import invoke
from ordinaut.importing.crontab import read_crontab
from ordinaut.importing.document import document
from ordinaut.importing.found import Found, Names, name_of
from ordinaut.importing.proof import prove
from ordinaut.manifest import parse
from tests.unit.child import Child
from tests.unit.child import child as child

NASTY = Path(__file__).with_name("nasty.crontab")
NOW = datetime(2026, 10, 1, 12, 34, 56, tzinfo=UTC)
LEFT_OUT = {  # line: field, and a word of the reason
    19: ("time", "no boot"), 20: ("time", "'@Daily'"), 21: ("time", "@every_minute"),
    22: ("day of month", "never occurs in Feb"), 23: ("minute", "22-2"),
    24: ("minute", "step of 90"), 25: ("minute", "60"), 26: ("hour", "24"),
    27: ("day of month", "between 1 and 31"), 28: ("month", "13"), 29: ("day of week", "8"),
    30: ("day of month", "'L'"), 31: ("day of week", "MON#2"), 32: ("minute", "'5/10'"),
    33: ("minute", "0~59"), 34: ("time", "only 3 fields"), 35: ("command", "missing"),
    36: ("minute", "'just'"), 44: ("CRON_TZ", "Mars/Base"), 45: ("timezone", "nasty:44"),
}  # fmt: skip


def read(text: str, **more: Any) -> Found:
    return read_crontab(
        text.encode(), "crontab", **({"timezone": "Europe/Berlin", "user": "root"} | more)
    )


def payload(line: str) -> dict[str, Any]:
    [job] = read(line).jobs
    return dict(job.task["with"])


@pytest.fixture(scope="module")
def nasty() -> Found:
    return read_crontab(NASTY.read_bytes(), "nasty", timezone="Europe/Berlin", user="root")


def test_every_line_is_a_task_or_is_said_why_not(nasty):
    said = {int(p.where.split(":")[1]): p for p in nasty.problems}
    assert said.keys() == LEFT_OUT.keys()
    for number, (field, word) in LEFT_OUT.items():
        assert said[number].field == field, said[number]
        assert word in said[number].reason, said[number]
    lines = [line.strip() for line in NASTY.read_text().splitlines()]
    entries = [n for n, line in enumerate(lines, 1) if line[:1] in "0123456789*@j" and line]
    jobs = [int(job.where.split(":")[1]) for job in nasty.jobs]
    assert sorted([*jobs, *(n for n in LEFT_OUT if n != 44)]) == entries


def test_the_manifest_says_what_was_found_and_reads_back_as_it(nasty):
    text = document(nasty)
    assert text == document(nasty)
    definitions = parse(text, "m.yaml")
    assert [d.name for d in definitions] == [job.name for job in nasty.jobs]
    for found, job in zip(definitions, nasty.jobs, strict=True):
        assert found.arguments["payload"] == job.task["with"]
        assert found.arguments["schedule_expr"] == job.expr
        assert found.arguments["timezone"] == job.timezone
        assert found.arguments["catchup"] == "none"
        assert found.arguments["max_attempts"] == 1
    for problem in nasty.problems:
        assert f"  # {problem}\n" in text


def test_names_tell_what_is_run(nasty):
    assert [job.name for job in nasty.jobs] == [
        "backup", "backup-2", "artisan-schedule-run", "mail-10pm-joe", "echo-either",
        "echo-both", "sync", "ntpdate-pool", "app.jobs.weekly", "date", "printf-a-b", "close-month",
        "echo-twice-in", "echo-skipped-in",
        "1e3", "job",
    ]  # fmt: skip


def test_every_name_is_one_that_the_database_takes():
    pieces = ["/usr/bin/x.sh", "&&", "|", "$(date)", "'", '"', "é", "--", "A=b", "[", "%", "\u2028"]
    names = Names()
    for words in itertools.product(pieces, repeat=3):
        name = names.unique(name_of(" ".join(words)))
        assert name and len(name) <= 100 and name[0].isascii() and name[0].isalnum(), words
        assert all(c.isascii() and (c.isalnum() or c in "_.-") for c in name), words


def test_variables_hold_for_the_lines_below_them(nasty):
    first, last = nasty.jobs[0].task["with"], nasty.jobs[-1].task["with"]
    assert first["argv"][:2] == ["/bin/bash", "-c"]
    assert first["env"] == {
        "HOME": "/root", "LOGNAME": "root", "PATH": "/usr/local/bin:/usr/bin:/bin",
        "SHELL": "/bin/bash", "GREETING": "hello  world ",
    }  # fmt: skip
    assert first["cwd"] == "/root"
    assert last["env"] == first["env"]
    assert payload("* * * * * true\nA=1")["env"].keys() == {"HOME", "LOGNAME", "SHELL"}
    assert payload("MAILTO=\nTZ=Asia/Tokyo\n* * * * * date")["env"]["TZ"] == "Asia/Tokyo"
    assert payload("HOME=/srv\n* * * * * pwd")["cwd"] == "/srv"


def test_zones_hold_for_the_lines_below_them(nasty):
    zones = [job.timezone for job in nasty.jobs]
    assert zones == [
        *["Europe/Berlin"] * 12,
        *["America/New_York"] * 2,
        *["Australia/Lord_Howe"] * 2,
    ]


def test_a_comment_right_above_is_the_description(nasty):
    assert nasty.jobs[0].task["description"] == "The nightly backup.\nIt needs the disk."
    assert "description" not in nasty.jobs[1].task
    assert "description" not in read("# of the file\n\n* * * * * true").jobs[0].task


@pytest.mark.parametrize(
    ("command", "script", "stdin"),
    [  # what Debian's cron 3.0pl1-162 was seen to do
        (r"cat > x%one%two\%x\\y%", "cat > x", "one\ntwo%x\\\\y\n"),
        (r"cat; echo sl\\%in", r"cat; echo sl" + "\\", "in\n"),
        (r"echo 'a\\b \% c'", r"echo 'a\b % c'", None),
        (r"sed 's/\t/x/'", r"sed 's/\t/x/'", None),
        ("true", "true", None),
        ("cat%", "cat", ""),
        ("%in", "", "in\n"),
        (r"odd\ ".strip(), "odd\\", None),
    ],
)
def test_a_percent_sign_begins_the_standard_input(command, script, stdin):
    found = payload(f"* * * * * {command}")
    assert found["argv"] == ["/bin/sh", "-c", script]
    assert found.get("stdin") == stdin


def test_the_tool_runs_it_as_cron_does(child: Callable[..., Child]) -> None:
    crontab = "HOME=/tmp\nGREETING='hello  you'\n* * * * * pwd; echo \"$GREETING\"; cat%100\\%%end"
    tools = {"shell": {"allow": ["/bin/sh"], "env": ["HOME", "LOGNAME", "SHELL", "GREETING"]}}
    outcome, output = child(tools={**tools, "python": False}).run("shell", payload(crontab))
    assert (outcome, output["stdout"]) == ("success", "/tmp\nhello  you\n100%\nend\n")


def test_a_system_crontab_has_a_user_before_the_command():
    found = read("17 * * * *\troot  cd / && run-parts --report /etc/cron.hourly", is_system=True)
    [job] = found.jobs
    assert job.name == "run-parts-cron.hourly"
    assert job.task["with"]["argv"][2] == "cd / && run-parts --report /etc/cron.hourly"
    assert job.task["with"]["env"]["LOGNAME"] == "root"
    assert "as root" in job.notes[0]

    found = read("* * * * * root\n* * * * * /bin/true x\n@daily nobody-here true", is_system=True)
    assert [(p.field, p.where) for p in found.problems] == [
        ("command", "crontab:1"), ("user", "crontab:2")
    ]  # fmt: skip
    assert "cwd" not in found.jobs[0].task["with"]
    assert any("home" in note for note in found.jobs[0].notes)


@pytest.mark.parametrize(
    "text",
    [
        "* * * * * echo \x85 \u2028 - evil: [",
        "# comment \u2028tasks: []\n* * * * * true",
        "* * * * * echo '\x07\t\\' # \x1b[31m",
        "60 * * * * \u2028tasks: []",
        "A=1e3\nB=no\nC=~\nD=0x1F\nE=12:30\n* * * * * 2001-01-01",
        "* * * * * true\r",
        "X='# not a comment'\n* * * * * echo \"$X\" # a comment of sh",
    ],
)
def test_whatever_stands_there_stays_text(text):
    found = read(text)
    definitions = parse(document(found), "m.yaml")
    assert [d.arguments["payload"] for d in definitions] == [j.task["with"] for j in found.jobs]
    assert not any("\r" in job.task["with"]["argv"][2] for job in found.jobs)


def test_bytes_that_are_no_text_cost_one_line():
    found = read_crontab(
        b"* * * * * a\n* * * * * \xff\xfe\n0 0 * * * b\0\n* * * * * c", "f", timezone="UTC"
    )
    assert [job.task["with"]["argv"][2] for job in found.jobs] == ["a", "c"]
    assert [str(p.where) for p in found.problems] == ["f:2", "f:3"]
    parse(document(found), "m.yaml")


def test_all_of_it_fires_when_cron_does(nasty):
    for job in nasty.jobs:
        proof = prove(job, NOW)
        assert proof.verdict == "equal", proof
        assert proof.compared == (42 if "29 2" in job.was else proof.compared)
        assert proof.witnesses[0] == "cron's clock"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        code = invoke(["import", "crontab", *argv])
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_all_that_it_can_and_says_so(cli):
    code, out, err = cli(str(NASTY), "--timezone", "Europe/Berlin")
    assert code == 1
    assert len(parse(out, "m.yaml")) == 16
    assert f"{NASTY}:25: minute: " in out
    assert f"left out: {NASTY}:25: minute: " in err
    assert "16 tasks, 20 left out" in err
    assert err.count("equal") == 16


def test_nothing_left_out_is_exit_code_0(cli, tmp_path):
    (tmp_path / "tab").write_text("5 4 * * * /bin/true\n")
    code, out, err = cli("tab")
    assert (code, [d.name for d in parse(out, "m.yaml")]) == (0, ["true"])
    assert "croniter" in err
    code, _, err = cli("tab", "--no-prove")
    assert (code, "croniter" in err) == (0, False)


def test_programs_get_it_as_json(cli):
    code, out, err = cli(str(NASTY), "--json", "--namespace", "legacy")
    answer = json.loads(out)
    assert (code, err) == (1, "")
    assert {d.namespace for d in parse(answer["manifest"], "m.yaml")} == {"legacy"}
    assert len(answer["problems"]) == 20
    assert {p["compared"] for p in answer["proof"]} <= {1000, *range(40, 200)}


@pytest.mark.parametrize(
    ("argv", "says", "exit"),
    [
        (["nowhere"], "nowhere: No such file or directory", 78),
        ([str(NASTY), "--timezone", "Mars/Base"], "--timezone", 2),
        ([str(NASTY), "--timezone", "Japan"], "old name", 2),
    ],
)
def test_mistakes_end_in_a_sentence(cli, argv, says, exit):
    code, out, err = cli(*argv)
    assert (code, out) == (exit, "")
    assert says in err and "Traceback" not in err


def test_a_crontab_without_jobs_is_an_empty_manifest(cli, tmp_path):
    (tmp_path / "tab").write_text("# nothing\nA=b\n")
    code, out, _ = cli("tab")
    assert (code, parse(out, "m.yaml")) == (0, [])


def test_apply_takes_it(cli, dsn, tmp_path, capsys):
    given = [str(NASTY), "--timezone", "Europe/Berlin", "--namespace", "legacy", "--no-prove"]
    _, out, _ = cli(*given)
    (tmp_path / "m.yaml").write_text(out)
    assert invoke(["task", "apply", "m.yaml", "--dsn", dsn]) == 0
    with db.connect(dsn, name="test") as conn:
        tasks = {task.name: task for task in calls.list_tasks(conn, namespace="legacy")}
    assert len(tasks) == 16
    assert tasks["mail-10pm-joe"].payload["stdin"].endswith("100% of your kids?\n")
    assert tasks["backup"].max_attempts == 1


@pytest.mark.slow
def test_lines_of_all_forms_are_proven():
    text = "".join(
        f"{n} {n % 24} {n % 28 + 1} * {n % 7} job-{n}\n*/{n % 30 + 1} * * * * x\n"
        for n in (0, 7, 18, 24)
    )
    assert all(prove(job, NOW).verdict == "equal" for job in read(text).jobs)


def test_the_users_of_this_host_have_homes():
    assert payload("* * * * * true")["cwd"] == os.path.expanduser("~root")
