"""
Pipelines on their way into the database: read from files, and their templates checked.

The database refuses what is no pipeline, with the step named.  It does not read JMESPath: clients
do, before they send one, and a planner for those of psql, soon after they are stored.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ordinaut import calls, db, template
from ordinaut.document import Document, Key, ManifestError, load, mapping, read_text
from ordinaut.errors import ConfigurationError

log = logging.getLogger(__name__)

_STEP = {
    "id", "uses", "with", "needs", "if", "save_as", "retry_count", "retry", "timeout",
    "timeout_seconds", "queue", "priority", "on_rollback", "continue_on_error", "skip_with_needs",
    "map", "input_schema", "output_schema",
}  # fmt: skip
_WITHIN = {
    "retry": {"base", "cap", "factor", "jitter", "strategy", "max_attempts"},
    "on_rollback": {"uses", "with", "timeout", "retry_count"},
    "map": {"over", "as", "max_parallel", "on_failure", "tolerate"},
}
_PAGE: Final = 100
_BUDGET: Final = 0.1  # seconds: a tick waits for us


class InvalidPipeline(ConfigurationError):
    """Templates, conditions or schemas of a pipeline are none.

    Attributes:
        problems: one sentence each, with the step and the field.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a file of steps holds; params: None when it says nothing of them."""

    steps: list[Any]
    params: dict[str, Any] | None


def read(path: Path) -> Pipeline:
    """Return the pipeline in a YAML or JSON file: its steps, or {pipeline: steps, params: {…}}.

    Raises:
        ManifestError: with file, line and field.
        InvalidPipeline: with step and field.
    """
    doc = load(read_text(path), str(path))
    if isinstance(doc.value, list):
        found = Pipeline(steps(doc, ()), None)
    else:
        if isinstance(doc.value, dict) and "tasks" in doc.value:
            raise doc.error(("tasks",), "this defines tasks", "See: ordinaut task apply")
        top = mapping(doc, (), {"pipeline", "params"}, needs=("pipeline",))
        found = Pipeline(steps(doc, ("pipeline",)), params(doc, ("params",), top.get("params")))
    check(found.steps)
    return found


def steps(doc: Document, key: Key) -> list[Any]:
    """Return the steps at `key`, refused for unknown fields; what is in them is not looked at.

    Raises:
        ManifestError: with file, line and field.
    """
    value = doc.value
    for part in key:
        value = value[part]
    if not isinstance(value, list):
        raise doc.error(key, "must be a list of steps, as in [{id: fetch, uses: http}]")
    for i in range(len(value)):
        step = mapping(doc, (*key, i), _STEP, needs=("uses",))
        for name, known in _WITHIN.items():
            if name in step:
                mapping(doc, (*key, i, name), known)
    return value


def params(doc: Document, key: Key, value: Any) -> dict[str, Any] | None:
    """Return the params at `key`.

    Raises:
        ManifestError: they are no mapping.
    """
    if value is None or isinstance(value, dict):
        return value
    raise doc.error(key, "must be a mapping, as in {day: 2026-11-21}")


def position(steps: Any, message: str) -> int | None:
    """Return which step, from 1 on, a message of the database or of `check` is about."""
    if found := re.match(r"step (\d+) \(", message):
        return int(found[1])
    if found := re.match(r"step ([^ ,]+), ", message):
        ids = [step.get("id") for step in _named(steps)]
        return ids.index(found[1]) + 1 if found[1] in ids else None
    return None


def given(tool: Any, payload: Any, pipeline: Any) -> Any:
    """Return the steps that somebody gave: apart, or in a payload with their params."""
    if pipeline is None and tool in (None, "pipeline") and isinstance(payload, dict):
        return payload.get("pipeline")
    return pipeline


def check(definition: Any) -> None:
    """Refuse a pipeline whose templates, conditions or schemas are none.

    Raises:
        InvalidPipeline: it says all that is wrong with them.
    """
    if problems := template.check(_named(definition)):
        raise InvalidPipeline(problems)


def check_items(items: Iterable[Mapping[str, Any]]) -> None:
    """Check the pipelines of what `enqueue_many` takes, each that several share once."""
    found = (given(i.get("tool"), i.get("payload"), i.get("pipeline")) for i in items)
    for definition in {id(steps): steps for steps in found if steps}.values():
        check(definition)


def _named(definition: Any) -> list[Any]:
    """The steps, each with the id that the database gives it if it has none."""
    return [
        {"id": f"step_{i}"} | step if isinstance(step, dict) else step
        for i, step in enumerate(definition if isinstance(definition, list) else [], 1)
    ]


def vet(conn: db.Connection) -> bool:
    """Read the templates that nobody has read yet, for 0.1 s at most; return if more are left.

    A bad one makes the tasks that use it invalid, and no other task suffers.
    """
    stop = time.monotonic() + _BUDGET
    found = calls.unchecked_pipelines(conn, _PAGE)
    is_full = len(found) == _PAGE
    noted = 0
    for unchecked in found:
        problem = _problem(unchecked.definition)
        if calls.note_pipeline_check(conn, unchecked.pipeline_id, problem):
            noted += 1
            if problem:
                log.error("pipeline %s is invalid: %s", unchecked.pipeline_id, problem)
        if time.monotonic() > stop:
            is_full = True
            break
    return is_full and noted > 0


def _problem(definition: Any) -> str | None:
    try:
        check(definition)
    except InvalidPipeline as exc:
        return str(exc)
    except Exception as exc:  # of a pure function: the same tomorrow, and other tasks wait
        log.exception("a pipeline cannot be checked")
        return f"its templates cannot be read: {exc!r}"
    return None


__all__ = [
    "InvalidPipeline", "ManifestError", "Pipeline", "check", "check_items", "given", "params",
    "position", "read", "steps", "vet",
]  # fmt: skip
