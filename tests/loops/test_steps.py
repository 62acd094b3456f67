"""A worker runs pipelines: its children evaluate, the database decides."""

from __future__ import annotations

from typing import Any

from ordinaut import calls


def start(db: Any, steps: list[dict[str, Any]], **params: Any) -> Any:
    return calls.enqueue(db, "pipeline", {"pipeline": steps, "params": params}).run_id


def states(db: Any, run_id: Any) -> dict[str, str]:
    sql = "select name, state from ordinaut.step where run_id = %s"
    return dict(db.execute(sql, [run_id]).fetchall())


def test_outputs_and_params_reach_the_steps_that_ask(db, worker, ended):
    worker(runner={"tools": {"sql": {}}})
    steps = [
        {"id": "a", "uses": "echo", "with": {"n": 1}},
        {"id": "b", "uses": "echo", "save_as": "second", "with": {"m": "${steps.a.n}"}},
        {
            "id": "c",
            "uses": "sql",
            "with": {"statement": "select %s::int + 1 as x", "params": ["${steps.second.m}"]},
        },
        {
            "id": "d",
            "uses": "echo",
            "save_as": "last",
            "with": {"is": "${params.who}: ${steps.c.rows[0].x}"},
        },
    ]

    run = ended(start(db, steps, who="Ada"))

    assert run.state == "success"
    assert run.output["second"] == {"m": 1}
    assert run.output["last"] == {"is": "Ada: 2"}


def test_a_condition_skips_and_a_sleep_holds_no_worker(db, worker, ended):
    worker()
    steps = [
        {"id": "a", "uses": "echo", "with": {"n": 1}},
        {"id": "b", "uses": "echo", "if": "steps.a.n > `1`", "with": {"x": "never"}},
        {"id": "nap", "uses": "sleep", "with": {"for": 0.05}},
        {"id": "c", "uses": "echo", "save_as": "c", "with": {"b": "${steps.b.x}"}},
    ]

    run_id = start(db, steps)
    run = ended(run_id)

    assert (run.state, run.output["c"]) == ("success", {"b": None})
    assert states(db, run_id) == dict.fromkeys(["a", "nap", "c"], "complete") | {"b": "skipped"}


def test_an_output_that_breaks_its_schema_ends_the_run_at_once(db, worker, ended):
    worker()
    schema = {"properties": {"n": {"type": "string"}}}
    steps = [
        {"id": "a", "uses": "echo", "with": {"n": 1}, "output_schema": schema},
        {"id": "b", "uses": "echo"},
    ]

    run_id = start(db, steps)
    run = ended(run_id)

    assert run.state == "failed"
    assert "output.n: 1 is not of type 'string'" in run.error["message"]
    assert states(db, run_id) == {"a": "error", "b": "cancelled"}
