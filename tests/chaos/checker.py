"""
Decide the invariants over one recorded history.

    python -m tests.chaos.checker DIR

Prints each invariant with how much of it was checked and its verdict, each violation with its rows,
and what was not decided, with the reason.  Exit code 1: something is violated; 2: DIR is no
history.  It never imports the product: what it knows of it is the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.chaos.history import History, load
from tests.chaos.invariants import Finding, decide

MOST = 10  # violations, and rows of each, that are printed


def report(history: History, findings: list[Finding], most: int = MOST) -> str:
    """Return the findings as text."""
    out: list[str] = []
    for name, torn in history.torn.items():
        if torn:
            out.append(f"{name}.jsonl: {torn} lines were cut off and are passed over")
    for found in findings:
        out.append(f"{found.id:4} {found.verdict:16} {found.checked:9,}  {found.meaning}")
        out += [f"       note: {note}" for note in found.notes[:most]]
        if len(found.notes) > most:
            out.append(f"       note: and {len(found.notes) - most} more")
        out += [f"       not decided: {why}" for why in found.undecided]
        for what, rows in found.violations[:most]:
            out.append(f"       VIOLATION: {what}")
            out += [f"         {json.dumps(row, default=str)}" for row in rows[:most]]
        if len(found.violations) > most:
            out.append(f"       and {len(found.violations) - most} more violations")
    bad = [found.id for found in findings if found.violations]
    held = sum(found.verdict == "holds" for found in findings)
    out.append(f"{held} hold, {len(bad)} violated{': ' if bad else ''}{', '.join(bad)}")
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.checker", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--most", type=int, default=MOST, help="violations and rows to print")
    options = parser.parse_args(arguments)
    try:
        history = load(options.directory)
    except FileNotFoundError as none:
        print(none, file=sys.stderr)
        return 2
    findings = decide(history)
    print(report(history, findings, options.most))
    return 1 if any(found.violations for found in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
