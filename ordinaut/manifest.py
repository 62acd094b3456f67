"""
Manifests: task definitions in YAML or JSON files, checked, and applied as one transaction.

    namespace: ops              # optional, for all tasks of the file
    tasks:
      - name: host-sample
        uses: python:host_tools.sample
        with: {disks: ["/"]}
        schedule: {every: 2 s}
        retry: {attempts: 3, base: 1 s}
        timeout: 10 s
      - name: report
        uses: python:reports.build
        schedule: [{cron: 0 9 * * MON-FRI}, {every: 4 h}]   # a union
        exclude: [holidays]
      - name: nightly
        params: {table: sales}
        pipeline:                                          # steps, instead of one tool
          - {id: fetch, uses: http, with: {url: "https://x/${params.table}"}, save_as: rows}
          - {id: load, uses: python:db.load, with: {rows: "${steps.rows}"}, retry_count: 5}
    calendars:
      - name: holidays
        timezone: Europe/Berlin
        dates: [2026-12-25, 2026-12-26]
        ranges: [[2026-12-24T14:00, 2027-01-02]]
        weekly: [{days: MON-FRI, from: 22:00, to: 06:00}]

What a file names is made true; what it leaves out is left alone, so `timeout: null` clears a
timeout and no `timeout` keeps it.  A task that a file no longer names goes on: cancel it by name.
What a calendar holds is one thing: its dates, ranges and weekly windows are those of the file.
Whether a schedule, a name or an interval is any good is the database's to say, and its answer is
given the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ordinaut import pipeline
from ordinaut.document import (
    Document,
    Key,
    ManifestError,
    interval,
    load,
    mapping,
    read_text,
    typed,
)

__all__ = ["Definition", "ManifestError", "parse", "read", "read_all"]

KINDS = {
    "once": "once", "at": "once", "interval": "interval", "every": "interval", "cron": "cron",
    "rrule": "rrule", "event": "event", "condition": "condition", "manual": "manual",
    "union": "union",
}  # fmt: skip
MEMBERS = {
    name: kind for name, kind in KINDS.items() if kind in ("once", "interval", "cron", "rrule")
}


@dataclass(frozen=True, slots=True)
class Definition:
    """One task or calendar as a manifest wants it, and where each part came from.

    Attributes:
        arguments: of create_task, or of set_calendar.
        what: task or calendar.
    """

    file: str
    name: str
    namespace: str
    arguments: dict[str, Any]
    lines: dict[str, int] = field(repr=False)
    line: int = 0
    what: str = "task"

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def error(self, message: str, field: str | None = None, hint: str = "") -> ManifestError:
        """Return an error that points at this task, or at one field of it."""
        line = self.lines.get(field or "", self.line)
        said = {"schedule_expr": "schedule", "schedule_kind": "schedule"}.get(field or "", field)
        if said and message.startswith("step "):
            said = None  # the message names it
        where = f"{self.what} {self.name}" + (f", {said}" if said else "")
        return ManifestError(f"{self.file}:{line}: {where}: {message}", hint)


def read(path: Path) -> list[Definition]:
    """Return the tasks and calendars that a file defines, checked for shape.

    Raises:
        ManifestError: naming file, line and field.
    """
    return parse(read_text(path), str(path))


def parse(text: str, file: str) -> list[Definition]:
    """Return what a manifest's text defines; `file` is for messages, and .json means JSON."""
    doc = load(text, file)
    top = mapping(
        doc, (), {"namespace", "tasks", "calendars", "version"},
        needs=() if isinstance(doc.value, dict) and doc.value.get("calendars") else ("tasks",),
    )  # fmt: skip
    namespace = typed(doc, ("namespace",), str, top.get("namespace", "default"))
    found: list[Definition] = []
    for part, read_one in (("calendars", _calendar), ("tasks", _definition)):
        items = top.get(part) or []
        if not isinstance(items, list):
            raise doc.error((part,), "must be a list")
        found += [read_one(doc, (part, i), namespace) for i in range(len(items))]
    seen: dict[tuple[str, str], Definition] = {}
    for definition in found:
        earlier = seen.setdefault((definition.what, definition.full_name), definition)
        if earlier is not definition:
            raise definition.error(f"also defined in line {earlier.line}", "name")
    return found


_TEXT = (
    "description", "queue", "key", "timezone", "catchup", "dst_gap", "dst_overlap", "overlap"
)  # fmt: skip
_INTEGER = (
    "priority", "key_limit", "max_attempts", "catchup_rate", "max_runs", "pause_on_failure"
)  # fmt: skip
_INTERVAL = ("timeout", "grace", "catchup_window", "jitter")
_INSTANT = ("start_at", "end_at")
_OF_SCHEDULE = ("timezone", "dst_gap", "dst_overlap", *_INSTANT)
_FIELDS = {
    "name", "namespace", "uses", "tool", "with", "payload", "schedule", "retry", "allow_past",
    "exclude", "pipeline", "params", *_TEXT, *_INTEGER, *_INTERVAL, *_INSTANT,
}  # fmt: skip


def _definition(doc: Document, key: Key, namespace: str) -> Definition:
    task = mapping(doc, key, _FIELDS, needs=("name",))
    out: dict[str, Any] = {}
    lines = {str(k[-1]): n for k, n in doc.lines.items() if k[:-1] == key}

    for name, other in (("uses", "tool"), ("with", "payload")):
        if name in task and other in task:
            raise doc.error((*key, other), f"says the same as {name}; give one of them")
        ours = name if name in task else other
        lines[other] = lines.get(ours, doc.lines[key])
        if ours in task:
            out[other] = task[ours]
    if "pipeline" in task:
        for name in ("uses", "tool", "with", "payload"):
            if name in task:
                what = "params" if name in ("with", "payload") else "steps, each with a tool"
                raise doc.error((*key, name), f"it has a pipeline; give it {what}")
        out |= _pipeline(doc, key, task, lines)
    elif out.get("tool") == "pipeline":
        at = (*key, "with" if "with" in task else "payload")
        out = _pipeline(doc, at, mapping(doc, at, {"pipeline", "params"}, ("pipeline",)), lines)
    elif "params" in task:
        raise doc.error(
            (*key, "params"), "are those of a pipeline", "A tool is given them by with."
        )
    elif "tool" not in out:
        raise doc.error(key, "uses is missing: which tool does it run?", "Or steps, as pipeline.")
    else:
        typed(doc, (*key, "uses" if "uses" in task else "tool"), str, out["tool"])
    for name in ("name", "namespace"):
        if name in task:
            typed(doc, (*key, name), str, task[name])
    for names, kind in ((_TEXT, str), (_INTEGER, int)):
        for name in names:
            if name in task:
                out[name] = typed(doc, (*key, name), kind, task[name], null=True)
    for name in _INTERVAL:
        if name in task:
            out[name] = interval(doc, (*key, name), task[name])
    for name in _INSTANT:
        if name in task:
            out[name] = typed(doc, (*key, name), str, task[name], null=True)
    if "allow_past" in task:
        out["allow_past"] = typed(doc, (*key, "allow_past"), bool, task["allow_past"])
    if task.get("retry") is not None:
        out |= _retry(doc, (*key, "retry"))
    if "exclude" in task:
        out["exclude"] = _names(doc, (*key, "exclude"), task["exclude"])
    if "schedule" in task:
        out |= _schedule(doc, (*key, "schedule"), task["schedule"])
    for name in ("schedule_kind", "schedule_expr"):
        lines[name] = lines.get("schedule", doc.lines[key])
    return Definition(
        file=doc.file, name=task["name"], namespace=task.get("namespace", namespace),
        arguments=out, lines=lines, line=doc.lines[key],
    )  # fmt: skip


def _pipeline(
    doc: Document, key: Key, given: dict[str, Any], lines: dict[str, int]
) -> dict[str, Any]:
    steps = pipeline.steps(doc, (*key, "pipeline"))
    for i in range(len(steps)):
        lines[f"step {i + 1}"] = doc.lines[*key, "pipeline", i]
    out: dict[str, Any] = {"pipeline": steps}
    if given.get("params") is not None:
        out["payload"] = pipeline.params(doc, (*key, "params"), given["params"])
    return out


def _calendar(doc: Document, key: Key, namespace: str) -> Definition:
    parts = ("dates", "ranges", "weekly")
    given = mapping(doc, key, {"name", "namespace", "timezone", "note", *parts}, needs=("name",))
    out: dict[str, Any] = {
        name: typed(doc, (*key, name), str, given[name], null=name == "note")
        for name in ("name", "namespace", "timezone", "note")
        if name in given
    }
    out["data"] = {name: given[name] for name in parts if given.get(name) is not None}
    lines = {str(k[-1]): n for k, n in doc.lines.items() if k[:-1] == key}
    return Definition(
        file=doc.file, name=out.pop("name"), namespace=out.pop("namespace", namespace),
        arguments=out, lines=lines, line=doc.lines[key], what="calendar",
    )  # fmt: skip


def _names(doc: Document, key: Key, value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if not isinstance(value, list):
        raise doc.error(key, "must be a list of calendars, as in [holidays, nights]")
    return [typed(doc, (*key, i), str, name) for i, name in enumerate(value)]


def _schedule(doc: Document, key: Key, value: Any) -> dict[str, Any]:
    if value == "manual":
        return {"schedule_kind": "manual", "schedule_expr": None}
    if isinstance(value, list):
        return {"schedule_kind": "union", "schedule_expr": _members(doc, key, value)}
    if not isinstance(value, dict):
        raise doc.error(key, "must be manual or a mapping, as in {every: 4 h}, or a list of them")
    given = mapping(doc, key, {*KINDS, *_OF_SCHEDULE})
    kinds = [name for name in given if name in KINDS]
    if len(kinds) != 1:
        said = f"has {' and '.join(kinds)}" if kinds else "says no time"
        raise doc.error(key, f"{said}; give exactly one of {', '.join(KINDS)}")
    kind = kinds[0]
    out: dict[str, Any] = {
        name: typed(doc, (*key, name), str, given[name]) for name in _OF_SCHEDULE if name in given
    }
    out["schedule_kind"] = KINDS[kind]
    if KINDS[kind] == "interval":
        out["schedule_expr"] = interval(doc, (*key, kind), given[kind])
    elif KINDS[kind] == "condition" and isinstance(given[kind], dict):
        asked = mapping(doc, (*key, kind), {"every", "query"}, needs=("every", "query"))
        every = interval(doc, (*key, kind, "every"), asked["every"])
        query = typed(doc, (*key, kind, "query"), str, asked["query"])
        out["schedule_expr"] = f"every {every}: {query.strip()}"
    elif KINDS[kind] == "manual":
        out["schedule_expr"] = None
    elif KINDS[kind] == "union":
        out["schedule_expr"] = _members(doc, (*key, kind), given[kind])
    else:
        out["schedule_expr"] = typed(doc, (*key, kind), str, given[kind])
    return out


def _members(doc: Document, key: Key, value: Any) -> str:
    """A union as the database keeps it: the JSON text of its members."""
    if not isinstance(value, list):
        raise doc.error(key, "must be a list of schedules, as in [{cron: 0 9 * * *}, {every: 4 h}]")
    members = []
    for i in range(len(value)):
        given = list(mapping(doc, (*key, i), set(MEMBERS)).items())
        if len(given) != 1:
            raise doc.error((*key, i), f"give exactly one of {', '.join(MEMBERS)}")
        [(name, expr)] = given
        read = interval if MEMBERS[name] == "interval" else _text
        members.append({"kind": MEMBERS[name], "expr": read(doc, (*key, i, name), expr)})
    return json.dumps(members)


def _text(doc: Document, key: Key, value: Any) -> str:
    text: str = typed(doc, key, str, value)
    return text


def _retry(doc: Document, key: Key) -> dict[str, Any]:
    known = {"attempts", "base", "cap", "factor", "jitter", "strategy"}
    policy = dict(mapping(doc, key, known))
    out: dict[str, Any] = {}
    if "attempts" in policy:
        out["max_attempts"] = typed(doc, (*key, "attempts"), int, policy.pop("attempts"))
    for name in ("base", "cap"):
        if name in policy:
            policy[name] = interval(doc, (*key, name), policy[name])
    if policy:
        out["retry"] = policy
    return out


def read_all(paths: list[Path]) -> Iterator[Definition]:
    """Yield what several files define; a name that two of them define is refused."""
    seen: dict[tuple[str, str], Definition] = {}
    for path in paths:
        for definition in read(path):
            earlier = seen.setdefault((definition.what, definition.full_name), definition)
            if earlier is not definition:
                raise definition.error(f"also defined at {earlier.file}:{earlier.line}", "name")
            yield definition
