"""Templates keep types, look up and never run, end where they end, and are checked before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ordinaut import template
from ordinaut.expression import ALL, BadTemplate, compiled
from ordinaut.template import ConditionEvaluationError, TemplateRenderError, condition, render
from ordinaut.tools.errors import classify

CONTEXT: dict[str, Any] = {
    "params": {"city": "Chișinău", "n": 3, "ok": True, "token": {"$secret": "api"}},
    "steps": {
        "weather": {"temperature": 25.5, "list": [1, 2], "none": None, "text": "${params.city}"},
        "my-step": {"x": 1},
        "evil": {"a": [{"b": {"$secret": "database"}}], "named": "$secret"},
        "zero": 0,
    },
    "run": {"run_id": "r"},
    "now": "2026-11-21T08:00:00.000000Z",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${steps.weather.temperature}", 25.5),
        ("${steps.weather.list}", [1, 2]),
        ("${params.ok}", True),
        ("${params.n}", 3),
        ("${ params.city }", "Chișinău"),
        ("${steps.nowhere.at.all}", None),
        ("${params.token}", {"$secret": "api"}),
        ("${steps.evil.named}", "$secret"),
        (" ${params.n}", " 3"),
        ("${params.n}${params.n}", "33"),
        ("a ${params.city}, ${steps.weather.none}", "a Chișinău, null"),
        ("${params.ok}!", "true!"),
        ('is ${steps.weather.list} and ${steps."my-step"}', 'is [1, 2] and {"x": 1}'),
        ("it isn't ${params.n} but ${now}", "it isn't 3 but 2026-11-21T08:00:00.000000Z"),
        ("$${HOME} ${params.n} $${", "${HOME} 3 ${"),
        ("$$${params.n}", "$${params.n}"),
        ("$ {x} $x }", "$ {x} $x }"),
        ("${'}'} and ${`\"}{\"`}", "} and }{"),
        ("${{a: params.n, b: {c: '}'}}}", {"a": 3, "b": {"c": "}"}}),
        ("${'it\\'s }'}", "it's }"),
        ('${{"}": params.n}}', {"}": 3}),
        ("${steps.weather.text}", "${params.city}"),
        ("<${steps.weather.text}>", "<${params.city}>"),
        ("${length(steps.weather.list)}", 2),
    ],
)
def test_a_text_becomes_a_value(text: str, value: Any) -> None:
    assert render(text, CONTEXT) == value
    assert render({"a": [text, 1, None]}, CONTEXT) == {"a": [value, 1, None]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${}", "with.a[0]: an empty ${}"),
        ("${  }", "an empty ${}"),
        ("a ${params.n", "no closing brace"),
        ("${'}", "has no closing brace"),
        ("${params.n b}", "Unexpected token"),
        ("${params.}", "'params.': the expression ends too early"),
        ("${params.n > 2}", "numbers in backticks: `2`"),
        ("${steps.my-step.x}", 'double quotes, as in steps."my-step".x'),
        ("${length(params.n)}", "length()"),
        ("${nosuch(params.n)}", "nosuch()"),
        ("${&a}", "no JSON value"),
        ("${to_number('nan')}", "no JSON value"),
        ("${to_array(&a)}", "no JSON value"),
        ("${" + "(" * 1900 + "a" + ")" * 1900 + "}", "too deeply"),
        ("${" + "a" * 5000 + "}", "5000 characters"),
        ("${steps.evil.a}", "a reference to a secret"),
        ("${[params.token, steps.zero]}", "a reference to a secret"),
    ],
)
def test_what_is_no_template_is_an_error_that_names_the_field(text: str, words: str) -> None:
    with pytest.raises(TemplateRenderError) as caught:
        render({"a": [text]}, CONTEXT)

    assert str(caught.value).startswith("with.a[0]: ")
    assert words in str(caught.value)
    assert classify(caught.value) == ("validation", "E2002", False)


def test_nulls_are_told() -> None:
    nulls: list[str] = []

    render({"a": "${steps.x}", "b": "n: ${params.m}", "c": "${params.n}"}, CONTEXT, nulls=nulls)

    assert nulls == ["with.a: ${steps.x}", "with.b: ${params.m}"]


def test_expansion_is_bounded_in_size_and_depth() -> None:
    big = {"params": {"b": "x" * 300_000, "l": ["y" * 300_000]}, "steps": {}}
    deep: Any = 0
    for _ in range(60):
        deep = [deep]

    assert len(render(["${params.b}", "${params.l}", "a${params.b}"], big)[2]) == 300_001
    for hungry in (["${params.b}"] * 4, ["${params.l}"] * 4, "${params.b}" * 4):
        with pytest.raises(TemplateRenderError, match="more than 1048576 characters"):
            render(hungry, big)
    assert render([[["${params}"]]], {"params": deep})
    for inside in ([[[[["${params}"]]]]], [[[["${params}"]]], [[[[[]]]]]]):
        with pytest.raises(TemplateRenderError, match="64 levels"):
            render([inside] if inside[0][0][0] == ["${params}"] else [[inside]], {"params": deep})
    literal: Any = "${params}"
    for _ in range(5000):
        literal = [literal]
    with pytest.raises(TemplateRenderError, match="64 levels"):
        render(literal, {"params": 1})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("steps.weather.temperature > `25`", True),
        ("steps.weather.temperature > `26`", False),
        ("steps.nowhere.temperature > `25`", False),  # null
        ("steps.weather.list", True),
        ("steps.zero", True),
        ("`[]`", False),
        ("`{}`", False),
        ("''", False),
        ("steps.weather.none", False),
        ("params.city == 'Chișinău' && params.ok", True),
        ("${params.ok}", True),
        (" ${params.city == '}'} ", False),
        (True, True),
        (False, False),
    ],
)
def test_a_condition_is_jmespath_and_its_truth(text: str | bool, answer: bool) -> None:
    assert condition(text, CONTEXT) is answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps.weather.temperature > 25", "numbers in backticks: `25`"),
        ("", "empty"),
        ("${params.ok} && ${params.n}", "the whole condition into one"),
        ("sum(params.city)", "sum()"),
    ],
)
def test_a_condition_that_cannot_be_decided_is_an_error(text: str, words: str) -> None:
    with pytest.raises(ConditionEvaluationError) as caught:
        condition(text, CONTEXT)

    assert words in str(caught.value)
    assert classify(caught.value) == ("validation", "E2002", False)


@pytest.mark.parametrize(
    ("text", "roots", "steps"),
    [
        ("steps.a.b[0].c", {"steps"}, {"a"}),
        ("@.steps.a", {"steps"}, {"a"}),
        ("params | steps.a", {"params"}, set()),
        ("steps | a.b", {"steps"}, {"a"}),
        ("steps", {"steps"}, {ALL}),
        ("steps.*.x", {"steps"}, {ALL}),
        ("length(steps)", {"steps"}, {ALL}),
        ("@", {"steps"}, {ALL}),
        ('steps.a || steps."b-c"', {"steps"}, {"a", "b-c"}),
        ("{x: steps.a, y: [params.z, steps.b]}", {"steps", "params"}, {"a", "b"}),
        ("steps.a.list[?steps > `1`].run", {"steps"}, {"a"}),
        ("sort_by(steps.a, &steps)[0]", {"steps"}, {"a"}),
        ("steps.[a, b]", {"steps"}, {"a", "b"}),
        ("item.steps.a", {"item"}, set()),
        ("`1`", set(), set()),
        ("'steps.a'", set(), set()),
        ("steps.a[1:2].b", {"steps"}, {"a"}),
        ("steps.a[].b", {"steps"}, {"a"}),
        ("!(steps.a) && now", {"steps", "now"}, {"a"}),
    ],
)
def test_what_an_expression_reads(text: str, roots: set[str], steps: set[str]) -> None:
    found = compiled(text)

    assert (found.roots, found.steps) == (roots, steps)


def test_references_and_variables() -> None:
    value = {"a": "${steps.x.y} ${params.z}", "b": ["$${steps.no}", "${ steps.w }"], "c": 1}

    assert template.references(value) == {"x", "w"}
    assert template.extract_variables(value) == ["steps.x.y", "params.z", "steps.w"]
    with pytest.raises(BadTemplate):
        template.references("${")


# The whole pipeline


def step(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "uses": "echo", **more}


def test_a_good_pipeline_has_no_problems() -> None:
    schema = {"type": "object", "$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}
    pipeline = [
        step("a", save_as="first", **{"with": {"x": "${params.x}"}}),
        step("b", **{"if": "steps.first.ok", "with": {"y": "${steps.a} $${z}"}}),
        step(
            "c",
            map={"over": "${steps.b.list}", "as": "row"},
            **{"with": {"r": "${row.x}", "i": "${index}", "t": "${now} ${run.run_id}"}},
            input_schema=schema,
            output_schema=True,
            on_rollback={"uses": "echo", "with": {"o": "${output.x} ${steps.c} ${steps.b}"}},
        ),
        {"uses": "sleep", "with": {"for": "${params.wait} ${steps.c}"}},
        {"uses": "echo", "with": "${steps.step_4}"},
        {"id": "e", "uses": "approval", "with": {"prompt": "May we?", "expires_in": "2 h"}},
    ]

    assert template.check(pipeline) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"with": {"u": "${}"}}, "step b, with.u: an empty ${} names nothing"),
        ({"with": {"u": ["${steps.x}"]}}, "step b, with.u[0]: no step is or saves as x"),
        ({"with": "${steps.firs}"}, "step b, with: no step is or saves as firs; first?"),
        ({"with": "${steps.c.x}"}, "step b, with: steps.c may not have ended by then: add c to its"
                                   " needs"),
        ({"with": "${steps.b}"}, "step b, with: steps.b is the step's own output"),
        ({"with": {"${x}": 1}}, "step b, with.${x}: a key of an object is no template"),
        ({"with": "${param.x}"}, "step b, with: 'param.x': param is nothing that this may read;"
                                 " there are event, now, params, run, steps"),
        ({"with": "${first.x}"}, "step b, with: 'first.x': write steps.first"),
        ({"with": "${item}"}, "step b, with: 'item': item is nothing that this may read; there are"
                              " event, now, params, run, steps"),
        ({"if": "steps.first.n > 25"}, "step b, if: 'steps.first.n > 25': JMESPath writes numbers"
                                       " in backticks: `25`"),
        ({"if": 'steps.first.s == "yes"'}, "step b, if: 'steps.first.s == \"yes\"': JMESPath writes"
                                           " texts in single quotes: 'yes'"),
        ({"if": "!steps.first.ok"}, "step b, if: '!steps.first.ok': in JMESPath !a.b means (!a).b;"
                                    " write !(a.b)"),
        ({"if": "size(steps.first)"}, "step b, if: 'size(steps.first)': JMESPath has no function"
                                      " size()"),
        ({"if": "item.ok", "map": {"over": [1]}}, "step b, if: 'item.ok': item is nothing that this"
                                                  " may read; there are event, now, params, run,"
                                                  " steps"),
        ({"map": {"over": "${steps.c}"}}, "step b, map.over: steps.c may not have ended by then:"
                                          " add c to its needs"),
        ({"map": {"over": [], "as": "now"}}, "step b, map.as: now has a meaning already"),
        ({"on_rollback": {"uses": "echo", "with": "${steps.c}"}},
         "step b, on_rollback.with: steps.c may not have ended by then: add c to its needs"),
        ({"input_schema": {"type": "strin"}}, "step b, input_schema: no JSON Schema: $.type:"),
        ({"output_schema": {"pattern": "("}}, "step b, output_schema: no JSON Schema: $.pattern:"),
        ({"output_schema": 7}, "step b, output_schema: a JSON Schema is an object"),
        ({"output_schema": {"items": {"$ref": "http://x/y"}}},
         "step b, output_schema: refers to http://x/y: only #/… within the schema is followed"),
        ({"timeout": "${params.t}"}, "step b, timeout: templates are for with, if and map.over"),
        ({"uses": "sleep", "with": {}}, "step b, with: sleep: needs either for, a duration, or"
                                        " until, an instant"),
        ({"uses": "sleep", "with": {"for": "soon"}}, "step b, with: sleep: for: must be a"),
    ],
)  # fmt: skip
def test_a_problem_is_a_sentence_with_step_and_field(bad: dict[str, Any], said: str) -> None:
    pipeline = [step("a", save_as="first"), step("b") | bad, step("c")]

    (found,) = template.check(pipeline)

    assert found.startswith(said)


def test_in_a_graph_only_what_is_needed_can_be_read() -> None:
    reads = {"with": "${steps.a} ${steps.b} ${steps.c}"}
    pipeline = [
        step("a"),
        step("b", needs="a"),
        step("c"),
        step("d", needs=["b"], **reads),
        step("e", needs=["d", "e", "nobody"], **reads),
    ]

    assert template.check(pipeline) == [
        "step d, with: steps.c may not have ended by then: add c to its needs",
        "step e, with: steps.c may not have ended by then: add c to its needs",
    ]


@pytest.mark.parametrize(
    "nonsense",
    [None, 7, {}, [1, None, {}], [{"id": 1, "with": "${}"}],
     [{"id": "a", "with": 1, "needs": 7, "map": 1}],
     [{"id": "a", "on_rollback": [], "uses": {}, "if": 3, "save_as": []}]],
)  # fmt: skip
def test_what_is_no_pipeline_is_for_others_to_refuse(nonsense: Any) -> None:
    assert template.check(nonsense) == []


def test_a_long_text_is_rendered_as_a_short_one() -> None:
    assert render("x" * 10_000 + "${params.n}", CONTEXT) == "x" * 10_000 + "3"


def test_a_rendered_value_is_json() -> None:
    json.dumps(render({"a": "${@}", "b": "${steps.*.x}"}, {"params": 1, "steps": {"a": {"x": 1}}}))
