"""
Control steps: sleep, wait_for_event, approval, task.  They run nothing; they say what to wait for.

    sleep            for: duration (`seconds` is the same), or until: an instant
    wait_for_event   topic, key, timeout: duration, on_timeout: fail | continue, since: an instant
                     (else an event counts from the start of the run)
    approval         prompt, schema: of the answer, data: what to show, responders: roles,
                     expires_in: duration, on_expiry: fail | continue
    task             task: namespace/name, params, wait: true | false

A duration is seconds, or a text: 10 s, 5 min, 2 h, 01:30:00, PT15M.  An instant is ISO 8601 with
its offset.  The database waits, so a run may wait for months and holds no worker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed, Verdict

Plan = Callable[[Any], dict[str, Any]]

_LONGEST = 3650 * 86_400.0
_DECIDE = ("fail", "continue")


def tool(name: str) -> Callable[[wire.Unit], bytes | None]:
    """Return the control step as a tool."""
    plan = PLANS[name]

    def run(unit: wire.Unit) -> bytes | None:
        if unit[wire.STEP] is None:
            raise ToolFailed(f"{name} is a step of a pipeline, not a tool of its own", "E2001")
        raise waiting(plan(json.loads(unit[wire.PAYLOAD])))

    return run


def waiting(plan: dict[str, Any]) -> Verdict:
    """Return the verdict that a unit waits.

    Raises:
        ToolFailed: what it waits for is too large to be kept.
    """
    body = output.dump(plan, limit=1 << 62)
    if len(body) > output.LIMIT:
        raise ToolFailed(
            f"{plan['kind']}: {len(body)} bytes to wait with; {output.LIMIT} is the limit", "E2002"
        )
    return Verdict("waiting", output=body)


def map_plan(given: Any, items: Any) -> dict[str, Any]:
    """Return what a step with a map waits for: all its items."""
    if not isinstance(items, list):
        raise ToolFailed(f"map.over: must come to a list, not to {_kind(items)}", "E2002")
    fields = _Fields("map", given, {"over", "as", "max_parallel", "on_failure", "tolerate"})
    return {
        "kind": "map",
        "items": items,
        "max_parallel": fields.count("max_parallel", None, least=1),
        "on_failure": fields.one_of("on_failure", _DECIDE, "fail"),
        "tolerate": fields.count("tolerate", 0),
    }


def _sleep(given: Any) -> dict[str, Any]:
    fields = _Fields("sleep", given, {"for", "seconds", "until"})
    named = [name for name in ("for", "seconds", "until") if fields.get(name) is not None]
    if len(named) != 1:
        raise ToolFailed("sleep: needs either for, a duration, or until, an instant", "E2003")
    if named == ["until"]:
        return {"kind": "sleep", "until": fields.instant("until")}
    return {"kind": "sleep", "seconds": fields.duration(named[0])}


def _wait_for_event(given: Any) -> dict[str, Any]:
    names = {"topic", "key", "timeout", "on_timeout", "since"}
    fields = _Fields("wait_for_event", given, names)
    plan = {
        "kind": "event",
        "topic": fields.text("topic", required=True),
        "key": fields.text("key"),
        "timeout": fields.duration("timeout"),
        "on_timeout": fields.one_of("on_timeout", _DECIDE, "fail"),
    }
    return plan if fields.get("since") is None else plan | {"since": fields.instant("since")}


def _approval(given: Any) -> dict[str, Any]:
    names = {"prompt", "schema", "expires_in", "on_expiry", "responders", "data"}
    fields = _Fields("approval", given, names)
    schema = fields.get("schema")
    if schema is not None:
        from ordinaut.tools.schema import problem

        if found := problem(schema):
            raise ToolFailed(f"approval: schema: {found}", "E2002")
    return {
        "kind": "approval",
        "prompt": fields.text("prompt", required=True),
        "schema": schema,
        "expires_in": fields.duration("expires_in"),
        "on_expiry": fields.one_of("on_expiry", _DECIDE, "fail"),
        "responders": fields.names("responders"),
        "data": fields.get("data"),
    }


def _task(given: Any) -> dict[str, Any]:
    fields = _Fields("task", given, {"task", "params", "wait"})
    name = fields.text("task", required=True) or ""
    params = fields.get("params")
    if params is not None and not isinstance(params, dict):
        raise ToolFailed("task: params: must be an object", "E2002")
    wait = fields.get("wait")
    if not isinstance(wait, bool | None):
        raise ToolFailed("task: wait: must be true or false", "E2002")
    return {
        "kind": "task",
        "task": name if "/" in name else f"default/{name}",
        "params": params or {},
        "wait": wait is not False,
    }


PLANS: dict[str, Plan] = {
    "sleep": _sleep,
    "wait_for_event": _wait_for_event,
    "approval": _approval,
    "task": _task,
}


class _Fields:
    """The `with` of a control step, field by field; null is the same as absent."""

    def __init__(self, what: str, given: Any, known: set[str]) -> None:
        if not isinstance(given, dict):
            raise ToolFailed(f"{what}: its with is an object", "E2001")
        if unknown := given.keys() - known:
            raise ToolFailed(
                f"{what}: {min(unknown)}: there is no such field; there are"
                f" {', '.join(sorted(known))}",
                "E2002",
            )
        self._what = what
        self.get = given.get

    def text(self, name: str, required: bool = False) -> str | None:
        value = self.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, "must be a text", "E2003" if value is None else "E2002")
        return value

    def names(self, name: str) -> list[str] | None:
        value = self.get(name)
        names = [value] if isinstance(value, str) else value
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise self._wrong(name, "must be a list of names")
        return names

    def one_of(self, name: str, words: tuple[str, ...], default: str) -> str:
        value = self.get(name)
        if value is None:
            return default
        if value not in words:
            raise self._wrong(name, f"must be {' or '.join(words)}")
        return str(value)

    def count(self, name: str, default: int | None, least: int = 0) -> int | None:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(name, f"must be a whole number, at least {least}")
        return value

    def duration(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        seconds: float | None = None
        if isinstance(value, str):
            from ordinaut import duration

            try:
                seconds = duration.seconds(value)
            except ValueError as exc:
                raise self._wrong(name, f"{value[:40]!r}: {exc}; write days") from None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        if seconds is None:
            raise self._wrong(name, "must be a duration: seconds, or a text like 10 s or 2 h")
        if not (math.isfinite(seconds) and 0 <= seconds <= _LONGEST):
            raise self._wrong(name, "must be from 0 to 3650 days")
        return seconds

    def instant(self, name: str) -> str:
        from datetime import UTC, datetime

        value = self.get(name)
        try:
            at = datetime.fromisoformat(value if isinstance(value, str) else "")
            if at.tzinfo is None:
                raise self._wrong(name, f"{value} has no offset; end it in Z or +01:00")
            return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        except (ValueError, OverflowError):
            raise self._wrong(name, "must be an instant like 2026-03-01T08:00:00Z") from None

    def _wrong(self, name: str, message: str, code: str = "E2002") -> ToolFailed:
        return ToolFailed(f"{self._what}: {name}: {message}", code)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "an object", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), "something else")
