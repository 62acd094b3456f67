"""
python: call a function, by the name that @ordinaut.tool gave it or as `python:package.module.name`.

`[tools.python] modules` are imported when a child starts; in `python:`, their functions can be
called whether decorated or not.  Of other modules only decorated ones can: who may enqueue work
must not be able to call os.system.  With `strict = true` other modules are not even imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import Any

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.registry import SETTLED, TOOLS, Context, Host
from ordinaut.tools.secrets import REFERENCE

PREFIX = "python:"


class UnknownTool(Exception):
    """Another worker may have it."""


class PythonTool:
    """A function, ready to be called with units.

    Raises:
        TypeError: its signature cannot be served.
    """

    def __init__(self, function: Callable[..., Any], host: Host) -> None:
        import inspect

        from ordinaut.tools.signature import Signature

        self.function = function
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self._signature = Signature(function)
        self._host = host

    def __call__(self, unit: wire.Unit) -> bytes | None:
        """Run a sync function; return its output, or SETTLED."""
        kwargs, context = self.arguments(unit)
        try:
            result = self.function(**kwargs)
            return self.finish(context, result)
        except BaseException as exc:
            abandon(context, exc)
            raise

    def arguments(self, unit: wire.Unit) -> tuple[dict[str, Any], Context | None]:
        """Return what to call the function with, and the context that is among it."""
        payload = json.loads(unit[wire.PAYLOAD])
        if REFERENCE in unit[wire.PAYLOAD]:
            payload = self._host.secrets.resolve(payload)
        kwargs = self._signature.bind(payload)
        name = self._signature.context
        if name is None:
            return kwargs, None
        context = Context(unit, self._host)
        return {**kwargs, name: context}, context

    def finish(self, context: Context | None, result: Any) -> bytes | None:
        """Return the output; or SETTLED, when the tool's transaction has taken it along."""
        data = None if result is None else output.dump(result)
        if context is None or context.transaction is None:
            return data
        transaction, context.transaction = context.transaction, None
        transaction.commit(data)
        return SETTLED


def abandon(context: Context | None, exc: BaseException) -> None:
    """Roll back the transaction of a tool that failed."""
    if context is not None and context.transaction is not None:
        context.transaction.rollback(exc)


def find(name: str, config: dict[str, Any]) -> Callable[..., Any]:
    """Return the function that a tool's name means.

    Raises:
        UnknownTool: no function is registered under this name.
        ToolFailed: `python:` names something that does not exist or may not be called.
    """
    if not name.startswith(PREFIX):
        if name not in TOOLS:
            raise UnknownTool(f"this worker has no tool {name}")
        return TOOLS[name]
    path, _, attribute = name.removeprefix(PREFIX).rpartition(".")
    modules = config.get("modules", [])
    if path not in modules and (config.get("strict") or path.partition(".")[0] in _STANDARD):
        raise ToolFailed(f"{name}: {path} is none of this worker's modules", "E8001")
    try:
        module = import_module(path)
        function: Callable[..., Any] = getattr(module, attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        # Perhaps the worker beside us is newer and has it: not the last word.
        raise ToolFailed(f"{name}: {exc}", "E7001", retryable=True) from None
    if any(function is known for known in TOOLS.values()):
        return function
    own = isinstance(function, FunctionType) and function.__module__ == path
    if path not in modules or not own or attribute.startswith("_"):
        raise ToolFailed(
            f"{name}: not a tool; decorate it with @ordinaut.tool, or list {path} in"
            " tools.python.modules",
            "E8001",
        )
    return function


_STANDARD = sys.stdlib_module_names | {"test", ""}
