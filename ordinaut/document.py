"""
Documents: YAML or JSON from somewhere, read with the line of every part of it.

A document is data: size, depth and aliases are bounded before anything is built, scalars follow
YAML 1.2's core schema (`on`, `10:30` and dates stay the text they are), and no tag is obeyed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ordinaut.errors import ConfigurationError

MAX_BYTES, MAX_DEPTH, MAX_ALIASES, MAX_NODES = 2_000_000, 40, 100, 100_000

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


@dataclass(slots=True)
class Document:
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


def load(text: str, file: str) -> Document:
    """Read a text; a `file` that ends in .json means JSON."""
    doc = Document(file)
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


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ManifestError: naming the file.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: larger than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ManifestError(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ManifestError(f"{path}: not UTF-8 at byte {exc.start}") from None


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


def mapping(
    doc: Document, key: Key, known: set[str], needs: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the mapping at `key`, refused if it has other fields, or lacks one."""
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


def typed(doc: Document, key: Key, kind: type, value: Any, null: bool = False) -> Any:
    if (value is None and null) or (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    ):
        return value
    word = {str: "text", int: "a whole number", bool: "true or false"}[kind]
    raise doc.error(key, f"must be {word}, is {json.dumps(value, default=str)[:60]}")


def interval(doc: Document, key: Key, value: Any) -> str | None:
    """An interval as PostgreSQL reads it; a number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value} s"
    text: str | None = typed(doc, key, str, value, null=True)
    return text


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
