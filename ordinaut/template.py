"""
Templates: in the texts of a step, `${…}` holds a JMESPath expression over what the step may read.

    "${steps.fetch.count}"            the whole text: the value, with its JSON type
    "${params.day}: ${steps.n} rows"  within a text: texts as they are, the rest as JSON
    "$${HOME}"                        no template: ${HOME}

    params, steps, run, now    of the run; `steps.x` is the output of the step x, or saved as x
    event                      what started the run, if an event did: params.event
    item, index                of an item of a map; the item by the name that the map gives it
    output                     in a rollback: of the step that it undoes

A path that leads nowhere is null.  Keys of objects are no templates.  Templates are lookups: they
call nothing and change nothing, and what comes out of one is never read as a template again.  Nor
as a reference to a secret, if it came out of a step: an answer from outside must not be able to
ask this worker for its secrets.

`if` is one expression, bare or in `${…}`: null, false, "", [] and {} are false, and 0 is true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ordinaut.expression import BadTemplate, Expression, compiled, first_line
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed

ROOTS = ("params", "steps", "run", "now", "event")
LIMIT = 1 << 20  # characters that the templates of one value come to
DEPTH = 64

_TRUSTED = frozenset({"params", "run", "now"})  # the rest was said by tools
_CACHED = 2_000  # longer texts are split anew every time
_SKIP = re.compile(
    # What is not closed goes to the end: to look for the next from every quote within would take as
    # long as the text is long, squared.
    r"""'(?:[^'\\]|\\.?)*(?:'|\Z) | "(?:[^"\\]|\\.?)*(?:"|\Z) | `(?:[^`\\]|\\.?)*(?:`|\Z) | [{}]""",
    re.DOTALL | re.VERBOSE,
)
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class TemplateRenderError(ToolFailed):
    """A template came to nothing that a tool could be given; names the field.  Not retryable."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "E2002")


class ConditionEvaluationError(ToolFailed):
    """An `if` came to neither yes nor no.  Not retryable."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "E2002")


def render(
    value: Any, context: dict[str, Any], field: str = "with", nulls: list[str] | None = None
) -> Any:
    """Return `value` with its templates replaced.

    Args:
        field: what the value is called in messages.
        nulls: takes what came to null, for a note.

    Raises:
        TemplateRenderError: not retryable.
    """
    try:
        return _Rendering(context, nulls).value(value, field, 0)
    except RecursionError:
        raise TemplateRenderError(f"{field}: nested too deeply") from None


def condition(text: str | bool, context: dict[str, Any]) -> bool:
    """Decide an `if`.

    Raises:
        ConditionEvaluationError: not retryable.
    """
    if isinstance(text, bool):
        return text
    try:
        found = _search(bare(text), context)
    except BadTemplate as exc:
        raise ConditionEvaluationError(f"if: {exc}") from None
    return found is not None and found is not False and found not in ("", [], {})


def bare(text: str) -> Expression:
    """Return the expression that a condition is.

    Raises:
        BadTemplate: it is none.
    """
    text = text.strip()
    if not text.startswith("${"):
        return compiled(text)
    parts = split(text)
    if len(parts) != 1 or isinstance(parts[0], str):
        raise BadTemplate(f"{text[:80]!r}: put the whole condition into one ${{…}}, or into none")
    return parts[0]


def extract_variables(value: Any) -> list[str]:
    """Return the expressions of the templates in `value`, in order.

    Raises:
        BadTemplate: one of them is none.
    """
    return [expression.text for _, text in texts(value, "") for expression in _expressions(text)]


def references(value: Any) -> set[str]:
    """Return the names under `steps` that the templates in `value` read; `*` when it may be any.

    Raises:
        BadTemplate: one of them is none.
    """
    found: set[str] = set()
    for _, text in texts(value, ""):
        for expression in _expressions(text):
            found |= expression.steps
    return found


def texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield (field, text) of every text in `value` that may hold a template."""
    if isinstance(value, str):
        if "${" in value:
            yield field, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from texts(each, f"{field}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from texts(each, f"{field}[{index}]")


def check(definition: Any) -> list[str]:
    """Return what is wrong with the templates, conditions and schemas of a pipeline.

    One sentence each, with the step and the field.  What else a step must be, the database says.
    """
    from ordinaut.stepcheck import problems

    return list(problems(definition))


# Rendering


class _Rendering:
    def __init__(self, context: dict[str, Any], nulls: list[str] | None) -> None:
        self._context = context
        self._nulls = nulls
        self._left = LIMIT

    def value(self, value: Any, field: str, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, field, depth) if "${" in value else value
        if not isinstance(value, dict | list):
            return value
        if depth >= DEPTH:
            raise TemplateRenderError(f"{field}: nested more than {DEPTH} levels deep")
        if isinstance(value, dict):
            return {k: self.value(v, f"{field}.{k}", depth + 1) for k, v in value.items()}
        return [self.value(v, f"{field}[{i}]", depth + 1) for i, v in enumerate(value)]

    def _text(self, text: str, field: str, depth: int) -> Any:
        try:
            parts = split(text)
            if len(parts) == 1 and isinstance(parts[0], Expression):
                return self._lone(parts[0], field, depth)
            return "".join([self._within(part, field) for part in parts])
        except BadTemplate as exc:
            raise TemplateRenderError(f"{field}: {exc}") from None

    def _lone(self, expression: Expression, field: str, depth: int) -> Any:
        found = self._look(expression, field)
        if found is None or isinstance(found, bool | int):
            return found
        written = found if isinstance(found, str) else self._written(found, expression, field)
        self._spend(len(written), field)
        if isinstance(found, dict | list):
            if output.deep(found, DEPTH - depth):
                raise BadTemplate(f"{expression} is nested more than {DEPTH} levels deep")
            doubtful = '"$secret"' in written and not expression.roots <= _TRUSTED
            if doubtful and _refers_to_secret(found):
                raise BadTemplate(
                    f"{expression} holds a reference to a secret; only params and the"
                    " definition may name one"
                )
        return found

    def _within(self, part: str | Expression, field: str) -> str:
        if isinstance(part, str):
            written = part
        else:
            found = self._look(part, field)
            written = found if isinstance(found, str) else self._written(found, part, field)
        self._spend(len(written), field)
        return written

    def _look(self, expression: Expression, field: str) -> Any:
        found = _search(expression, self._context)
        if found is None and self._nulls is not None:
            self._nulls.append(f"{field}: {expression}")
        return found

    def _written(self, found: Any, expression: Expression, field: str) -> str:
        from ordinaut.lookup import is_within

        if not is_within(found, self._left):
            self._spend(self._left + 1, field)
        try:
            return _dump(found)
        except (TypeError, ValueError):  # &x, or to_number('nan')
            raise BadTemplate(f"{expression} gives no JSON value") from None

    def _spend(self, size: int, field: str) -> None:
        self._left -= size
        if self._left < 0:
            raise TemplateRenderError(
                f"{field}: the templates come to more than {LIMIT} characters"
            )


def _search(expression: Expression, context: dict[str, Any]) -> Any:
    from jmespath.exceptions import JMESPathError

    from ordinaut.lookup import search

    try:
        return search(expression.parsed.parsed, context)
    except JMESPathError as exc:
        raise BadTemplate(f"{expression}: {first_line(exc)}") from None
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as exc:
        # A function of jmespath that met a value which it does not expect.
        raise BadTemplate(f"{expression}: {first_line(exc)}") from None


def _refers_to_secret(value: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == {"$secret"} or any(_refers_to_secret(v) for v in value.values())
    return isinstance(value, list) and any(_refers_to_secret(each) for each in value)


# Reading


def split(text: str) -> tuple[str | Expression, ...]:
    """Return the literal texts and the expressions of a template, in order.

    Raises:
        BadTemplate: it does not end, or an expression is none.
    """
    return _split(text) if len(text) <= _CACHED else _split.__wrapped__(text)


@lru_cache(maxsize=512)
def _split(text: str) -> tuple[str | Expression, ...]:
    parts: list[str | Expression] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        if start > at and text[start - 1] == "$":
            parts.append(text[at:start] + "{")
            at = start + 2
            continue
        if start > at:
            parts.append(text[at:start])
        end = _end(text, start + 2)
        parts.append(compiled(text[start + 2 : end]))
        at = end + 1
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


def _end(text: str, at: int) -> int:
    """Return where the brace is closed that was opened before `at`."""
    depth = 1
    for found in _SKIP.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.start()
    raise BadTemplate(
        f"{text[at - 2 : at + 60]!r} has no closing brace; write $${{ for a plain ${{"
    )


def _expressions(text: str) -> list[Expression]:
    return [part for part in split(text) if isinstance(part, Expression)]
