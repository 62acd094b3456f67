"""The shell tool runs what the configuration allows, as it is, and says how it ended."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.child import Child, unit_of
from tests.unit.child import child as child

SH = "/bin/sh"  # a test's program may be a shell; a task's may, too, if somebody allows it
ALLOWED = [SH, "/bin/cat", sys.executable, "/no/such/program", "/etc/passwd"]


@pytest.fixture
def runner(child: Callable[..., Child]) -> Child:
    tools = {"shell": {"allow": ALLOWED, "env": ["COLOUR"]}, "python": False}
    return child(tools=tools, env={"ORDINAUT_SECRET_PIN": "s3cr3t", "COLOUR": "blue"})


def sh(runner: Child, script: str, *args: Any, **more: Any) -> tuple[str, Any]:
    return runner.run("shell", {"argv": [SH, "-c", script, "sh", *args], **more})


def test_output_and_exit_code_are_the_result_and_a_note(runner: Child) -> None:
    outcome, output = sh(runner, 'echo "$1"; echo warn >&2', "a; rm -rf $HOME `id`")

    expected = {"exit_code": 0, "stdout": "a; rm -rf $HOME `id`\n", "stderr": "warn\n"}
    assert (outcome, output) == ("success", expected)
    ((_, event, data),) = runner.notes
    assert event == "log"
    assert data.items() >= expected.items()


def test_a_silent_program_leaves_no_note(runner: Child) -> None:
    assert sh(runner, "true")[0] == "success"
    assert runner.notes == []


def test_an_exit_code_is_a_failure_that_may_be_tried_again(runner: Child) -> None:
    outcome, error = sh(runner, "echo first >&2; echo no such disk >&2; exit 3")

    assert (outcome, error["message"]) == ("failed", "exit code 3: no such disk")
    assert (error["category"], error["code"], error["retryable"]) == (
        *("external_service", "E4004", True),
    )
    assert runner.notes[0][2]["exit_code"] == 3


@pytest.mark.parametrize(
    ("number", "says", "category"),
    [
        (9, "killed by signal 9 (out of memory?)", "resource"),
        (15, "killed by signal 15", "external_service"),
    ],
)
def test_death_by_a_signal_is_said(runner: Child, number: int, says: str, category: str) -> None:
    outcome, error = sh(runner, f"kill -{number} $$")

    assert (outcome, error["message"], error["category"]) == ("failed", says, category)


def test_only_the_tail_of_long_output_is_kept(runner: Child) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"

    output = sh(runner, script)[1]

    assert len(output["stdout"]) == 4096
    assert output["stdout"].endswith("line 19999\n")


def test_bytes_that_are_no_text_are_replaced(runner: Child) -> None:
    assert sh(runner, r"printf '\377\000ok'")[1]["stdout"] == "\ufffd\ufffdok"


@pytest.mark.parametrize("text", ["", "a" * 300_000, "grün"])
def test_stdin_is_given_whole(runner: Child, text: str) -> None:
    outcome, output = runner.run("shell", {"argv": ["/bin/cat"], "stdin": text})

    assert (outcome, output["stdout"]) == ("success", text[-4096:])


def test_a_program_that_does_not_read_its_stdin_is_no_problem(runner: Child) -> None:
    assert sh(runner, "exit 0", stdin="x" * 300_000)[0] == "success"


def test_the_environment_is_what_is_said_and_no_more(runner: Child, tmp_path: Path) -> None:
    code = "import os; print(sorted(os.environ), os.environ['COLOUR'], os.getcwd())"
    payload = {"argv": [sys.executable, "-I", "-c", code], "cwd": str(tmp_path)}

    output = runner.run("shell", payload | {"env": {"COLOUR": "red"}})[1]

    assert output["stdout"] == f"['COLOUR', 'LANG', 'PATH'] red {tmp_path}\n"


def test_no_descriptor_is_inherited(runner: Child) -> None:
    code = "import os; print(len(os.listdir('/proc/self/fd')))"  # one is the listing's

    output = runner.run("shell", {"argv": [sys.executable, "-I", "-S", "-c", code]})[1]

    assert output["stdout"] == "4\n"


@pytest.mark.parametrize(
    ("payload", "code", "says"),
    [
        ({}, "E2003", "argv"),
        ({"argv": "/bin/cat x"}, "E2003", "argv"),
        ({"argv": []}, "E2003", "argv"),
        ({"argv": ["/bin/cat", 5]}, "E2003", "argv"),
        ({"argv": ["cat"]}, "E8001", "does not allow cat"),
        ({"argv": ["/bin/../bin/cat"]}, "E8001", "does not allow"),
        ({"argv": ["/bin/ls"]}, "E8001", "does not allow /bin/ls"),
        ({"argv": ["/bin/cat"], "env": {"LD_PRELOAD": "x"}}, "E8001", "LD_PRELOAD"),
        ({"argv": ["/bin/cat"], "env": {"COLOUR": 5}}, "E2002", "env"),
        ({"argv": ["/bin/cat"], "shell": True}, "E2002", "shell: "),
        ({"argv": ["/bin/cat"], "cwd": 5}, "E2002", "cwd"),
        ({"argv": ["/bin/cat"], "cwd": "/no/such"}, "E7001", "/no/such"),
        ({"argv": ["/bin/cat", "a\0b"]}, "E2002", "null byte"),
        ({"argv": ["/no/such/program"]}, "E7001", "/no/such/program"),
        ({"argv": ["/etc/passwd"]}, "E8001", "/etc/passwd"),
        (["/bin/cat"], "E2001", "object"),
    ],
)
def test_what_is_not_allowed_or_makes_no_sense_is_refused(
    runner: Child, payload: Any, code: str, says: str
) -> None:
    outcome, error = runner.run("shell", payload)

    assert (outcome, error["code"]) == ("failed", code)
    assert says in error["message"]


def test_a_secret_is_given_and_masked_even_where_the_tail_is_cut(runner: Child) -> None:
    reference = {"$secret": "pin"}
    for length in range(4090, 4104):
        script = f'printf "%s%{length}s" "$1" "" | tr " " x'
        output = sh(runner, script, reference)[1]
        assert "3cr3t" not in str(output).replace("*", "")
        assert not any(part in output["stdout"] for part in ("cr3t", "r3t", "3t"))

    assert sh(runner, 'echo "$1"', reference)[1]["stdout"] == "***\n"


@pytest.mark.parametrize("how", ["group", "child"])
def test_the_program_dies_with_the_child(runner: Child, tmp_path: Path, how: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # exec: the program itself; it holds the fifo open for as long as it lives.
    os.mkfifo(f"{fifo}.in")
    script = f"exec cat >{fifo} <{fifo}.in"
    runner.tell("run", [unit_of("shell", {"argv": [SH, "-c", script]})])
    keep = os.open(f"{fifo}.in", os.O_RDWR)
    reader = os.open(fifo, os.O_RDONLY)

    if how == "group":
        os.killpg(runner.process.pid, 15)
    else:
        runner.process.kill()

    assert select.select([reader], [], [], 10)[0]
    assert os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)
    os.close(keep)
