"""Steps in a real child: templates, conditions, schemas, and steps that only wait."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from ordinaut import calls
from tests.postgres import Databases
from tests.unit.child import HANDS, Child, leased, unit_of
from tests.unit.child import child as child

CONTEXT = {
    "params": {"name": "Ada"},
    "steps": {"a": {"n": 2, "list": [1, 2]}, "evil": {"$secret": "pin"}},
    "run": {"run_id": "r", "task": "t"},
    "now": "2026-11-21T08:00:00.000000Z",
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Child]:
    child = Child(env={"ORDINAUT_SECRET_PIN": "0000-1111"})
    child.ready()
    yield child
    child.end()


def run(child: Child, tool: str, given: Any = None, **more: Any) -> tuple[str, Any]:
    """Run a step; `more` is of its envelope."""
    envelope = more if given is None else {"with": given, **more}
    return child.run(tool, envelope, step="s")


def hand(child: Child, name: str, given: Any, **more: Any) -> tuple[str, Any]:
    return run(child, f"python:{HANDS}.{name}", given, **more)


# What the tool gets


@pytest.mark.parametrize(
    "given",
    [{}, {"a": 1}, {"a": "}} {"}, {"a": {"b": [{}]}}, [1, {"a": 2}], "text", 7,
     {"_schema": 1, "params": {"with": {}}}],
)  # fmt: skip
def test_the_tool_gets_what_the_step_says_and_nothing_else(runner: Child, given: Any) -> None:
    assert runner.run("echo", {"with": given}, step="s") == ("success", given)
    assert run(runner, "echo", given, **CONTEXT) == ("success", given)
    assert run(runner, "echo", given, zzz=1) == ("success", given)


def test_a_step_without_with_gives_its_tool_an_empty_object(runner: Child) -> None:
    assert run(runner, "echo") == ("success", {})
    assert run(runner, "echo", **CONTEXT) == ("success", {})


def test_templates_are_rendered_for_any_tool(runner: Child) -> None:
    given = {"name": "${params.name}", "greeting": "$${x} ${steps.a.n}"}

    assert run(runner, "echo", given, **CONTEXT) == (
        "success",
        {"name": "Ada", "greeting": "${x} 2"},
    )
    assert run(runner, "greet", given, **CONTEXT) == ("success", "${x} 2, Ada")
    assert run(runner, "echo", "${steps.a.list}", **CONTEXT) == ("success", [1, 2])
    assert run(runner, "echo", {"a": "$${x}"}) == ("success", {"a": "${x}"})
    added = run(runner, "math.add", {"a": "${steps.a.n}", "b": 1}, **CONTEXT)
    assert added == ("success", 3)


def test_the_context_of_a_tool_knows_the_step(runner: Child) -> None:
    outcome, seen = hand(runner, "whoami", {})

    assert (outcome, seen["step"]) == ("success", "s")


def test_a_tool_cannot_read_what_is_beside_the_context(runner: Child) -> None:
    given = {"a": "${input_schema}", "b": '${"with"}'}

    assert run(runner, "echo", given, **CONTEXT, input_schema={})[1] == {"a": None, "b": None}


def test_what_came_to_null_is_noted_once(runner: Child) -> None:
    runner.notes.clear()

    run(runner, "echo", {"a": "${steps.b}", "b": ["x${params.y}"]}, **CONTEXT)

    ((_, event, note),) = runner.notes
    assert (event, note) == ("log", {"message": "null: with.a: ${steps.b}; with.b[0]: ${params.y}"})


def test_a_template_that_cannot_be_rendered_fails_the_step_for_good(runner: Child) -> None:
    outcome, error = run(runner, "fail", {"x": "${length(params.n)}"}, **CONTEXT)

    assert outcome == "failed"
    assert error["message"].startswith("with.x: ${length(params.n)}: ")
    assert (error["type"], error["category"]) == ("TemplateRenderError", "validation")
    assert error["retryable"] is False


def test_secrets_are_followed_from_params_and_the_definition_but_not_from_outputs(
    runner: Child,
) -> None:
    secret = {"$secret": "pin"}
    masked = {"password": "***", "length": "9"}

    assert hand(runner, "secret", {"password": secret}) == ("success", masked)
    from_params = {**CONTEXT, "params": {"pin": secret}}
    assert hand(runner, "secret", {"password": "${params.pin}"}, **from_params)[1] == masked
    outcome, error = hand(runner, "secret", {"password": "${steps.evil}"}, **CONTEXT)
    assert outcome == "failed"
    assert "a reference to a secret" in error["message"]
    item = {"item": secret, "index": 0, "as": "item"}
    assert hand(runner, "secret", {"password": "${item}"}, **CONTEXT, **item)[0] == "failed"


# Conditions


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ("steps.a.n > `1`", "success"),
        ("${steps.a.n > `2`}", "skipped"),
        ("steps.b", "skipped"),
        ("steps.a.n > 1", "failed"),
        (False, "skipped"),
        (True, "success"),
    ],
)
def test_a_condition_decides(runner: Child, condition: Any, outcome: str) -> None:
    assert run(runner, "echo", {"a": 1}, **{"if": condition}, **CONTEXT)[0] == outcome


def test_a_skipped_step_has_a_reason_and_no_output(runner: Child) -> None:
    envelope = {"with": {"x": "${length(params.n)}"}, "if": "steps.b", **CONTEXT}
    runner.tell("run", [unit_of("fail", envelope, step="s")])

    ((_, _, outcome, output, error, _),) = runner.results()

    assert (outcome, output, error) == ("skipped", None, b'{"message": "if steps.b"}')


# Schemas


def test_an_input_that_does_not_fit_does_not_reach_the_tool(runner: Child) -> None:
    schema = {"properties": {"n": {"type": "integer"}}}
    runner.notes.clear()

    outcome, error = hand(
        runner, "note_then_sleep", {"seconds": 0, "n": "${params.name}"}, **CONTEXT,
        input_schema=schema,
    )  # fmt: skip

    assert outcome == "failed"
    assert error["message"] == "with.n: 'Ada' is not of type 'integer'"
    assert (error["type"], error["code"]) == ("StepValidationError", "E2002")
    assert (error["category"], error["retryable"]) == ("validation", False)
    assert runner.notes == []


def test_an_input_schema_sees_secrets_as_the_texts_they_are(runner: Child) -> None:
    schema = {"properties": {"password": {"type": "string"}}}
    given = {"password": {"$secret": "pin"}}

    assert hand(runner, "secret", given, input_schema=schema)[0] == "success"
    assert run(runner, "echo", given, input_schema=schema) == ("success", given)


@pytest.mark.parametrize(
    ("tool", "given", "schema", "said"),
    [
        ("echo", {"a": 1}, {"properties": {"a": {"type": "string"}}}, "output.a: 1 is not of type"),
        ("echo", [1], {"maxItems": 0}, "output: "),
        ("greet", {"name": "x"}, {"type": "object"}, "output: 'Hello, x' is not of type 'object'"),
        (
            "math.add",
            {"a": 1, "b": 2},
            {"maximum": 2},
            "output: 3 is greater than the maximum of 2",
        ),
        (
            f"python:{HANDS}.give",
            {"kind": "none"},
            {"type": "string"},
            "output: None is not of type",
        ),
        ("echo", {}, {"$ref": "http://127.0.0.1:1/x"}, "output: its schema cannot be used: "),
        ("echo", {}, {"$ref": "#/nowhere"}, "output: its schema cannot be used: "),
        ("echo", {}, {"$ref": "#"}, "output: its schema refers to itself without an end"),
        ("echo", {}, {"type": "nonsense"}, "output: its schema cannot be used: "),
        ("echo", "a" * 60, {"pattern": "^(a|aa)+b$"}, "output: a pattern of its schema takes too"),
    ],
)
def test_an_output_that_does_not_fit_fails_the_step_for_good(
    runner: Child, tool: str, given: Any, schema: Any, said: str
) -> None:
    outcome, error = run(runner, tool, given, output_schema=schema)

    assert outcome == "failed"
    assert error["message"].startswith(said)
    assert (error["category"], error["retryable"]) == ("validation", False)


def test_a_reference_into_the_network_is_not_followed(runner: Child) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema"}

        outcome, _ = run(runner, "echo", {}, output_schema=schema)

        assert outcome == "failed"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_an_output_that_fits_is_the_output(runner: Child) -> None:
    schema = {"type": ["object", "integer"], "properties": {"a": {"pattern": "^x"}}}

    assert run(runner, "echo", {"a": "x"}, output_schema=schema) == ("success", {"a": "x"})
    added = run(runner, "math.add", {"a": 1, "b": 2}, output_schema=schema)
    assert added == ("success", 3)


# Steps that wait


@pytest.mark.parametrize(
    ("tool", "given", "plan"),
    [
        ("sleep", {"for": "5 min"}, {"kind": "sleep", "seconds": 300.0}),
        ("sleep", {"seconds": 0.5}, {"kind": "sleep", "seconds": 0.5}),
        ("sleep", {"for": "PT2H"}, {"kind": "sleep", "seconds": 7200.0}),
        ("sleep", {"for": "${steps.a.n}"}, {"kind": "sleep", "seconds": 2}),
        (
            "sleep",
            {"until": "2026-03-01T09:00:00+01:00"},
            {"kind": "sleep", "until": "2026-03-01T08:00:00.000000Z"},
        ),
        (
            "wait_for_event",
            {"topic": "paid", "key": "${params.name}", "timeout": "1 day",
             "on_timeout": "continue"},
            {"kind": "event", "topic": "paid", "key": "Ada", "timeout": 86400.0,
             "on_timeout": "continue"},
        ),
        (
            "wait_for_event",
            {"topic": "paid"},
            {"kind": "event", "topic": "paid", "key": None, "timeout": None, "on_timeout": "fail"},
        ),
        (
            "approval",
            {"prompt": "Ship to ${params.name}?", "schema": {"type": "object"}, "expires_in": 60,
             "responders": "boss", "data": "${steps.a}"},
            {"kind": "approval", "prompt": "Ship to Ada?", "schema": {"type": "object"},
             "expires_in": 60, "on_expiry": "fail", "responders": ["boss"],
             "data": {"n": 2, "list": [1, 2]}},
        ),
        (
            "task",
            {"task": "shop/ship", "params": {"n": "${steps.a.n}"}},
            {"kind": "task", "task": "shop/ship", "params": {"n": 2}, "wait": True},
        ),
        (
            "task",
            {"task": "ship", "wait": False},
            {"kind": "task", "task": "default/ship", "params": {}, "wait": False},
        ),
    ],
)  # fmt: skip
def test_a_control_step_says_what_it_waits_for(
    runner: Child, tool: str, given: Any, plan: dict[str, Any]
) -> None:
    assert run(runner, tool, given, **CONTEXT) == ("waiting", plan)


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("sleep", {}, "sleep: needs either for"),
        ("sleep", {"for": 1, "until": "2026-03-01T08:00:00Z"}, "sleep: needs either for"),
        ("sleep", {"for": "a while"}, "sleep: for: must be a duration"),
        ("sleep", {"for": "1 month"}, "sleep: for: '1 month': months and years differ in length"),
        ("sleep", {"for": -1}, "sleep: for: must be from 0 to 3650 days"),
        ("sleep", {"for": True}, "sleep: for: must be a duration"),
        ("sleep", {"until": "2026-03-01T08:00:00"}, "sleep: until: 2026-03-01T08:00:00 has no"),
        ("sleep", {"until": 7}, "sleep: until: must be an instant"),
        ("sleep", {"fro": 1}, "sleep: fro: there is no such field; there are for, seconds, until"),
        ("sleep", 5, "sleep: its with is an object"),
        ("wait_for_event", {}, "wait_for_event: topic: must be a text"),
        ("wait_for_event", {"topic": "a", "on_timeout": "x"}, "wait_for_event: on_timeout: must"),
        ("wait_for_event", {"topic": "a", "key": 7}, "wait_for_event: key: must be a text"),
        ("approval", {"prompt": " "}, "approval: prompt: must be a text"),
        ("approval", {"prompt": "a", "schema": {"type": 7}}, "approval: schema: no JSON Schema: "),
        ("approval", {"prompt": "a", "responders": [7]}, "approval: responders: must be a list"),
        ("approval", {"prompt": "a", "data": "x" * 1_100_000}, "approval: 1100"),
        ("task", {"task": "a/b", "params": []}, "task: params: must be an object"),
        ("task", {"task": "a/b", "wait": "no"}, "task: wait: must be true or false"),
    ],
)  # fmt: skip
def test_a_control_step_that_cannot_wait_fails_for_good(
    runner: Child, tool: str, given: Any, said: str
) -> None:
    outcome, error = run(runner, tool, given)

    assert outcome == "failed"
    assert error["message"].startswith(said)
    assert (error["category"], error["retryable"]) == ("validation", False)


def test_a_control_step_is_no_tool_of_its_own(runner: Child) -> None:
    outcome, error = runner.run("sleep", {"for": 1})

    assert (outcome, error["code"]) == ("failed", "E2001")


# Maps


def test_a_map_asks_for_its_items(runner: Child) -> None:
    given = {"over": "${steps.a.list}", "max_parallel": 5, "on_failure": "continue", "tolerate": 1}
    literal = {"over": [{"n": 1}, 2]}

    assert run(runner, "fail", {"x": "${item}"}, **CONTEXT, map=given) == (
        "waiting",
        {
            "kind": "map",
            "items": [1, 2],
            "max_parallel": 5,
            "on_failure": "continue",
            "tolerate": 1,
        },
    )
    assert run(runner, "fail", {}, map=literal) == (
        "waiting",
        {"kind": "map", "items": [{"n": 1}, 2], "max_parallel": None, "on_failure": "fail",
         "tolerate": 0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"over": "${steps.b}"}, "map.over: must come to a list, not to null"),
        ({"over": "${params}"}, "map.over: must come to a list, not to an object"),
        (
            {"over": []} | {"max_parallel": 0},
            "map: max_parallel: must be a whole number, at least 1",
        ),
        ({"over": [], "on_failure": "x"}, "map: on_failure: must be fail or continue"),
        ({"over": [], "many": 1}, "map: many: there is no such field"),
        ([1], "map.over: must come to a list, not to null"),
        ({"over": ["x" * 600_000] * 2}, "map: 12000"),
        ({"over": "${steps.a.list[0]}"}, "map.over: must come to a list, not to a number"),
    ],
)
def test_a_map_that_is_none_fails_for_good(runner: Child, given: Any, said: str) -> None:
    outcome, error = run(runner, "echo", {}, **CONTEXT, map=given)

    assert outcome == "failed"
    assert error["message"].startswith(said)
    assert (error["category"], error["retryable"]) == ("validation", False)


def test_an_item_runs_the_tool_with_the_item_and_asks_no_condition(runner: Child) -> None:
    given = {"row": "${row.n}", "at": "${index}", "no": "${item}"}
    item = {"item": {"n": 7}, "index": 0, "as": "row"}
    body = {"map": {"over": "${steps.a.list}", "as": "row"}, "if": "steps.b"}

    result = run(runner, "echo", given, **CONTEXT, **item, **body)

    assert result == ("success", {"row": 7, "at": 0, "no": None})
    assert run(runner, "echo", "${item}", **CONTEXT, item=None, index=1) == ("success", None)


def test_the_condition_of_a_map_is_asked_before_it_has_items(runner: Child) -> None:
    body = {"map": {"over": "${steps.nowhere}"}, "if": "steps.b"}

    assert run(runner, "echo", {}, **CONTEXT, **body)[0] == "skipped"


def test_a_rollback_sees_what_it_undoes(runner: Child) -> None:
    given = {"undo": "${output.id}"}

    assert run(runner, "echo", given, **CONTEXT, output={"id": 7}) == ("success", {"undo": 7})


def test_many_steps_in_one_batch_come_back_in_order(runner: Child) -> None:
    units = [
        unit_of(tool, envelope, step="s")
        for _ in range(50)
        for tool, envelope in [
            ("echo", {"with": {"a": 1}}),
            ("sleep", {"with": {"for": 1}}),
            ("echo", {"if": "a", **CONTEXT}),
        ]
    ]

    runner.tell("run", units)
    results = runner.results(150)

    assert [result[1] for result in results] == [unit[1] for unit in units]
    assert [result[2] for result in results] == ["success", "waiting", "skipped"] * 50


# The tools' own transaction


@pytest.fixture(scope="module")
def dsn(databases: Databases, prod_template: str) -> Iterator[str]:
    with databases.fresh(prod_template) as dsn:
        yield dsn


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table witness (label text)")
        yield conn
        conn.execute("drop table witness")


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("sql", {"statement": "insert into witness values ('a') returning label"}),
        (f"python:{HANDS}.write", {"text": "a"}),
        (f"python:{HANDS}.awrite", {"text": "a"}),
    ],
)
def test_writes_of_a_step_with_a_bad_output_are_undone(
    child: Callable[..., Child], db: psycopg.Connection[Any], dsn: str, tool: str, given: Any
) -> None:
    runner = child(dsn=dsn, tools={"sql": {}})
    good: Any = {"type": ["object", "string"]}
    found = []
    for schema in (good, {"type": "integer"}):
        calls.enqueue(db, "echo", {})
        (work,) = calls.lease_work(db, "test")
        envelope = {"with": given, "output_schema": schema}
        outcome, error = runner.run(tool, envelope, step="s", **leased(work))
        found.append(outcome)

    assert found == ["settled", "failed"]
    assert error["message"].startswith("output: ")
    assert error["retryable"] is False
    assert db.execute("select count(*) from witness").fetchall() == [(1,)]
    assert json.loads(json.dumps(calls.get_run(db, work.run_id).state)) == "running"
