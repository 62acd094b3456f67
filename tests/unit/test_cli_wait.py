"""ordinaut emit, ordinaut approval …, and the same in Python."""

from __future__ import annotations

import json

import psycopg
import pytest

from ordinaut import Ordinaut, calls, db
from ordinaut.errors import NotFound, WrongState
from tests.unit.test_cli_db import cli as cli  # a fixture


@pytest.fixture
def conn(dsn):
    with db.connect(dsn, name="test") as conn:
        yield conn


def waiting(conn, wait, name="ask"):
    """A run of which a step waits; its id."""
    steps = json.dumps([{"id": name, "uses": "approval", "save_as": "it"}])
    [run_id] = conn.execute(
        "select run_id from ordinaut.enqueue(p_pipeline => %s)", [steps]
    ).fetchone()
    conn.execute("select ordinaut.start_run(%s)", [run_id])
    [work] = calls.lease_work(conn, "w")
    conn.execute(
        "select ordinaut.wait_work(%s, %s, %s)", [work.lease_id, work.work_id, json.dumps(wait)]
    )
    return run_id


ASK = {"kind": "approval", "prompt": "Pay?", "schema": {"required": ["ok"]}, "data": {"sum": 7}}


def test_an_event_is_emitted(cli, conn):
    run_id = waiting(conn, {"kind": "event", "topic": "paid"})
    calls.create_task(conn, "t", "echo", schedule_kind="event", schedule_expr="paid")

    code, said = cli("emit", "paid", '{"n": 1}', "--key", "k", "--idempotency-key", "once")
    assert code == 0
    assert said.endswith(": 1 waiting step(s) completed, 1 run(s) started\n")
    assert calls.get_run(conn, run_id).output["it"]["payload"] == {"n": 1}

    code, done = cli("emit", "paid", "--idempotency-key", "once", "--json")
    assert (code, done["outcome"], done["waiters"], done["run_ids"]) == (0, "existing", 0, [])
    code, said = cli("emit", "no topic")
    assert (code, said.splitlines()[0]) == (
        2,
        "error: topic 'no topic' is not the topic of an event",
    )


def test_a_task_of_an_event_says_so(cli, conn):
    calls.create_task(conn, "t", "echo", schedule_kind="event", schedule_expr="paid.*")

    _, said = cli("task", "list")
    assert "when event paid.* is emitted" in said
    code, said = cli("task", "preview", "t")
    assert code == 2
    assert "no calendar tells when" in said
    _, said = cli("why", "t")
    assert "it waits for event paid.*" in said
    code, told = cli("forecast", "--json")
    assert (code, told["untold"]) == (0, ["default/t"])


def test_a_question_is_listed_and_answered(cli, conn):
    run_id = waiting(conn, ASK)

    code, [asked] = cli("approval", "list", "--json")
    assert (code, asked["prompt"], asked["data"], asked["may_answer"]) == (
        0,
        "Pay?",
        {"sum": 7},
        True,
    )
    _, said = cli("approval", "list")
    assert "Pay?" in said
    tail = asked["approval_id"][-8:]
    code, said = cli("approval", "respond", tail, "{}")
    assert (code, said.splitlines()[0]) == (2, "error: response must have ok")
    code, _ = cli("approval", "respond", str(run_id), '{"ok": true}', "--step", "ask", "-m", "yes")
    assert code == 0
    assert calls.get_run(conn, run_id).output["it"]["note"] == "yes"
    code, said = cli("approval", "respond", tail, '{"ok": false}')
    assert code == 1
    assert "was answered by" in said
    code, said = cli("approval", "cancel", "00000000")
    assert (code, said.splitlines()[0]) == (1, "error: there is no one approval '00000000'")
    assert cli("approval", "list")[1] == "nobody is asked anything\n"
    assert [a["state"] for a in cli("approval", "list", "--state", "any", "--json")[1]] == [
        "answered"
    ]


def test_a_question_is_withdrawn(cli, conn):
    run_id = waiting(conn, ASK)
    [asked] = calls.list_approvals(conn, run_id=run_id)

    assert cli("approval", "cancel", asked.approval_id.hex[-8:], "--note", "no need")[0] == 0
    assert calls.get_run(conn, run_id).state == "failed"


def test_in_python(dsn, conn):
    first, second = waiting(conn, ASK), waiting(conn, {"kind": "event", "topic": "t"})
    with Ordinaut(dsn) as ordinaut:
        [asked] = ordinaut.approvals()
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            ordinaut.respond(asked.approval_id, {})
        ordinaut.respond(asked.step_id, {"ok": None}, "why not")
        assert ordinaut.wait(first, 5)["it"]["response"] == {"ok": None}
        with pytest.raises(WrongState):
            ordinaut.cancel_approval(asked.approval_id)
        with pytest.raises(NotFound):
            ordinaut.respond(first, True)
        assert [a.state for a in ordinaut.approvals(None)] == ["answered"]

        done = ordinaut.emit_event("t", {"n": 1}, key="k")
        assert (done.outcome, done.waiters, done.run_ids) == ("new", 1, [])
        assert ordinaut.wait(second, 5)["it"]["key"] == "k"
