"""What each invariant found.  The invariants themselves are in the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from tests.chaos.history import History
from tests.chaos.lives import Lives, tell


@dataclass
class Finding:
    """One invariant, decided over one history.

    `checked` counts the items that were looked at, `notes` say what is allowed but not silent, and
    `undecided` why something, or all of it if nothing was checked, was not decided.
    """

    id: str
    meaning: str
    checked: int = 0
    violations: list[tuple[str, list[Any]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)

    def count(self, n: int = 1) -> None:
        self.checked += n

    def wrong(self, what: str, *rows: Any) -> None:
        self.violations.append((what, [row for row in rows if row is not None]))

    def note(self, what: str) -> None:
        self.notes.append(what)

    def skip(self, why: str) -> None:
        if why not in self.undecided:
            self.undecided.append(why)

    @property
    def verdict(self) -> str:
        if self.violations:
            return "VIOLATED"
        if self.checked == 0:
            return "not decided" if self.undecided else "nothing to check"
        return "holds"


Check = Callable[[History, Lives, Finding], None]
CHECKS: dict[str, tuple[str, Check | None]] = {}


def invariant(id: str, meaning: str) -> Callable[[Check], Check]:
    """Register what decides the invariant of this name; several clauses may share one."""

    def register(check: Check) -> Check:
        assert id not in CHECKS, f"{id} is registered twice"
        CHECKS[id] = (meaning, check)
        return check

    return register


def decide(history: History) -> list[Finding]:
    """Decide every invariant, in the order of their names."""
    # Each module registers its own.
    for name in ("client", "conservation", "flow", "schedules", "system", "units", "witness"):
        import_module(f"tests.chaos.invariants.{name}")

    lives = tell(history)
    findings = []
    for id, (meaning, check) in sorted(CHECKS.items(), key=lambda item: int(item[0][1:])):
        finding = Finding(id, meaning)
        if check is None:
            finding.skip("one database is one tenant")
        else:
            check(history, lives, finding)
        findings.append(finding)
    return findings


CHECKS["I21"] = ("tenants are isolated", None)
