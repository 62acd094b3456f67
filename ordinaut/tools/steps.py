"""
A step of a pipeline, from the envelope that the database sends to a unit that any tool can run.

    {"with": …, "if": …, "map": …, "input_schema": …, "output_schema": …}   what is there of it
    {"params": …, "steps": …, "run": …, "now": …}                           if its templates ask
    {"item": …, "index": n, "as": "item"}                                   an item of a map
    {"output": …}                                                           a rollback

The tool gets the rendered `with` as its payload, and knows nothing of the rest.  `if` decides about
a step as a whole: a map asks before it has items, and its items do not ask again.

A step is skipped, or waits, by raising a Verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ordinaut import wire
from ordinaut.tools.control import map_plan, waiting
from ordinaut.tools.errors import Verdict
from ordinaut.tools.registry import DEFERRED, SETTLED, Host
from ordinaut.tools.secrets import REFERENCE

Run = Callable[[wire.Unit], bytes | None]

_OUTPUT_SCHEMA = wire.SCHEDULED_FOR + 1  # an additional place of a unit that goes to a tool
_PLAIN = b'{"with": {'


def run(unit: wire.Unit, tool: Run, host: Host) -> bytes | None:
    """Run a step with its tool; return what the tool returned.

    Raises:
        Verdict: it is skipped, or waits.
        ToolFailed: a template, the input or the output is not as it should be.
    """
    payload = unit[wire.PAYLOAD]
    # One object of plain values, and nothing beside it: the two braces at the end are its own and
    # the envelope's.
    plain = payload.startswith(_PLAIN) and payload.endswith(b"}}") and payload.count(b"}") == 2
    templates = b"${" in payload
    if plain and not templates:
        return tool((*unit[: wire.PAYLOAD], payload[9:-1], *unit[wire.PAYLOAD + 1 :]))
    envelope = json.loads(payload)
    context = _context(envelope)
    if "index" not in envelope:
        _decide(envelope, context, templates, unit, host)
    given = envelope.get("with", {})
    if templates:
        given = _render(given, context, "with", unit, host)
    body = json.dumps(given, ensure_ascii=False).encode()
    if "input_schema" in envelope:
        from ordinaut.tools import schema

        resolved = host.secrets.resolve(given) if REFERENCE in body else given
        schema.validate(resolved, envelope["input_schema"], "with")
    expected = envelope.get("output_schema")
    call = (*unit[: wire.PAYLOAD], body, *unit[wire.PAYLOAD + 1 :])
    if expected is None:
        return tool(call)
    call = (*call, expected)
    result = tool(call)
    if result is not SETTLED and result is not DEFERRED:
        check_output(call, result)
    return result


def check_output(unit: wire.Unit, result: bytes | None) -> None:
    """Check an output before it is reported or committed.

    Raises:
        StepValidationError: it does not fit the step's output_schema.
    """
    if len(unit) > _OUTPUT_SCHEMA:
        from ordinaut.tools import schema

        value = None if result is None else json.loads(result)
        schema.validate(value, unit[_OUTPUT_SCHEMA], "output")


def _context(envelope: dict[str, Any]) -> dict[str, Any]:
    names = {"params", "steps", "run", "now", "output", "index"}
    context = {name: envelope[name] for name in names & envelope.keys()}
    if isinstance(params := context.get("params"), dict):
        context["event"] = params.get("event")
    if "index" in envelope:
        context[envelope.get("as") or "item"] = envelope.get("item")
    return context


def _decide(
    envelope: dict[str, Any], context: dict[str, Any], templates: bool, unit: wire.Unit, host: Host
) -> None:
    """Say what becomes of a step that is not simply run.

    Raises:
        Verdict: it is skipped, or its items are run.
    """
    condition = envelope.get("if")
    if condition is not None:
        from ordinaut import template

        if not template.condition(condition, context):
            reason = {"message": f"if {condition}"}
            raise Verdict("skipped", error=json.dumps(reason, ensure_ascii=False).encode())
    given = envelope.get("map")
    if given is not None:
        over = given.get("over") if isinstance(given, dict) else None
        items = _render(over, context, "map.over", unit, host) if templates else over
        raise waiting(map_plan(given, items))


def _render(value: Any, context: dict[str, Any], field: str, unit: wire.Unit, host: Host) -> Any:
    from ordinaut import template

    nulls: list[str] = []
    rendered = template.render(value, context, field, nulls)
    if nulls:
        host.note(unit, "log", {"message": f"null: {'; '.join(nulls[:5])}"})
    return rendered
