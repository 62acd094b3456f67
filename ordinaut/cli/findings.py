"""What doctor and diagnose found, for people: the verdict, the check, who and what, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from ordinaut.calls import Problem
from ordinaut.cli import base

_VERDICTS = {"critical": "fail", "warning": "warn"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: verdict is ok, info, warn or fail."""

    check: str
    verdict: str
    detail: str
    subject: str | None = None
    since: datetime | None = None
    evidence: dict[str, Any] | None = None
    act: str | None = None


def of_problem(problem: Problem) -> Finding:
    """Say in the words of doctor what the database found."""
    return Finding(
        problem.problem, _VERDICTS.get(problem.severity, problem.severity), problem.detail,
        problem.subject, problem.since, problem.evidence, problem.act,
    )  # fmt: skip


def show(findings: Iterable[Finding]) -> None:
    """Print findings to a terminal of any width: what is long wraps below itself."""
    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(no_wrap=True)
    out.add_column(no_wrap=True)
    out.add_column(overflow="fold")
    for found in findings:
        out.add_row(
            Text(found.verdict, style=base.COLOURS.get(found.verdict, "")),
            Text(base.clean(found.check)),
            _told(found),
        )
    base.console().print(out)


def _told(found: Finding) -> Text:
    said = found.detail
    if found.subject and found.subject not in said:
        said = f"{found.subject}: {said}"
    text = Text(base.clean(said))
    if found.evidence and (statement := found.evidence.get("statement")):
        text.append("\n" + base.clean(" ".join(str(statement).split()))[:300], style="cyan")
    if found.act:
        text.append("\n-> " + base.clean(found.act), style="bold")
    return text
