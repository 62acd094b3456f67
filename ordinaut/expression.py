"""
JMESPath expressions: compiled once, and read for what they ask for.

What an expression reads is told by walking its tree with what each node would be given: the root,
`steps`, or data.  An expression that passes `steps` on as a whole reads all of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

ALL = "*"  # in place of names of steps: every one

_LONGEST = 4_000  # characters


class BadTemplate(ValueError):
    """A text that is no template, or an expression that is no JMESPath; one sentence says why."""


class Expression(NamedTuple):
    """A compiled expression.

    Attributes:
        roots: what it reads: params, steps, …
        steps: the names that it reads under steps; ALL when they cannot be told.
        advice: what it says but surely does not mean, or None.
    """

    text: str
    parsed: ParsedResult
    roots: frozenset[str]
    steps: frozenset[str]
    advice: str | None

    def __str__(self) -> str:
        return "${" + self.text[:80] + "}"


@lru_cache(maxsize=1024)
def compiled(text: str) -> Expression:
    """Compile an expression.

    Raises:
        BadTemplate: it is no JMESPath; says what to write instead, where that can be guessed.
    """
    text = text.strip()
    if not text:
        raise BadTemplate("an empty ${} names nothing")
    if len(text) > _LONGEST:
        raise BadTemplate(f"an expression of {len(text)} characters; {_LONGEST} is the limit")
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        parsed = jmespath.compile(text)
        reading = _Reading()
        reading.used(reading.visit(parsed.parsed, _ROOT))
    except JMESPathError as exc:
        raise BadTemplate(f"{text[:80]!r}: {_reason(exc)}") from None
    except RecursionError:
        raise BadTemplate(f"{text[:80]!r}: nested too deeply") from None
    return Expression(
        text, parsed, frozenset(reading.roots), frozenset(reading.steps), reading.advice
    )


def _reason(exc: Exception) -> str:
    token = str(getattr(exc, "token_value", "") or "")
    if getattr(exc, "token_type", None) == "NUMBER":
        return f"JMESPath writes numbers in backticks: `{token}`"
    if token == "-":
        return 'JMESPath writes names with a - in double quotes, as in steps."my-step".x'
    incomplete = type(exc).__name__ == "IncompleteExpressionError"
    if incomplete or getattr(exc, "token_type", None) == "EOF":
        return "the expression ends too early"
    return "no JMESPath: " + first_line(exc)


def first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0].removesuffix(", for expression:")[:300] or type(exc).__name__


_ROOT, _STEPS, _DATA = "root", "steps", "data"


class _Reading:
    def __init__(self) -> None:
        self.roots: set[str] = set()
        self.steps: set[str] = set()
        self.advice: str | None = None

    def used(self, place: str) -> str:
        """A value is looked at as a whole."""
        if place != _DATA:
            self.steps.add(ALL)
            self.roots.add("steps")
        return _DATA

    def visit(self, node: dict[str, Any], place: str) -> str:
        """Take note of what `node` reads when it is given `place`; return what it gives."""
        kind, children = node["type"], node["children"]
        if kind == "field":
            return self._field(node["value"], place)
        if kind in ("current", "identity"):
            return place
        if kind in ("subexpression", "index_expression", "pipe"):
            if kind != "pipe" and children[0]["type"] == "not_expression":
                self.advice = "in JMESPath !a.b means (!a).b; write !(a.b)"
            for child in children:
                place = self.visit(child, place)
            return place
        if kind in ("projection", "value_projection", "filter_projection", "flatten"):
            self.used(self.visit(children[0], place))
            for child in children[1:]:
                self.visit(child, _DATA)
            return _DATA
        if kind == "expref":
            self.visit(children[0], _DATA)
            return _DATA
        if kind in ("literal", "slice", "index"):
            return _DATA if kind == "literal" else self.used(place)
        if kind == "function_expression":
            self._function(node["value"])
        for child in children:  # comparators, and, or, not, multi-selects
            self.used(self.visit(child, place))
        return _DATA

    def _field(self, name: str, place: str) -> str:
        if place == _ROOT:
            self.roots.add(name)
            return _STEPS if name == "steps" else _DATA
        if place == _STEPS:
            self.steps.add(name)
        return _DATA

    def _function(self, name: str) -> None:
        from jmespath.functions import Functions

        if name not in Functions.FUNCTION_TABLE:
            self.advice = f"JMESPath has no function {name}()"
