"""A child runs what it is given, says what became of it, and dies when it must."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ordinaut import wire
from tests.unit.child import HANDS, Child, unit_of
from tests.unit.child import child as child

ALWAYS = ["echo", "fail", "sleep", "wait_for_event", "approval", "task"]


def test_it_declares_what_it_can_do(child: Callable[..., Child]) -> None:
    plain = child(ready=False, tools={"python": False})
    full = child(ready=False, tools={"sql": {}, "shell": {"allow": ["/bin/true"]}})
    strict = child(ready=False, tools={"python": {"modules": [HANDS], "strict": True}})

    assert plain.ready() == ALWAYS
    assert sorted(full.ready()) == sorted(
        [*ALWAYS, "greet", "math.add", "python:*", "sql", "shell"]
    )
    assert strict.ready() == [*ALWAYS, "greet", "math.add", f"python:{HANDS}.*"]


@pytest.mark.parametrize(
    "tools",
    [
        {"python": {"modules": ["no.such.module"]}},
        {"shell": {}},
        {"shell": {"allow": ["tar"]}},
        {"shell": {"allow": "/usr/bin/tar"}},
        {"shel": {"allow": ["/usr/bin/tar"]}},
    ],
)
def test_a_configuration_that_cannot_work_is_exit_78_and_a_reason(tools: dict[str, Any]) -> None:
    child = Child(tools=tools)

    kind, reason = child.hear()
    with pytest.raises(EOFError):
        child.hear()

    assert kind == "broken"
    assert f"a child cannot start: {reason}" in child.end()
    assert child.process.returncode == 78


def test_a_batch_is_run_in_order_and_reported_with_times(child: Callable[..., Child]) -> None:
    runner = child()
    units = [unit_of("echo", {"message": i}) for i in range(200)]

    runner.tell("run", units)
    results = runner.results(200)

    assert [r[:3] for r in results] == [(u[0], u[1], "success") for u in units]
    assert [r[3] for r in results] == [u[wire.PAYLOAD] for u in units]
    assert all(0 <= r[5] < 1_000_000 for r in results)


def test_fail_fails_so_many_times_and_then_succeeds(child: Callable[..., Child]) -> None:
    runner = child()

    outcome, error = runner.run("fail", {"times": 2, "message": "oh no"}, failures=1)
    hopeless = runner.run("fail", {"retryable": False})[1]

    assert (outcome, error["message"], error["retryable"]) == ("failed", "oh no", True)
    assert hopeless["retryable"] is False
    assert runner.run("fail", {"times": 2}, failures=2) == ("success", {"failures": 2})


def test_a_tool_that_is_not_here_is_declined(child: Callable[..., Child]) -> None:
    runner = child()
    bare = child(tools={"python": False})

    assert runner.run("nobody")[0] == "declined"
    assert runner.run("sql", {"statement": "select 1"})[0] == "declined"
    assert bare.run("python:os.getpid")[0] == "declined"


def test_the_context_knows_the_unit_and_takes_notes(child: Callable[..., Child]) -> None:
    runner = child()
    unit = unit_of(f"python:{HANDS}.whoami", attempt=2, failures=1, scheduled_for=1_500_000)

    runner.tell("run", [unit])
    ((_, _, outcome, output, _, _),) = runner.results()

    run_id = f"{unit[1].hex()[:8]}-"
    seen = json.loads(output or b"null")
    assert outcome == "success"
    assert seen["run"] == seen["work"]
    assert seen["run"].startswith(run_id)
    assert (seen["attempt"], seen["failures"], seen["max"]) == (2, 1, 3)
    assert seen["for"] == "1970-01-01T00:00:01.500000+00:00"
    assert runner.notes == [
        (unit[1], "log", {"message": "looking", "mirror": True}),
        (unit[1], "progress", {"percent": 50, "note": "half"}),
    ]


def test_the_cell_shows_the_running_unit_and_is_zero_when_idle(
    child: Callable[..., Child],
) -> None:
    runner = child()
    unit = unit_of(f"python:{HANDS}.note_then_sleep", {"seconds": 0.1})

    runner.tell("run", [unit_of("echo"), unit])
    while not runner.notes:
        runner.hear()
    started, counter, work_id = wire.CELL.unpack(runner.cell[:])
    runner.results()
    runner.run("echo")

    assert (counter, work_id) == (2, unit[1])
    assert started > 0
    assert wire.CELL.unpack(runner.cell[:])[1] == 3


def test_results_are_sent_before_a_tool_that_may_take_the_process_along(
    child: Callable[..., Child],
) -> None:
    runner = child()

    runner.tell("run", [unit_of("echo"), unit_of(f"python:{HANDS}.kill"), unit_of("echo")])

    assert len(runner.results()) == 1
    with pytest.raises(EOFError):
        runner.hear()


def test_recalled_units_go_back_while_a_tool_runs(child: Callable[..., Child]) -> None:
    runner = child()
    slow = unit_of(f"python:{HANDS}.note_then_sleep", {"seconds": 30})
    waiting = [unit_of("echo") for _ in range(3)]

    runner.tell("run", [slow, *waiting])
    while not runner.notes:
        runner.hear()
    runner.tell("cancel", waiting[1][1])
    runner.tell("return")

    released = [(r[1], r[2], r[5]) for r in runner.results(3)]
    assert released == [(waiting[i][1], "released", 0) for i in (1, 0, 2)]


def test_stop_finishes_what_was_given(child: Callable[..., Child]) -> None:
    runner = child()

    runner.tell("run", [unit_of("echo"), unit_of(f"python:{HANDS}.nap", {"seconds": 0.05})])
    runner.tell("stop")

    assert {r[2] for r in runner.results(2)} == {"success"}
    assert runner.process.wait(10) == 0


def test_the_end_of_the_socket_is_the_end_of_the_child_and_its_group(
    child: Callable[..., Child],
) -> None:
    runner = child()
    runner.tell("run", [unit_of(f"python:{HANDS}.note_then_sleep", {"seconds": 60})])
    while not runner.notes:
        runner.hear()

    runner.sock.close()

    assert runner.process.wait(10) == -signal.SIGKILL


def test_a_dead_parent_takes_the_child_along() -> None:
    code = (
        "import sys; from tests.unit.child import Child;"
        "child = Child(); child.ready(); print(child.process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()

    assert select.select([pidfd], [], [], 10)[0]  # the kernel's word that it ended
    os.close(pidfd)


def test_what_tools_print_does_not_reach_the_wire(child: Callable[..., Child]) -> None:
    runner = child()

    assert runner.hand("chat") == ("success", None)
    assert runner.run("echo", {"a": 1}) == ("success", {"a": 1})
    assert "y" * 1000 in runner.end()


def test_programs_of_tools_inherit_neither_the_wire_nor_the_dsn(
    child: Callable[..., Child],
) -> None:
    runner = child(dsn="host=secret")

    (_, environ), (_, descriptors) = runner.hand("environ"), runner.hand("descriptors")

    assert "PATH" in environ
    assert "ORDINAUT_RUNNER_CONFIG" not in environ
    assert "socket:" not in descriptors[0]


def test_a_fork_that_comes_back_does_not_speak_for_the_child(
    child: Callable[..., Child],
) -> None:
    runner = child()

    runner.tell("run", [unit_of(f"python:{HANDS}.fork"), *[unit_of("echo")] * 5])
    results = runner.results(6)

    assert results[0][3] == b'"parent"'
    assert runner.run("echo", [7]) == ("success", [7])
