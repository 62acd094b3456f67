"""What was measured, what it should be, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Target:
    """A bound.

    Attributes:
        most: the figure should be no more than this, else no less.
        ratio: the ratio is meant, not the value.
        firm: a miss fails `--check`.  Times are not firm: they are the machine's, and its
            other guests'.  Ratios of one run and bytes are ours.
    """

    bound: float
    most: bool = False
    ratio: bool = False
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report; the value is a median where there are several `samples`.

    Attributes:
        ratio: to what `beside` names, measured in the same run.
    """

    name: str
    samples: Sequence[float]
    unit: str
    ratio: float | None = None
    beside: str = "bare loop"
    targets: Sequence[Target] = ()

    @property
    def value(self) -> float:
        return median(self.samples)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what became of it."""

    name: str
    target: str
    measured: str
    met: bool
    firm: bool


def judge(figures: Sequence[Figure]) -> list[Verdict]:
    """Hold every target against its figure."""
    verdicts = []
    for figure in figures:
        for target in figure.targets:
            number = figure.ratio if target.ratio else figure.value
            assert number is not None
            unit = f"x {figure.beside}" if target.ratio else figure.unit
            verdicts.append(
                Verdict(
                    figure.name,
                    f"{'≤' if target.most else '≥'} {_number(target.bound)} {unit}",
                    _number(number),
                    number <= target.bound if target.most else number >= target.bound,
                    target.firm,
                )
            )
    return verdicts


def show(where: Mapping[str, Any], figures: Sequence[Figure], verdicts: Sequence[Verdict]) -> None:
    """Print two tables: the figures, and the targets."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), style="dim")
    table = Table(title="Ordinaut beside a bare loop", box=SIMPLE_HEAD)
    table.add_column("figure")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("from .. to", justify="right", no_wrap=True)
    table.add_column("ratio")
    for figure in figures:
        least, most = min(figure.samples), max(figure.samples)
        table.add_row(
            figure.name,
            f"{_number(figure.value)} {figure.unit}",
            f"{_number(least)} .. {_number(most)}" if least < most else "",
            "" if figure.ratio is None else f"{figure.ratio:.2f} x {figure.beside}",
        )
    console.print(table)
    table = Table(title="Targets", box=SIMPLE_HEAD)
    for column in ("figure", "target", "measured", "met"):
        table.add_column(column)
    for verdict in verdicts:
        miss = "[red]no[/red]" if verdict.firm else "[yellow]no (a warning)[/yellow]"
        met = "yes" if verdict.met else miss
        table.add_row(verdict.name, verdict.target, verdict.measured, met)
    console.print(table)


def dump(where: Mapping[str, Any], figures: Sequence[Figure], verdicts: Sequence[Verdict]) -> None:
    """Print the same as one JSON document."""
    document = {
        "where": dict(where),
        "figures": [asdict(figure) | {"value": figure.value} for figure in figures],
        "targets": [asdict(verdict) for verdict in verdicts],
    }
    print(json.dumps(document, indent=2))


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"
