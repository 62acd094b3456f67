"""Pipelines: what a planner reads of their templates, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ordinaut.calls.base import Conn, rows


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A pipeline whose templates nobody has read yet."""

    pipeline_id: UUID
    definition: Any


def unchecked_pipelines(conn: Conn, limit: int | None = None) -> list[Unchecked]:
    """Return pipelines that are to be checked, and that nobody holds.

    Args:
        limit: None: 100.

    Source: sql/pipeline.sql, ordinaut.unchecked_pipelines
    """
    return rows(conn, Unchecked, "unchecked_pipelines", limit=limit)


def note_pipeline_check(conn: Conn, pipeline_id: UUID, problem: str | None) -> bool:
    """Store what a check found; a problem makes the active tasks that use the pipeline invalid.

    Returns:
        False: somebody refers to it, or edits such a task, just now; it stays unchecked.

    Source: sql/pipeline.sql, ordinaut.note_pipeline_check
    """
    found = conn.execute(
        "select ordinaut.note_pipeline_check(%s, %s)", [pipeline_id, problem]
    ).fetchone()
    return bool(found and found[0])
