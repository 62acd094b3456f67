"""
JSON Schemas: what steps say about their input and their output.

A schema decides by what is written in it: references into the network are never followed.  Its
regular expressions are Python's, and some take for ever on some texts, so they get a time limit.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ordinaut.tools.errors import ToolFailed

_PATIENCE = 1.0  # seconds for the regular expressions of one validation
_MESSAGE = 500
_VALUES = {"const", "default", "enum", "examples"}  # keywords that hold values and not schemas


class StepValidationError(ToolFailed):
    """A value does not fit its schema.  Not retryable."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "E2002")


def validate(instance: Any, schema: Any, what: str) -> None:
    """Check a value; `what` begins its path in messages.

    Raises:
        StepValidationError: it does not fit, or the schema is none.
    """
    text = json.dumps(schema)
    try:
        with _limited(what) if '"pattern' in text else contextlib.nullcontext():
            found = next(validator(text).iter_errors(instance), None)
    except StepValidationError:
        raise
    except RecursionError:
        raise StepValidationError(f"{what}: its schema refers to itself without an end") from None
    except Exception as exc:  # a reference that leads nowhere; what jsonschema met in a bad schema
        raise StepValidationError(f"{what}: its schema cannot be used: {_said(exc)}") from None
    if found is not None:
        path = found.json_path.removeprefix("$")
        raise StepValidationError(f"{what}{path}: {found.message[:_MESSAGE]}")


def problem(schema: Any) -> str | None:
    """Return what is wrong with a schema, in one sentence, or None."""
    if not isinstance(schema, dict | bool):
        return "a JSON Schema is an object"
    from jsonschema.exceptions import SchemaError

    try:
        for reference in _references(schema):
            if not reference.startswith("#"):
                return f"refers to {reference[:80]}: only #/… within the schema is followed"
        validator(json.dumps(schema))
    except SchemaError as exc:
        return f"no JSON Schema: {exc.json_path}: {exc.message[:_MESSAGE]}"
    except RecursionError:
        return "nested too deeply"
    except Exception as exc:
        return f"no JSON Schema: {_said(exc)}"
    return None


@lru_cache(maxsize=256)
def validator(text: str) -> Any:
    """Return what checks values by the schema that `text` is.

    Raises:
        jsonschema.exceptions.SchemaError: it is no schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = json.loads(text)
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    return kind(schema, registry=Registry())  # one that fetches nothing


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            elif key not in _VALUES:
                yield from _references(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


@contextlib.contextmanager
def _limited(what: str) -> Iterator[None]:
    """Interrupt a regular expression that does not come back; only signals can, in one thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise StepValidationError(f"{what}: a pattern of its schema takes too long on this value")

    handler = signal.signal(signal.SIGALRM, late)
    left, every = signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, handler)


def _said(exc: BaseException) -> str:
    return (str(exc).partition("\n")[0] or type(exc).__name__)[:_MESSAGE]
