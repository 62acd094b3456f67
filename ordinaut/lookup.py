"""
Bounded evaluation of JMESPath: an expression cannot make more out of its input than can be kept.

`[@, @]`, piped into itself thirty times, is thirty lists in memory and a thousand million values
when written; with a join or a flatten between, it is that many at once.  So no value on the way may
hold more than LIMIT elements or characters, the way has an end, and what is written is measured
first.

Imported by the first lookup: jmespath costs more than the start of a child may.
"""

from __future__ import annotations

from typing import Any

from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter

LIMIT = 1 << 20
_STEPS = LIMIT  # nodes visited: about a second


class TooMuch(JMESPathError):  # type: ignore[misc]
    """A value on the way, or the way itself, grew past every use."""

    def __init__(self) -> None:
        super().__init__("it makes too much of what it is given")


def search(tree: Any, context: dict[str, Any]) -> Any:
    """Return what an expression finds in `context`.

    Raises:
        JMESPathError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError
    """
    return _Interpreter(Options(custom_functions=_FUNCTIONS)).visit(tree, context)


def is_within(value: Any, limit: int = LIMIT) -> bool:
    """Say whether `value` could be written in `limit` characters; never looks at more than that."""
    left = limit
    stack = [value]
    while stack:
        each = stack.pop()
        left -= 1
        if isinstance(each, str):
            left -= len(each)
        elif isinstance(each, dict):
            left -= sum(map(len, each))
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)
        if left < 0 or len(stack) > limit:
            return False
    return True


class _Interpreter(TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._left = _STEPS

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        found = super().visit(node, *args, **kwargs)
        if self._left < 0 or (isinstance(found, list | str) and len(found) > LIMIT):
            raise TooMuch
        return found


class _Functions(Functions):  # type: ignore[misc]
    @signature({"types": ["string"]}, {"types": ["array-string"]})  # type: ignore[untyped-decorator]
    def _func_join(self, separator: str, texts: list[str]) -> str:
        if sum(map(len, texts)) + len(separator) * len(texts) > LIMIT:
            raise TooMuch
        return separator.join(texts)

    @signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_string(self, value: Any) -> Any:
        if not is_within(value):
            raise TooMuch
        return super()._func_to_string(value)


_FUNCTIONS = _Functions()
