"""
All orders of a few calls on three connections: see tests/races/permutations.py.

Here some of them, the same at each run; ORDERS=500 takes so many of each, ORDERS=all every one, and
ORDERS=abcabc with -k one of them: what a failure prints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from tests.races.permutations import Call, Scenario, Stage

ORDERS = os.environ.get("ORDERS", "")
FEW = "10"


def lease(lease_id: str, limit: int = 1) -> Call:
    return Call(
        f"select count(*) from ordinaut.lease_work('w', p_limit => {limit}, p_lease_id =>"
        f" %({lease_id})s)",
        " ".join(map(str, range(limit + 1))),
        takes=lease_id,
        waits=False,
    )


def limited(lease_id: str) -> Call:
    """Leases of a limited queue take turns."""
    return replace(lease(lease_id), waits=True)


def settle(verb: str, lease_id: str, answers: str, work: str = "null", more: str = "") -> Call:
    work = work if work == "null" else f"%({work})s"
    return Call(
        f"select coalesce(string_agg(distinct outcome, '+'), 'nothing')"
        f" from ordinaut.{verb}_work(%({lease_id})s, {work}{more})",
        f"{answers} OR001",
        lease_id,
    )


def complete(lease_id: str, work: str = "null") -> Call:
    return settle("complete", lease_id, "success already", work)


def fail(lease_id: str, work: str = "null", *, for_good: bool = False) -> Call:
    return settle(
        "fail",
        lease_id,
        f"{'failed' if for_good else 'retry'} cancelled already",
        work,
        f", 'boom', {not for_good}".lower(),
    )


def release(lease_id: str, work: str = "null") -> Call:
    return settle("release", lease_id, "released cancelled already", work)


def heartbeat(lease_id: str) -> Call:
    return Call(
        "select coalesce(string_agg(distinct kind, '+'), 'nothing')"
        f" from ordinaut.heartbeat(%({lease_id})s)",
        "nothing cancel OR001",
        lease_id,
    )


def cancel(run: str) -> Call:
    return Call(
        f"select ordinaut.cancel_run(%({run})s)", "cancelled requested too_late", cancels=run
    )


def retry(run: str) -> Call:
    return Call(
        f"select outcome from ordinaut.retry_run(%({run})s)",
        "new existing OR031",
    )


def reaped(most: int) -> Call:
    return Call("select ordinaut.reap()", " ".join(map(str, range(most + 1))), waits=False)


def enqueued(name: str, more: str = "") -> tuple[str, str]:
    return name, f"select run_id from ordinaut.enqueue('echo'{more})"


def leased(lease_id: str, limit: int = 1, span: str = "1 min") -> tuple[str, str]:
    return "", (
        f"select * from ordinaut.lease_work('w', p_limit => {limit}, p_for => '{span}',"
        f" p_lease_id => %({lease_id})s)"
    )


RESUME = "select ordinaut.resume_queue('default')"
PAUSE = Call("select 'paused' from ordinaut.pause_queue('default')", "paused")
REAP = reaped(9)
KEYED = ", p_key => 'k', p_key_limit => 1"
JOIN = [
    {"id": "a", "uses": "echo", "needs": []},
    {"id": "b", "uses": "echo", "needs": []},
    {"id": "j", "uses": "echo", "needs": ["a", "b"]},
]


def queued(pipeline: list[dict[str, object]]) -> tuple[str, str]:
    return "r", f"select run_id from ordinaut.enqueue(p_pipeline => '{json.dumps(pipeline)}')"


def started(pipeline: list[dict[str, object]]) -> list[tuple[str, str]]:
    ids = [
        (
            f"s_{step['id']}",
            f"select step_id from ordinaut.step where run_id = %(r)s and name = '{step['id']}'",
        )
        for step in pipeline
    ]
    return [queued(pipeline), ("", "select ordinaut.start_run(%(r)s)"), *ids]


def leased_step(lease_id: str, step: str) -> tuple[str, str]:
    return lease_id, f"select ordinaut._lease_step(%({step})s, 'w')"


EVENT = [{"id": "w", "uses": "wait_for_event"}, {"id": "x", "uses": "echo"}]
EMIT = Call("select outcome from ordinaut.emit_event('t')", "new", waits=False)
WAIT = settle(
    "wait",
    "L1",
    "waiting success cancelled already",
    "s_w",
    """, '{"kind": "event", "topic": "t"}'""",
)

APPROVAL = [{"id": "ask", "uses": "approval"}, {"id": "go", "uses": "echo"}]
ASK = """'{"kind": "approval", "prompt": "?", "expires_in": 3600}'"""
PAUSE_TASK = Call("select ordinaut.pause_task('beat')", "paused")
REJECT = Call("select 'done' from ordinaut.cancel_approval(%(s_ask)s)", "done OR031")


def respond(response: str) -> Call:
    return Call(f"select 'done' from ordinaut.respond(%(s_ask)s, '{response}')", "done OR031")


def beat(overlap: str) -> list[tuple[str, str]]:
    """A task of which one run is leased, and which is due again."""
    return [
        (
            "",
            "select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval',"
            f" p_schedule_expr => '30 s', p_overlap => '{overlap}')",
        ),
        ("", "select set_config('test.now', '2026-03-29 12:00:30+00', false)"),
        ("r", "select f.run_id from ordinaut.run_now('beat') as f (run_id)"),
        leased("L1"),
    ]


def tick(most: int, *, waits: bool = False) -> Call:
    answers = " ".join(map(str, range(most + 1)))
    return Call("select fired from ordinaut.tick()", answers, waits=waits)


def exchange(lease_id: str, *done: str) -> Call:
    ids = ", ".join(f"%({work})s" for work in done)
    n = len(done)
    return Call(
        "select coalesce(string_agg(distinct kind, '+'), 'nothing') from ordinaut.exchange("
        f"%(W)s, 'default', %({lease_id})s, 2, array_fill(%(L1)s::uuid, '{{{n}}}'),"
        f" array[{ids}]::uuid[], array_fill('success'::text, '{{{n}}}'),"
        f" array_fill(null::text, '{{{n}}}'), array_fill(null::text, '{{{n}}}'),"
        f" array_fill(1000::bigint, '{{{n}}}'))",
        "work already lost busy cancel sweep nothing OR022",
        "L1" if done else "",
        takes=lease_id,
    )


SCENARIOS = {
    "plain": Scenario(
        [enqueued("r"), leased("L1")],
        {
            "a": [heartbeat("L1"), complete("L1")],
            "b": [REAP, lease("L2"), fail("L2")],
            "c": [cancel("r"), retry("r")],
        },
    ),
    "pause": Scenario(
        [enqueued("r"), enqueued("q")],
        {
            "a": [lease("L1", 2), release("L1")],
            "b": [PAUSE, lease("L2", 2), fail("L2", for_good=True)],
            "c": [cancel("r"), retry("r"), REAP],
        },
        [RESUME],
    ),
    "keys": Scenario(
        [enqueued("r", KEYED), enqueued("q", KEYED), enqueued("p", KEYED), leased("L1")],
        {
            "a": [complete("L1"), lease("L2", 2)],
            "b": [lease("L3", 2), complete("L3"), REAP],
            "c": [cancel("r"), cancel("q")],
        },
    ),
    "free key": Scenario(
        [enqueued("r", KEYED), enqueued("q", KEYED)],
        {
            "a": [lease("L1"), complete("L1")],
            "b": [lease("L2"), fail("L2")],
            "c": [cancel("r"), REAP],
        },
    ),
    "live lease": Scenario(
        [enqueued("r"), leased("L1", 1, "10 min")],
        {
            "a": [release("L1"), lease("L2")],
            "b": [reaped(0), lease("L3")],
            "c": [cancel("r"), reaped(0)],
        },
    ),
    "batch": Scenario(
        [enqueued("r"), enqueued("q"), enqueued("p"), leased("L1", 3)],
        {
            "a": [complete("L1", "r"), complete("L1")],
            "b": [fail("L1", "q"), complete("L1", "r")],
            "c": [cancel("q"), REAP, lease("L2", 3)],
        },
    ),
    "limited": Scenario(
        [
            enqueued("r"),
            enqueued("q"),
            ("", "select ordinaut.set_queue('default', p_max_running => 1)"),
        ],
        {
            "a": [limited("L1")],
            "b": [limited("L2"), heartbeat("L2")],
            "c": [complete("L1"), cancel("r")],
        },
    ),
    "start": Scenario(
        [queued(JOIN)],
        {
            "a": [lease("L1", 5), complete("L1"), lease("L2", 5)],
            "b": [cancel("r"), REAP],
            "c": [cancel("r"), cancel("r")],
        },
    ),
    "start and cancel": Scenario(
        [queued(JOIN)],
        {"a": [lease("L1", 5), cancel("r")], "b": [cancel("r")], "c": [cancel("r")]},
    ),
    "join": Scenario(
        [*started(JOIN), leased_step("L1", "s_a"), leased_step("L2", "s_b")],
        {
            "a": [complete("L1"), lease("L3")],
            "b": [fail("L2"), complete("L2"), lease("L4")],
            "c": [cancel("r"), REAP],
        },
    ),
    "event": Scenario(
        [*started(EVENT), leased_step("L1", "s_w")],
        {"a": [WAIT, lease("L2")], "b": [EMIT, REAP], "c": [cancel("r"), REAP]},
        ["select ordinaut.emit_event('t')"],
    ),
    "approval": Scenario(
        [
            *started(APPROVAL),
            leased_step("L1", "s_ask"),
            ("", f"select * from ordinaut.wait_work(%(L1)s, %(s_ask)s, {ASK})"),
        ],
        {
            "a": [respond('{"approved": true}'), lease("L2")],
            "b": [respond('{"approved": false}'), REAP],
            "c": [REJECT, cancel("r")],
        },
        ["update ordinaut.approval set expires_at = now() where decision is null"],
    ),
    "task that skips": Scenario(
        beat("skip"),
        {"a": [tick(2), complete("L1")], "b": [tick(2), PAUSE_TASK], "c": [REAP, lease("L2")]},
        ["select ordinaut.pause_task('beat')"],
    ),
    "task that buffers": Scenario(
        beat("buffer_all"),
        {"a": [tick(3), complete("L1")], "b": [tick(3), lease("L2", 3)], "c": [cancel("r"), REAP]},
        ["select ordinaut.pause_task('beat')"],
    ),
    "task that cancels": Scenario(
        beat("cancel_other"),
        {
            "a": [tick(2, waits=True), fail("L1")],
            "b": [tick(2, waits=True), lease("L2")],
            "c": [cancel("r"), REAP],
        },
        ["select ordinaut.pause_task('beat')"],
    ),
    "exchange": Scenario(
        [
            enqueued("r"),
            enqueued("q"),
            enqueued("p"),
            ("", "select ordinaut.register_worker(%(W)s, '{default}', '{echo}')"),
            (
                "",
                "select * from ordinaut.exchange(%(W)s, 'default', %(L1)s, 2)",
            ),
        ],
        {
            "a": [exchange("L2", "r"), exchange("L2", "r")],
            "b": [REAP, lease("L3", 3)],
            "c": [cancel("q"), exchange("L4", "q")],
        },
    ),
    "stale request": Scenario(
        [
            enqueued("r"),
            leased("L1"),
            ("", "select * from ordinaut.complete_work(%(L1)s)"),
            ("", "insert into ordinaut.cancel_request values (%(r)s, 'who', now(), null)"),
        ],
        {"a": [REAP, lease("L2")], "b": [REAP], "c": [cancel("r"), REAP]},
    ),
}


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with closing(Stage(dsn, "abc")) as stage:
        yield stage


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_call_is_a_transaction(stage, name):
    for order in SCENARIOS[name].orders(ORDERS or FEW, seed=1):
        stage.play(SCENARIOS[name], order)


@pytest.mark.parametrize("name", SCENARIOS)
def test_calls_in_open_transactions(stage, name):
    opened = SCENARIOS[name].in_transactions()
    for order in opened.orders(ORDERS or FEW, seed=2):
        stage.play(opened, order)
