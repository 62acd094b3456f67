"""What was found, as a manifest: each task under what is to be said of it, nothing dropped."""

from __future__ import annotations

from typing import Any

import yaml

from ordinaut.importing.found import Found, Job
from ordinaut.version import __version__


class _Dumper(yaml.SafeDumper):
    """Scalars that both YAML 1.1 and the manifests' 1.2 read as the text they are."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if text[:1] in "+-.0123456789" or not text.replace("\n", "").isprintable():
        style = '"'  # 1e3 and 1:30 are numbers to one of them; U+2028 ends lines
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def document(found: Found, namespace: str | None = None) -> str:
    """Return the manifest's text."""
    lines = [f"# {comment(line)}" for line in (f"By ordinaut {__version__}, import.", *found.head)]
    if namespace:
        lines.append(_yaml({"namespace": namespace}).rstrip())
    lines.append("tasks:" if found.jobs else "tasks: []")
    for item in found.items:
        lines.append("")
        if isinstance(item, Job):
            lines += [f"  # {comment(line)}" for line in (item.where, *item.notes)]
            task = _yaml(item.task).rstrip("\n").split("\n")
            lines += ["  - " + task[0], *("    " + line if line else line for line in task[1:])]
        else:
            lines += [f"  # {comment(str(item))}", f"  #   {comment(item.text)}"]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1e9))


def comment(text: str) -> str:
    """Text that stays in its line: a comment of YAML ends with U+2028, too."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
