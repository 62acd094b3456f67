"""Runs of steps on the command line: how they look, and what a person does to them."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from ordinaut import calls, db
from ordinaut.cli import runview
from tests.unit.test_cli_db import cli as cli  # a fixture

STEPS = [
    {"id": "fetch", "uses": "echo", "save_as": "data"},
    {"id": "left", "uses": "echo", "needs": "fetch", "retry": {"base": "1 h", "jitter": 0}},
    {"id": "right", "uses": "sleep", "needs": "fetch"},
    {"id": "load", "uses": "echo", "needs": ["left", "right"]},
]


class Run:
    """A run of steps whose steps are settled one by one, as a worker would."""

    def __init__(self, conn, steps):
        self.conn = conn
        self.id = calls.enqueue(conn, pipeline=steps).run_id
        self.tail = self.id.hex[-8:]

    def start(self):
        self.conn.execute("select ordinaut.start_run(%s)", [self.id])
        return self

    def step(self, name):
        [found] = [s for s in calls.list_steps(self.conn, self.id) if s.name == name]
        return found

    def lease(self, name):
        step_id = self.step(name).step_id
        [lease_id] = self.conn.execute("select ordinaut._lease_step(%s, 'w')", [step_id]).fetchone()
        return lease_id, step_id

    def done(self, name, output=None):
        lease_id, step_id = self.lease(name)
        self.conn.execute(
            "select ordinaut.complete_work(%s, %s, %s)", [lease_id, step_id, json.dumps(output)]
        )
        return self

    def fail(self, name, error="boom", retryable=False):
        lease_id, step_id = self.lease(name)
        self.conn.execute(
            "select ordinaut.fail_work(%s, %s, %s, %s)", [lease_id, step_id, error, retryable]
        )
        return self

    def wait(self, name, wait):
        lease_id, step_id = self.lease(name)
        self.conn.execute(
            "select ordinaut.wait_work(%s, %s, %s)", [lease_id, step_id, json.dumps(wait)]
        )
        return self

    @property
    def state(self):
        return calls.get_run(self.conn, self.id).state


@pytest.fixture
def conn(dsn):
    with db.connect(dsn, name="test") as conn:
        yield conn


@pytest.fixture
def run(conn):
    return Run(conn, STEPS)


def graph(run, width=80):
    """What is drawn at this width, without colour, in words that do not change."""
    out = StringIO()
    steps = calls.list_steps(run.conn, run.id)
    console = Console(file=out, width=width, markup=False, highlight=False, emoji=False)
    runview.print_steps(console, steps)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_run_is_drawn_before_it_starts(run):
    assert graph(run) == [
        "○ fetch echo pending", "├─╮", "○ │ left echo pending needs fetch",
        "│ ○ right sleep pending needs fetch", "├─╯", "○ load echo pending needs left, right",
    ]  # fmt: skip


def test_a_run_is_drawn_as_it_goes(run):
    run.start().done("fetch", {"rows": 3}).fail("left", retryable=True)
    run.wait("right", {"kind": "sleep", "until": "2099-01-01T00:00:00Z"})
    fetch, _, left, right, _, load = graph(run, width=120)
    assert fetch.startswith("✓ fetch echo complete ")
    assert fetch.endswith('→ {"rows": 3}')
    assert left.startswith("↻ │ left echo waiting_for_retry 1/3 again at ")
    assert left.endswith(": boom")
    assert right.startswith("│ ◇ right sleep in_progress ")
    assert "sleeps until 2099-01-01" in right
    assert load == "○ load echo pending needs left, right"


def test_a_run_that_failed_shows_what_was_undone(conn):
    steps = [
        {"id": "a", "uses": "echo", "on_rollback": {"uses": "undo"}},
        {"id": "b", "uses": "echo", "retry_count": 1},
        {"id": "c", "uses": "echo"},
    ]
    run = Run(conn, steps).start().done("a").fail("b").done("rollback(a)")
    lines = graph(run)
    assert [line.split()[:2] for line in lines] == [
        ["✓", "a"], ["✗", "b"], ["⊘", "c"], ["rolled", "back,"], ["✓", "rollback(a)"],
    ]  # fmt: skip
    assert lines[1].startswith("✗ b echo error ")


def test_what_each_kind_of_waiting_says(conn):
    waits = {
        "event": ({"topic": "paid", "key": "k"}, "waits for event paid, key k"),
        "approval": ({"prompt": "Pay?\nReally?"}, "asks: Pay?"),
        "task": ({"task": "default/sub"}, "waits for a run of default/sub"),
        "map": ({"items": [1, 2]}, "1 of 2 items, 1 failed"),
    }
    calls.create_task(conn, "sub", "echo")
    steps = [{"id": kind, "uses": "echo", "needs": []} for kind in waits]
    steps[-1] |= {"map": {"over": "${params}", "tolerate": 1}}
    run = Run(conn, steps).start()
    for kind, (wait, _) in waits.items():
        run.wait(kind, {"kind": kind, "tolerate": 1, **wait})
    run.fail("map[0]")
    shown = [line for line in graph(run) if "◇" in line]
    for line, (_, said) in zip(shown, waits.values(), strict=True):
        assert line.endswith(said)


def test_nothing_is_wider_than_the_terminal(run):
    run.start().done("fetch", {"text": "x" * 500}).fail("left", "very long " * 50)
    for width in (40, 60, 80, 120):
        out = StringIO()
        runview.print_steps(Console(file=out, width=width), calls.list_steps(run.conn, run.id))
        assert max(len(line) for line in out.getvalue().splitlines()) <= width


def test_too_many_lanes_are_told_in_words(conn):
    names = [f"w{i:02}" for i in range(30)]
    steps = [{"id": n, "uses": "echo", "needs": "s"} for n in names]
    steps = [
        {"id": "s", "uses": "echo", "needs": []},
        *steps,
        {"id": "j", "uses": "echo", "needs": names},
    ]
    lines = graph(Run(conn, steps))
    assert lines[1] == "○ w00 echo pending needs s"
    assert len(lines) == 32


def test_what_a_tool_said_cannot_drive_the_terminal(run):
    run.start().fail("fetch", "\x1b[2J\x07bad")
    assert "\x1b" not in "\n".join(graph(run))


def test_run_show_tells_all_of_a_run(cli, run):
    run.start().done("fetch").fail("left", "no such file")
    code, said = cli("run", "show", run.tail)
    assert code == 0
    assert "1 of 4 steps, 25" in said
    assert "✗ │ left" in said
    assert "step left: no such file" in said

    code, told = cli("run", "show", run.tail, "--json")
    assert code == 0
    assert [(s["name"], s["state"]) for s in told["steps"]] == [
        ("fetch", "complete"), ("left", "error"), ("right", "cancelled"), ("load", "cancelled"),
    ]  # fmt: skip
    assert (told["progress_percentage"], told["error_message"]) == (25.0, "step left: no such file")


def test_run_show_draws_the_tree(cli, conn):
    calls.create_task(conn, "sub", "echo")
    run = Run(conn, [{"id": "a", "uses": "task"}]).start()
    run.wait("a", {"kind": "task", "task": "sub"})
    _, child = calls.run_tree(conn, run.id)
    code, said = cli("run", "show", str(child.run_id))
    assert code == 0
    assert said.splitlines()[-2:] == [
        next(line for line in said.splitlines() if "(this run)" not in line and "▶" in line),
        f"╰─ ● a: default/sub {child.run_id.hex[-8:]}  pending  (this run)",
    ]
    _, told = cli("run", "show", run.tail, "--json")
    assert [branch["step"] for branch in told["tree"]] == [None, "a"]


def test_steps_are_listed(cli, run):
    run.start().done("fetch").fail("left")
    code, said = cli("run", "steps", run.tail)
    assert code == 0
    assert "left, right" in said
    _, told = cli("run", "steps", run.tail, "--state", "error", "--json")
    assert [(s["name"], s["error"]["message"]) for s in told] == [("left", "boom")]
    run_id = calls.enqueue(run.conn, "echo").run_id
    assert cli("run", "steps", str(run_id)) == (
        0, "no steps: a run of one tool, or none in this state\n")  # fmt: skip


def test_a_step_is_shown_with_its_history(cli, run):
    run.start().fail("fetch", retryable=True)
    code, told = cli("step", "show", run.tail, "fetch", "--json")
    assert code == 0
    assert (told["tool"], told["current_state"], told["retry_eligible"]) == (
        "echo", "waiting_for_retry", True)  # fmt: skip
    states = ["pending", "in_progress", "error", "waiting_for_retry"]
    assert [e["to_state"] for e in told["history"]] == states
    code, said = cli("step", "show", str(run.step("fetch").step_id))
    assert code == 0
    assert "boom" in said
    _, told = cli("run", "log", run.tail, "--step", "fetch", "--json")
    assert [e["to_state"] for e in told] == states
    _, said = cli("run", "history", run.tail)
    assert "step_started" in said


def test_why_a_step_has_not_run(cli, run):
    run.start()
    code, told = cli("why", run.tail, "left", "--json")
    assert (code, [r["detail"] for r in told]) == (
        0, ["step left waits for step fetch, which is ready"])  # fmt: skip
    assert cli("why", str(run.step("left").step_id), "--json")[1] == told


def test_a_failed_run_goes_on(cli, run):
    run.start().done("fetch").fail("left")
    code, told = cli("run", "retry", run.tail, "--failed-steps", "-m", "fixed", "--json")
    assert (code, told) == (0, {"run_id": str(run.id), "steps": 1})
    assert run.state == "running"
    code, said = cli("run", "retry", run.tail, "--failed-steps")
    assert code == 1
    assert "has not failed" in said
    code, said = cli("run", "retry", "--queue", "q", "--failed-steps")
    assert code == 2
    assert "--failed-steps goes with the ID of one run" in said


@pytest.mark.parametrize(
    ("verb", "word"),
    [("retry", "ready"), ("reset", "ready"), ("skip", "skipped"), ("complete", "complete"),
     ("resolve", "resolved_manually")],
)  # fmt: skip
def test_a_person_acts_in_place_of_a_step(cli, run, verb, word):
    run.start().done("fetch").fail("left")
    code, told = cli("step", verb, run.tail, "left", "--note", "by phone", "--json")
    assert (code, told["state"]) == (0, word)
    assert (run.state, run.step("left").state) == ("running", word)
    [*_, (note,)] = run.conn.execute(
        "select detail ->> 'note' from ordinaut.run_log where step = 'left' and detail ? 'note'"
    ).fetchall()
    assert note == "by phone"


def test_a_step_is_completed_with_an_output(cli, run):
    run.start()
    tail = run.step("fetch").step_id.hex[-12:]
    code, said = cli("step", "complete", tail, "--output", '{"rows": 3}')
    assert (code, said) == (0, f"step {tail[-8:]} is complete\n")
    assert run.step("fetch").output == {"rows": 3}
    code, said = cli("step", "complete", tail)
    assert code == 1
    assert "is complete" in said
    assert cli("step", "complete", tail, "--output", "{")[0] == 2


def test_a_run_is_replayed(cli, run):
    run.start().done("fetch", 1).done("left", 2)
    assert cli("run", "replay", run.tail, "--from", "left")[0] == 1
    run.done("right").done("load")
    code, told = cli("run", "replay", run.tail, "--from", "left", "--json")
    assert code == 0
    again = calls.list_steps(run.conn, told["replayed_as"])
    assert [s.state for s in again] == ["complete", "ready", "complete", "pending"]
    assert "no step" in cli("run", "replay", run.tail, "--from", "nix")[1]


def test_what_is_meant_must_be_clear(cli, run):
    not_started = [run.tail, "fetch"]
    for argv in (["00000000"], [run.tail, "nix"], not_started):
        code, said = cli("step", "skip", *argv)
        assert code == 1, said
        assert said.startswith("error: ")
    assert cli("step", "skip", "xyz")[0] == 2
    assert cli("run", "show", "00000000")[0] == 1


def test_one_tail_of_several_runs_is_no_name(cli, conn):
    for i in range(2):
        id = f"{calls.enqueue(conn, 'echo').run_id}"[:-12] + f"0000000{i}abcd"
        calls.enqueue(conn, "echo", run_id=id)
    code, said = cli("run", "show", "abcd")
    assert code == 1
    assert said.splitlines()[0] == "error: 2 runs have an id that ends in 'abcd'"
