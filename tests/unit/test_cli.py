"""The command line without a database: usage, configuration, exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ordinaut.cli.main import invoke
from ordinaut.errors import VersionSkew

GROUPS = {
    "": "dev install scheduler worker enqueue why diagnose doctor bench task run step queue",
    "task": "apply create list show pause resume run snooze cancel",
    "run": "list show log history cancel retry steps replay",
    "step": "show retry reset skip resolve complete",
    "queue": "list pause resume set",
}
COMMANDS = ["", *(f"{group} {verb}" for group, verbs in GROUPS.items() for verb in verbs.split())]


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ORDINAUT_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert invoke([*command.split(), "--help"]) == 0
    assert "Usage: ordinaut" in capsys.readouterr().out


def test_the_help_documents_the_exit_codes(capsys):
    invoke(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 failed", "2 wrong", "69 database", "70 a bug", "75 this", "78 wrong"):
        assert code in text


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["nix"], 2, "No such command 'nix'"),
        (["task", "list", "--limit", "x"], 2, "--limit"),
        (["enqueue"], 2, "give TOOL, or --pipeline FILE"),
        (["enqueue", "echo", "--pipeline", "nix.yaml"], 2, "names its tools itself"),
        (["enqueue", "--pipeline", "nix.yaml"], 78, "nix.yaml: No such file"),
        (["task", "create", "x"], 2, "give --uses, or --pipeline FILE"),
        (["task", "create", "x", "--uses", "echo", "--params", "{}"], 2, "a tool has --with"),
        (["task", "create", "x", "--uses", "echo", "--cron", "@daily", "--at", "x"], 2, "one of"),
        (["--dsn"], 2, "--dsn"),
        (["task", "list"], 78, "no database is configured"),
        (["task", "list", "--dsn", "foo bar"], 78, "not a connection string"),
        (["task", "apply", "nix.yaml"], 78, "nix.yaml: No such file"),
        (["task", "apply", "."], 78, "has no manifest"),
        (["task", "list", "--dsn", "host=/nowhere"], 69, "cannot reach the database"),
        (["worker", "--dsn=host=/nowhere", "--drain", "soon"], 78, "setting drain (command line)"),
        (["dev", "--manifest", "nix.yaml"], 78, "nix.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(argv, code, says, capsys):
    assert invoke(argv) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err


def test_errors_are_json_where_answers_are(capsys):
    assert invoke(["task", "list", "--json"]) == 78
    said = json.loads(capsys.readouterr().err)
    assert said["exit"] == 78
    assert "ORDINAUT_DSN" in said["hint"]


def test_version_skew_has_its_code(monkeypatch, capsys):
    def skewed(*_: object, **__: object) -> None:
        raise VersionSkew("the database speaks API 2, this package API 1")

    monkeypatch.setattr("ordinaut.db.connect", skewed)
    assert invoke(["task", "list", "--dsn", "dbname=x"]) == 75
    assert "API 2" in capsys.readouterr().err


def test_a_bug_shows_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr("ordinaut.db.connect", lambda *_, **__: 1 // 0)
    assert invoke(["task", "list", "--dsn", "dbname=x"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_importing_ordinaut_imports_nothing_heavy():
    code = (
        "import ordinaut, sys; ordinaut.__version__;"
        "print([m for m in ('psycopg', 'pydantic', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_had():
    import ordinaut

    assert all(getattr(ordinaut, name) is not None for name in ordinaut.__all__)
