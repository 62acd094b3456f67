"""
Results and errors as JSON that PostgreSQL can store.

jsonb refuses U+0000, lone surrogates, NaN, and what is nested too deeply.  A tool that returned
one of these could do its work and never complete.  So they are replaced here, in the decoded
value: a search and replace in the text would take the harmless `\\\\u0000` for a NUL.

The usual result has none of them, and costs one pass of the C encoder and two searches.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable
from typing import Any

LIMIT = 1 << 20  # bytes of an output
_DEPTH = 100
_DIGITS = 4_000  # of an integer; Python itself refuses to print more than 4300
_PREVIEW = 10_000  # characters
_MASK = "***"

_secrets: list[str] = []  # as they are, and as repr() and JSON write them; longest first


class NotStorable(TypeError):
    """A result that JSON has no words for."""


def dump(value: Any, limit: int = LIMIT) -> bytes:
    """Return JSON that can be stored, whatever `value` holds.

    Dates, UUIDs, decimals, paths, sets, bytes, enums, dataclasses and pydantic models become what
    one would expect.  Over `limit` bytes only a preview is kept.

    Raises:
        NotStorable: an object of another type, or a circular one.
    """
    try:
        text = _encode(value)
        if "\\u0000" in text or _secrets or (_brackets(text) > _DEPTH and deep(value)):
            text = _encode(_clean(value, 0))
        data = text.encode()
    except (ValueError, RecursionError) as exc:  # NaN, a surrogate, a huge integer, depth
        if str(exc).startswith("Circular"):
            raise NotStorable("the result contains itself") from None
        data = _encode(_clean(value, 0)).encode()
    except TypeError as exc:
        raise NotStorable(f"the result cannot be written as JSON: {exc}") from None
    if len(data) <= limit:
        return data
    preview = data[: min(_PREVIEW, limit // 2)].decode(errors="ignore")
    return _encode({"truncated": True, "size": len(data), "preview": preview}).encode()


def register_secret(value: str) -> None:
    """Have `value` replaced by *** in whatever leaves this process from now on."""
    if value and value not in _secrets:
        forms = {value, repr(value)[1:-1], json.dumps(value)[1:-1]}
        _secrets[:] = sorted({*_secrets, *forms}, key=len, reverse=True)


class Masked(io.TextIOWrapper):
    """A standard stream of a process that has secrets: what a tool prints lands in a log."""

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def longest_secret() -> int:
    """Return the length of the longest one, in bytes, for those who cut texts."""
    return max((len(secret.encode(errors="replace")) for secret in _secrets), default=0)


def redact(text: str) -> str:
    """Return `text` without secrets."""
    for secret in _secrets:
        text = text.replace(secret, _MASK)
    return text


def plain(text: str) -> str:
    """Return `text` without NULs, lone surrogates and secrets."""
    text = redact(text.replace("\0", "\ufffd"))
    if text.isascii():
        return text
    # Two halves of one character become that character; a half alone becomes U+FFFD.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        small = value.bit_length() < _DIGITS * 3
        return value if small else f"(an integer of {value.bit_length()} bits)"
    if depth >= _DEPTH:
        return "(nested too deeply)" if isinstance(value, dict | list | tuple) else value
    if isinstance(value, dict):
        return {
            plain(k) if isinstance(k, str) else _clean(k, depth): _clean(v, depth + 1)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, depth + 1) for item in value]
    return value if value is None else _clean(_default(value), depth + 1)


def _default(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode(errors="replace")
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    # What is not imported cannot be here; importing it to ask would cost every start.
    for module, names, convert in _KNOWN:
        home = sys.modules.get(module)
        if home and isinstance(value, tuple(getattr(home, name) for name in names)):
            return convert(value)
    raise NotStorable(f"{type(value).__qualname__} is not a JSON type")


_KNOWN: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("datetime", ("date", "time"), lambda value: value.isoformat()),
    ("datetime", ("timedelta",), lambda value: value.total_seconds()),
    ("uuid", ("UUID",), str),
    ("decimal", ("Decimal",), str),
    ("pathlib", ("PurePath",), str),
    ("ipaddress", ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"), str),
    ("enum", ("Enum",), lambda value: value.value),
)

# The separators of jsonb's own text, so that what passes the limit here passes it there.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_default).encode


def _brackets(text: str) -> int:
    return text.count("[") + text.count("{")


def deep(value: Any, limit: int = _DEPTH) -> bool:
    """Say whether lists and objects are nested more than `limit` levels deep in `value`."""
    level: Iterable[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            if isinstance(node, dict | list | tuple)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
