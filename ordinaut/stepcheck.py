"""
What can be said about a pipeline before it runs: its templates, conditions and schemas.

A template may read the output of a step only if that step has ended whenever the reader starts:
if it is one that it needs, directly or through others.  Otherwise a run that happens to be slow
would see null where a fast one sees a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from ordinaut import template
from ordinaut.expression import ALL, BadTemplate, Expression
from ordinaut.tools import control, schema
from ordinaut.tools.errors import ToolFailed

_OTHER = ("uses", "timeout", "timeout_seconds", "queue", "priority", "retry", "retry_count")


def problems(definition: Any) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong; what is no step at all is passed over."""
    steps = [
        {**step, "id": step.get("id", f"step_{position}")}
        for position, step in enumerate(definition if isinstance(definition, list) else [], 1)
        if isinstance(step, dict) and isinstance(step.get("id", ""), str)
    ]
    graph = _Graph(steps)
    for step in steps:
        for field, message in _step(step, graph):
            yield f"step {step['id']}, {field}: {message}"


class _Graph:
    """Who needs whom, and under which names their outputs are read."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        ids = [step["id"] for step in steps]
        if any("needs" in step for step in steps):
            self._needs = {step["id"]: _names(step.get("needs")) for step in steps}
        else:
            self._needs = {name: ids[:at] for at, name in enumerate(ids)}
        saved = {step["save_as"]: step["id"] for step in steps if _is_saved(step)}
        self.step_of = saved | {name: name for name in ids}

    def before(self, name: str) -> set[str]:
        """Return the steps that have ended when this one starts."""
        found: set[str] = set()
        todo = list(self._needs.get(name, ()))
        while todo:
            needed = todo.pop()
            if needed not in found:
                found.add(needed)
                todo += self._needs.get(needed, ())
        return found - {name}

    def unreadable(self, reader: str, wanted: str, readable: set[str]) -> str | None:
        """Return why `reader` cannot read steps.`wanted`, or None."""
        if wanted == ALL or self.step_of.get(wanted) in readable:
            return None
        if wanted not in self.step_of:
            close = get_close_matches(wanted, self.step_of, 1)
            return f"no step is or saves as {wanted}" + (f"; {close[0]}?" if close else "")
        step = self.step_of[wanted]
        if step == reader:
            return f"steps.{wanted} is the step's own output"
        return f"steps.{wanted} may not have ended by then: add {step} to its needs"


def _step(step: dict[str, Any], graph: _Graph) -> Iterator[tuple[str, str]]:
    name = step["id"]
    readable = graph.before(name)
    roots = set(template.ROOTS)
    mapped = step.get("map")

    def allowed(expression: Expression, roots: set[str], readable: set[str]) -> Iterator[str]:
        if expression.advice:
            yield f"{expression.text[:80]!r}: {expression.advice}"
        for root in sorted(expression.roots - roots):
            yield _unknown_root(root, expression, roots, graph)
        for wanted in sorted(expression.steps):
            if found := graph.unreadable(name, wanted, readable):
                yield found

    def templates(value: Any, field: str, roots: set[str], readable: set[str]) -> Iterator[Any]:
        for key in _template_keys(value, field):
            yield key, "a key of an object is no template"
        for where, text in template.texts(value, field):
            try:
                parts = template.split(text)
            except BadTemplate as exc:
                yield where, str(exc)
                continue
            for part in parts:
                if isinstance(part, Expression):
                    for message in allowed(part, roots, readable):
                        yield where, message

    condition = step.get("if")
    if isinstance(condition, str):
        try:
            for message in allowed(template.bare(condition), roots, readable):
                yield "if", message
        except BadTemplate as exc:
            yield "if", str(exc)

    item: set[str] = set()
    if isinstance(mapped, dict):
        yield from templates(mapped.get("over"), "map.over", roots, readable)
        called = mapped.get("as") or "item"
        if called in {*template.ROOTS, "index", "output"}:
            yield "map.as", f"{called} has a meaning already"
        item = {str(called), "index"}
    yield from templates(step.get("with"), "with", roots | item, readable)
    yield from _control(step.get("uses"), step.get("with"))

    undo = step.get("on_rollback")
    if isinstance(undo, dict):
        yield from templates(
            undo.get("with"), "on_rollback.with", roots | {"output"}, readable | {name}
        )

    for field in ("input_schema", "output_schema"):
        if field in step and (found := schema.problem(step[field])):
            yield field, found
    for field in _OTHER:
        for where, _ in template.texts(step.get(field), field):
            yield where, "templates are for with, if and map.over"


def _control(uses: Any, given: Any) -> Iterator[tuple[str, str]]:
    """Check what a control step waits for, as far as it is written out."""
    plan = control.PLANS.get(uses) if isinstance(uses, str) else None
    if plan and next(template.texts(given, ""), None) is None:
        try:
            plan({} if given is None else given)
        except ToolFailed as exc:
            yield "with", str(exc)


def _unknown_root(root: str, expression: Expression, roots: set[str], graph: _Graph) -> str:
    text = repr(expression.text[:80])
    if f'"{root}"' in expression.text:
        return f"{text}: JMESPath writes texts in single quotes: '{root}'"
    if root in graph.step_of:
        return f"{text}: write steps.{root}"
    known = ", ".join(sorted(roots))
    return f"{text}: {root} is nothing that this may read; there are {known}"


def _template_keys(value: Any, field: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if "${" in key:
                yield f"{field}.{key}"
            yield from _template_keys(each, f"{field}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _template_keys(each, f"{field}[{index}]")


def _names(needs: Any) -> list[str]:
    names = needs if isinstance(needs, list) else [needs]
    return [name for name in names if isinstance(name, str)]


def _is_saved(step: dict[str, Any]) -> bool:
    saved = step.get("save_as")
    return isinstance(saved, str) and saved != ""
