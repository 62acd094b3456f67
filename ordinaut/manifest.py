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

What a file names is made true; what it leaves out is left alone, so `timeout: null` clears a
timeout and no `timeout` keeps it.  A task that a file no longer names goes on: cancel it by name.
Whether a schedule, a name or an interval is any good is the database's to say, and its answer is
given the file and the line.

A manifest is data from somewhere: size, depth and aliases are bounded before anything is built,
scalars follow YAML 1.2's core schema (`on`, `10:30` and dates stay the text they are), and no
tag is obeyed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ordinaut.errors import ConfigurationError

MAX_BYTES, MAX_DEPTH, MAX_ALIASES, MAX_NODES = 2_000_000, 40, 100, 100_000

KINDS = {
    "once": "once", "at": "once", "interval": "interval", "every": "interval", "cron": "cron",
    "rrule": "rrule", "event": "event", "condition": "condition", "manual": "manual",
}  # fmt: skip

Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: 1.1 reads `no` as false and 10:30 as 630."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )

_SCALARS: dict[str, Any] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class ManifestError(ConfigurationError):
    """A manifest is wrong: the message begins with file, line and field."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One task as a manifest wants it: `arguments` of create_task, and where each came from."""

    file: str
    name: str
    namespace: str
    arguments: dict[str, Any]
    lines: dict[str, int] = field(repr=False)
    line: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def error(self, message: str, field: str | None = None, hint: str = "") -> ManifestError:
        """Return an error that points at this task, or at one field of it."""
        line = self.lines.get(field or "", self.line)
        said = {"schedule_expr": "schedule", "schedule_kind": "schedule"}.get(field or "", field)
        where = f"task {self.name}" + (f", {said}" if said else "")
        return ManifestError(f"{self.file}:{line}: {where}: {message}", hint)


@dataclass(slots=True)
class _Doc:
    """A parsed file: the value, and the line of every part of it."""

    file: str
    value: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    nodes: int = 0

    def error(self, key: Key, message: str, hint: str = "") -> ManifestError:
        line = next(self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines)
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
        where = f"{where.removeprefix('.')}: " if where else ""
        return ManifestError(f"{self.file}:{line}: {where}{message}", hint)

    def build(self, node: yaml.Node, key: Key = ()) -> Any:
        self.nodes += 1
        self.lines.setdefault(key, node.start_mark.line + 1)
        if self.nodes > MAX_NODES:
            raise self.error((), f"more than {MAX_NODES} values, aliases counted")
        if len(key) > MAX_DEPTH:
            raise self.error(key[:3], f"nested deeper than {MAX_DEPTH}")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise self.error(key, f"the tag {node.tag!r} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*key, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for name_node, value_node in node.value:
                if not isinstance(name_node, yaml.ScalarNode):
                    raise self.error(key, "a field's name must be text")
                name = str(name_node.value)
                self.lines[(*key, name)] = name_node.start_mark.line + 1
                if name in out:
                    raise self.error((*key, name), "given twice")
                out[name] = self.build(value_node, (*key, name))
            return out
        if node.tag not in _SCALARS:
            raise self.error(key, f"the tag {node.tag!r} is not allowed")
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError:  # an int of ten thousand digits, or `!!int x`
            raise self.error(key, f"cannot read {node.value[:40]!r} as {node.tag[18:]}") from None


def read(path: Path) -> list[Definition]:
    """Return the tasks that a file defines, checked for shape.

    Raises:
        ManifestError: naming file, line and field.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: larger than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ManifestError(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ManifestError(f"{path}: not UTF-8 at byte {exc.start}") from None
    return parse(text, str(path))


def parse(text: str, file: str) -> list[Definition]:
    """Return the tasks of a manifest's text; `file` is for messages, and .json means JSON."""
    doc = _load(text, file)
    top = _mapping(doc, (), {"namespace", "tasks", "version"}, needs=("tasks",))
    namespace = _typed(doc, ("namespace",), str, top.get("namespace", "default"))
    if not isinstance(top["tasks"], list):
        raise doc.error(("tasks",), "must be a list")
    found = [_definition(doc, ("tasks", i), namespace) for i in range(len(top["tasks"]))]
    seen: dict[str, Definition] = {}
    for definition in found:
        if earlier := seen.setdefault(definition.full_name, definition):
            if earlier is definition:
                continue
            raise definition.error(f"also defined in line {earlier.line}", "name")
    return found


def _load(text: str, file: str) -> _Doc:
    doc = _Doc(file)
    is_json = file.endswith(".json")
    if is_json:
        try:
            value = json.loads(text)
        except json.JSONDecodeError as exc:
            raise ManifestError(f"{file}:{exc.lineno}: not JSON: {exc.msg}") from None
        except RecursionError:
            raise ManifestError(f"{file}: nested too deep") from None
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    try:
        _bounded(text, file)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(f"{file}:{line}: not YAML: {exc.problem or exc.context}") from None
    except yaml.YAMLError as exc:  # a character that YAML forbids
        raise ManifestError(f"{file}: not YAML: {str(exc).splitlines()[0]}") from None
    if node is None:
        raise ManifestError(f"{file}:1: empty", "A manifest has a list of tasks.")
    doc.value = doc.build(node)
    if is_json:
        doc.value = value  # the lines are YAML's, the values JSON's: \ud83d\ude00 is one character
    return doc


def _bounded(text: str, file: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ManifestError(f"{file}:{line}: nested deeper than {MAX_DEPTH}")
        if aliases > MAX_ALIASES:
            raise ManifestError(f"{file}:{line}: more than {MAX_ALIASES} aliases")


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
    *_TEXT, *_INTEGER, *_INTERVAL, *_INSTANT,
}  # fmt: skip


def _definition(doc: _Doc, key: Key, namespace: str) -> Definition:
    task = _mapping(doc, key, _FIELDS, needs=("name",))
    out: dict[str, Any] = {}
    lines = {str(k[-1]): n for k, n in doc.lines.items() if k[:-1] == key}

    for name, other in (("uses", "tool"), ("with", "payload")):
        if name in task and other in task:
            raise doc.error((*key, other), f"says the same as {name}; give one of them")
        ours = name if name in task else other
        lines[other] = lines.get(ours, doc.lines[key])
        if ours in task:
            out[other] = task[ours]
    if "tool" not in out:
        raise doc.error(key, "uses is missing: which tool does it run?")
    _typed(doc, (*key, "uses" if "uses" in task else "tool"), str, out["tool"])
    for name in ("name", "namespace"):
        if name in task:
            _typed(doc, (*key, name), str, task[name])
    for names, kind in ((_TEXT, str), (_INTEGER, int)):
        for name in names:
            if name in task:
                out[name] = _typed(doc, (*key, name), kind, task[name], null=True)
    for name in _INTERVAL:
        if name in task:
            out[name] = _interval(doc, (*key, name), task[name])
    for name in _INSTANT:
        if name in task:
            out[name] = _typed(doc, (*key, name), str, task[name], null=True)
    if "allow_past" in task:
        out["allow_past"] = _typed(doc, (*key, "allow_past"), bool, task["allow_past"])
    if task.get("retry") is not None:
        out |= _retry(doc, (*key, "retry"))
    if "schedule" in task:
        out |= _schedule(doc, (*key, "schedule"), task["schedule"])
    for name in ("schedule_kind", "schedule_expr"):
        lines[name] = lines.get("schedule", doc.lines[key])
    return Definition(
        file=doc.file, name=task["name"], namespace=task.get("namespace", namespace),
        arguments=out, lines=lines, line=doc.lines[key],
    )  # fmt: skip


def _schedule(doc: _Doc, key: Key, value: Any) -> dict[str, Any]:
    if value == "manual":
        return {"schedule_kind": "manual", "schedule_expr": None}
    if not isinstance(value, dict):
        raise doc.error(key, "must be manual or a mapping, as in {every: 5 min}")
    given = _mapping(doc, key, {*KINDS, *_OF_SCHEDULE})
    kinds = [name for name in given if name in KINDS]
    if len(kinds) != 1:
        said = f"has {' and '.join(kinds)}" if kinds else "says no time"
        raise doc.error(key, f"{said}; give exactly one of {', '.join(KINDS)}")
    kind = kinds[0]
    out: dict[str, Any] = {
        name: _typed(doc, (*key, name), str, given[name]) for name in _OF_SCHEDULE if name in given
    }
    out["schedule_kind"] = KINDS[kind]
    if KINDS[kind] == "interval":
        out["schedule_expr"] = _interval(doc, (*key, kind), given[kind])
    elif KINDS[kind] == "manual":
        out["schedule_expr"] = None
    else:
        out["schedule_expr"] = _typed(doc, (*key, kind), str, given[kind])
    return out


def _retry(doc: _Doc, key: Key) -> dict[str, Any]:
    known = {"attempts", "base", "cap", "factor", "jitter", "strategy"}
    policy = dict(_mapping(doc, key, known))
    out: dict[str, Any] = {}
    if "attempts" in policy:
        out["max_attempts"] = _typed(doc, (*key, "attempts"), int, policy.pop("attempts"))
    for name in ("base", "cap"):
        if name in policy:
            policy[name] = _interval(doc, (*key, name), policy[name])
    if policy:
        out["retry"] = policy
    return out


def _mapping(doc: _Doc, key: Key, known: set[str], needs: tuple[str, ...] = ()) -> dict[str, Any]:
    value = doc.value
    for part in key:
        value = value[part]
    if not isinstance(value, dict):
        raise doc.error(key, "must be a mapping of fields")
    for name in value:
        if name not in known:
            raise doc.error((*key, name), "unknown field", f"Known are: {_list(known)}.")
    for name in needs:
        if value.get(name) is None:
            raise doc.error(key, f"{name} is missing")
    return value


def _typed(doc: _Doc, key: Key, kind: type, value: Any, null: bool = False) -> Any:
    if (value is None and null) or (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    ):
        return value
    word = {str: "text", int: "a whole number", bool: "true or false"}[kind]
    raise doc.error(key, f"must be {word}, is {json.dumps(value, default=str)[:60]}")


def _interval(doc: _Doc, key: Key, value: Any) -> str | None:
    """An interval as PostgreSQL reads it; a number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value} s"
    text: str | None = _typed(doc, key, str, value, null=True)
    return text


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def read_all(paths: list[Path]) -> Iterator[Definition]:
    """Yield the tasks of several files; a name that two of them define is refused."""
    seen: dict[str, Definition] = {}
    for path in paths:
        for definition in read(path):
            earlier = seen.setdefault(definition.full_name, definition)
            if earlier is not definition:
                raise definition.error(f"also defined at {earlier.file}:{earlier.line}", "name")
            yield definition
