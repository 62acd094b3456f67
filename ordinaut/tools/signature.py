"""
A function's signature as the JSON Schema of its payload, and the payload as its arguments.

    str int float bool None list dict tuple set Literal Optional Union Enum TypedDict Annotated
    datetime date time (ISO texts)  timedelta (seconds)  UUID  Decimal  Path
    dataclasses, pydantic models

A parameter without a default is required; other fields than the parameters are refused unless
there is **kwargs.  An annotation that is none of these accepts anything.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.registry import Context

Schema = dict[str, Any]
Convert = Callable[[Any], Any]

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
}
_INSTANCES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "object": dict,
    "array": list,
}
_TEXTS: dict[Any, tuple[str, Convert]] = {
    datetime: ("date-time", datetime.fromisoformat),
    date: ("date", date.fromisoformat),
    time: ("time", time.fromisoformat),
    UUID: ("uuid", UUID),
    Path: ("path", Path),
}


class _Kinds:
    """The classes that a signature mentions: their schemas by name, and what makes them."""

    def __init__(self) -> None:
        self.schemas: Schema = {}
        self.known: dict[type, tuple[Schema, Convert]] = {}


class Signature:
    """What a function takes.

    Attributes:
        schema: the JSON Schema of the payload.
        context: the name of the parameter that gets the Context, or None.

    Raises:
        TypeError: a parameter can only be given by position.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = _hints(function)
        self.context: str | None = None
        self._convert: dict[str, Convert] = {}
        self._validator: Any = None
        properties: Schema = {}
        required: list[str] = []
        extra = False
        kinds = _Kinds()
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"{function.__qualname__}: {name} can only be given by position")
            if parameter.kind is parameter.VAR_KEYWORD:
                extra = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                hint = hints.get(name, Any)
                if _is_context(name, hint):
                    self.context = name
                    continue
                schema, convert = _type(hint, kinds)
                properties[name] = schema
                if convert is not None:
                    self._convert[name] = convert
                if parameter.default is parameter.empty:
                    required.append(name)
        self.schema: Schema = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": extra,
        }
        if kinds.schemas:
            self.schema["$defs"] = kinds.schemas
        self._typed = any(properties.values())
        # jsonschema takes as long to import as a child to start, so plain types are looked at
        # here first; it is asked when there are others, or something does not fit.
        self._plain = {name: _plain_types(schema) for name, schema in properties.items()}
        self._names = None if extra else properties.keys()
        self._required = frozenset(required)

    def bind(self, payload: Any) -> dict[str, Any]:
        """Return the keyword arguments that a payload stands for.

        Raises:
            ToolFailed: it does not fit; names the field.  Not retryable.
        """
        if not isinstance(payload, dict):
            raise ToolFailed("the payload must be an object of the tool's arguments", "E2001")
        if missing := self._required - payload.keys():
            raise ToolFailed(f"{min(missing)}: missing", "E2003")
        if self._names is not None and (unknown := payload.keys() - self._names):
            raise ToolFailed(f"{min(unknown)}: the tool takes no such argument", "E2002")
        if self.context in payload:
            raise ToolFailed(f"{self.context}: the tool gets this from the worker", "E2002")
        if self._typed:
            self._check(payload)
        if not self._convert:
            return payload
        return {name: self._converted(name, value) for name, value in payload.items()}

    def _check(self, payload: dict[str, Any]) -> None:
        for name, value in payload.items():
            fits = self._plain.get(name, object)
            if fits is None or not isinstance(value, fits):
                break
            if isinstance(value, bool) and fits not in (bool, object):  # it is an int, too
                break
        else:
            return
        if self._validator is None:
            self._validator = _validator(self.schema)
        found = next(self._validator.iter_errors(payload), None)
        if found is not None:
            where = found.json_path.removeprefix("$.").removeprefix("$")
            raise ToolFailed(f"{where}: {found.message[:500]}", "E2002")

    def _converted(self, name: str, value: Any) -> Any:
        convert = self._convert.get(name)
        if convert is None:
            return value
        try:
            return convert(value)
        except (ValueError, TypeError, ArithmeticError) as exc:
            raise ToolFailed(f"{name}: {str(exc)[:500]}", "E2002") from None


def _plain_types(schema: Schema) -> Any:
    """Return what isinstance() can check a schema by, or None."""
    if not schema:
        return object
    if schema.keys() <= {"type", "format", "description"} and isinstance(schema["type"], str):
        return _INSTANCES[schema["type"]]
    if schema.keys() == {"anyOf"}:
        parts = [_plain_types(part) for part in schema["anyOf"]]
        return None if None in parts else tuple(parts)
    return None


def _validator(schema: Schema) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())  # one that fetches nothing


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        # A name that exists for type checkers only; the context is recognised as text, too.
        return dict(getattr(function, "__annotations__", {}))


def _is_context(name: str, hint: Any) -> bool:
    if isinstance(hint, str):
        return hint.rpartition(".")[2] == "Context" or name == "context"
    return name == "context" or hint is Context or Context in typing.get_args(hint)


def _type(hint: Any, kinds: _Kinds) -> tuple[Schema, Convert | None]:
    """Return the schema of an annotation, and what makes the Python value of the JSON one."""
    plain = _PLAIN.get(hint) if isinstance(hint, type | None) else None
    if plain is not None:
        return dict(plain), None
    if hint in (int, float):
        return {"type": "integer" if hint is int else "number"}, hint
    if isinstance(hint, type) and hint in _TEXTS:
        name, convert = _TEXTS[hint]
        return {"type": "string", "format": name}, convert
    if hint is timedelta:
        return {"type": "number", "description": "seconds"}, lambda v: timedelta(seconds=v)
    if hint is Decimal:
        return {"type": ["number", "string"]}, lambda v: Decimal(str(v))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0], kinds)
    if origin is typing.Literal:
        return {"enum": list(args)}, None
    if origin in (typing.Union, types.UnionType):
        return _union(args, kinds)
    base = origin or hint
    if isinstance(base, type):
        if issubclass(base, enum.Enum):
            return {"enum": [member.value for member in base]}, base
        if dataclasses.is_dataclass(base):
            return _dataclass(base, kinds)
        if hasattr(base, "model_validate"):
            return _model(base, kinds)
        if typing.is_typeddict(base):
            keys: frozenset[str] = getattr(base, "__required_keys__")  # noqa: B009
            return _fields(base, typing.get_type_hints(base), keys, kinds)
        if issubclass(base, list | set | frozenset | tuple):
            return _array(base, args, kinds)
        if issubclass(base, dict):
            values, each = _type(args[1], kinds) if len(args) == 2 else ({}, None)
            schema = {"type": "object", "additionalProperties": values or True}
            if each is None:
                return schema, None
            return schema, lambda v: {key: each(item) for key, item in v.items()}
        if base is Iterable or (getattr(base, "__module__", "") == "collections.abc" and args):
            return _array(list, args, kinds) if len(args) == 1 else ({"type": "object"}, None)
    return {}, None


def _array(base: type, args: tuple[Any, ...], kinds: _Kinds) -> tuple[Schema, Convert | None]:
    schema: Schema = {"type": "array"}
    if issubclass(base, tuple) and args and args[-1] is not ...:
        parts = [_type(arg, kinds) for arg in args]
        schema |= {"prefixItems": [part[0] for part in parts], "items": False}
        schema["minItems"] = len(parts)
        return schema, lambda v: tuple(
            [each(item) if each else item for (_, each), item in zip(parts, v, strict=True)]
        )
    items, convert = _type(args[0], kinds) if args else ({}, None)
    if items:
        schema["items"] = items
    if convert is not None:
        return schema, lambda v: base([convert(item) for item in v])
    return schema, None if base is list else base


def _union(args: tuple[Any, ...], kinds: _Kinds) -> tuple[Schema, Convert | None]:
    parts = [_type(arg, kinds) for arg in args]
    schema: Schema = {"anyOf": [part[0] for part in parts]}
    if all(part[1] is None for part in parts):
        return schema, None
    rest = {"$defs": kinds.schemas}  # the same object, and complete when somebody calls
    checks: list[Any] = []

    def convert(value: Any) -> Any:
        if not checks:
            checks.extend([_validator(part[0] | rest) for part in parts])
        failure = ValueError("fits no alternative")
        for check, (_, make) in zip(checks, parts, strict=True):
            if check.is_valid(value):
                try:
                    return make(value) if make else value
                except ValueError as exc:  # a text that is no date, but perhaps a str
                    failure = exc
        raise failure

    return schema, convert


def _dataclass(cls: type, kinds: _Kinds) -> tuple[Schema, Convert]:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    no = dataclasses.MISSING
    required = {f.name for f in fields if f.default is no and f.default_factory is no}
    hints = typing.get_type_hints(cls)
    return _fields(cls, {field.name: hints[field.name] for field in fields}, required, kinds)


def _fields(
    cls: type, hints: dict[str, Any], required: Iterable[str], kinds: _Kinds
) -> tuple[Schema, Convert]:
    """Describe a class by reference, because it may contain itself."""
    if cls not in kinds.known:
        name = cls.__name__
        while name in kinds.schemas:
            name += "_"
        converts: dict[str, Convert] = {}

        def convert(value: Any) -> Any:
            return cls(**{k: converts[k](v) if k in converts else v for k, v in value.items()})

        kinds.known[cls] = {"$ref": f"#/$defs/{name}"}, convert
        properties: Schema = {}
        kinds.schemas[name] = {
            "type": "object",
            "properties": properties,
            "required": sorted(required),
            "additionalProperties": False,
        }
        for key, hint in hints.items():
            properties[key], each = _type(hint, kinds)
            if each is not None:
                converts[key] = each
    return kinds.known[cls]


def _model(cls: Any, kinds: _Kinds) -> tuple[Schema, Convert]:
    schema = cls.model_json_schema()
    kinds.schemas.update(schema.pop("$defs", {}))
    return schema, cls.model_validate
