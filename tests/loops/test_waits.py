"""Steps that wait hold no worker, and one worker does all that comes of them."""

from __future__ import annotations

import json
from typing import Any

from ordinaut import calls
from tests.loops.conftest import wait_for


def start(db: Any, *steps: dict[str, Any]) -> Any:
    sql = "select run_id from ordinaut.enqueue(p_pipeline => %s)"
    return db.execute(sql, [json.dumps(steps)]).fetchone()[0]


def waits(db: Any, run_id: Any, reason: str) -> Any:
    """Wait until a step of the run is parked for this reason."""
    sql = "select count(*) from ordinaut.parked where run_id = %s and reason = %s"
    return wait_for(lambda: db.execute(sql, [run_id, reason]).fetchone()[0])


def test_an_event_and_a_person_let_a_run_go_on(db, worker, ended):
    worker()
    run_id = start(
        db,
        {"id": "paid", "uses": "wait_for_event", "with": {"topic": "paid", "timeout": "1 h"}},
        {"id": "ask", "uses": "approval", "with": {
            "prompt": "Ship ${steps.paid.payload.n}?", "schema": {"type": "boolean"}}},
        {"id": "ship", "uses": "echo", "if": "steps.ask.response", "save_as": "ship",
         "with": {"n": "${steps.paid.payload.n}", "by": "${steps.ask.by}"}},
    )  # fmt: skip
    waits(db, run_id, "event")
    assert ended(start(db, {"id": "a", "uses": "echo"})).state == "success"  # a worker is free

    calls.emit_event(db, "paid", {"n": 7})
    waits(db, run_id, "approval")
    [asked] = calls.list_approvals(db)
    assert asked.prompt == "Ship 7?"
    calls.respond(db, asked.approval_id, True)

    run = ended(run_id)
    [answered] = calls.list_approvals(db, "answered")
    assert run.output["ship"] == {"n": 7, "by": answered.decided_by}


def test_an_event_starts_a_pipeline_that_reads_it(db, worker, ended):
    worker()
    said = {
        "subject": "${event.payload.subject}",
        "box": "${params.box}",
        "topic": "${params.event.topic}",
    }
    steps = [{"id": "a", "uses": "echo", "save_as": "a", "with": said}]
    db.execute(
        "select ordinaut.create_task('mail', p_payload => '{\"box\": \"in\"}', p_pipeline => %s,"
        " p_schedule_kind => 'event', p_schedule_expr => 'user.email.*')",
        [json.dumps(steps)],
    )

    done = calls.emit_event(db, "user.email.received", {"subject": "hi"})

    [run_id] = done.run_ids
    assert ended(run_id).output["a"] == {
        "subject": "hi", "box": "in", "topic": "user.email.received",
    }  # fmt: skip


def test_a_map_of_child_runs(db, worker, ended):
    worker()
    child = [{"id": "double", "uses": "echo", "save_as": "it", "with": {"n": "${params.n}"}}]
    db.execute("select ordinaut.create_task('child', p_pipeline => %s)", [json.dumps(child)])

    run = ended(start(db,
        {"id": "list", "uses": "echo", "with": {"of": [1, 2, 3, 4, 5]}},
        {"id": "each", "uses": "task", "save_as": "each",
         "map": {"over": "${steps.list.of}", "as": "n", "max_parallel": 2},
         "with": {"task": "child", "params": {"n": "${n}"}}},
    ))  # fmt: skip

    assert run.output["each"] == [{"it": {"n": n}} for n in (1, 2, 3, 4, 5)]


def test_what_cannot_wait_fails_and_says_why(db, worker, ended):
    worker()
    runs = [
        start(db, {"id": "a", "uses": "task", "with": {"task": "nobody"}}),
        start(db, {"id": "a", "uses": "wait_for_event", "with": {"topic": "no topic"}}),
        start(db, {"id": "a", "uses": "wait_for_event", "with": {"topic": "t", "timeout": 0.01}}),
    ]

    said = [ended(run_id).error["message"] for run_id in runs]

    assert said[0] == "step a: there is no task 'default/nobody'"
    assert said[1] == "step a: topic 'no topic' is not the topic of an event"
    assert said[2] == "step a: no event t within 00:00:00.01"
