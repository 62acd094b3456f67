"""Graphs in the terminal: every edge can be followed down its lane, and no other can be read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordinaut.cli.graph import NODE, draw


def drawn(**needs: str) -> str:
    lines = draw({node: needed.split() for node, needed in needs.items()})
    return "\n".join(f"{line.lanes} {line.node or ''}".rstrip() for line in lines)


def test_a_chain_is_a_column():
    assert drawn(a="", b="a", c="b") == "* a\n* b\n* c"


def test_a_diamond_opens_and_closes():
    assert drawn(s="", l="s", r="s", j="l r") == "* s\n├─╮\n* │ l\n│ * r\n├─╯\n* j"


def test_a_lane_that_is_passed_breaks_the_line():
    lines = ["* a", "├─╮", "* │ b", "├─│─╮", "│ * │ d", "│ ╰─┤", "*   │ c", "    * e"]
    assert drawn(a="", b="a", d="a", c="b", e="b d").splitlines() == lines


def test_what_nobody_needs_and_what_needs_nobody():
    assert drawn(a="", b="") == "* a\n\n* b"
    assert drawn() == ""
    assert drawn(a="gone", b="a a") == "* a\n* b"


def test_what_is_written_before_its_needs_comes_after_them():
    assert drawn(b="a", a="") == "* a\n* b"


@st.composite
def graphs(draw_: st.DrawFn) -> dict[str, list[str]]:
    n = draw_(st.integers(0, 9))
    return {f"n{i}": [f"n{j}" for j in range(i) if draw_(st.integers(0, 3)) == 0] for i in range(n)}


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_the_drawing_tells_the_graph(needs):
    """Walk the characters down from each node, as an eye does, and find its followers."""
    lines = draw(needs)
    assert [line.node for line in lines if line.node] == list(needs)
    grid = [line.lanes for line in lines]
    found = {
        node: {lines[row].node for row in _reached(grid, at, line.lanes.index(NODE))}
        for at, line in enumerate(lines)
        if (node := line.node)
    }
    wanted = {node: {n for n, needed in needs.items() if node in needed} for node in needs}
    assert found == wanted


UP, DOWN, LEFT, RIGHT = "├┤│╯╰┴┼", "├┤┼╮╭┬│", "┤┼╮╯┬┴─", "├┼╭╰┬┴─"


def _at(grid: list[str], row: int, column: int) -> str:
    return grid[row][column] if row < len(grid) and 0 <= column < len(grid[row]) else " "


def _down(grid: list[str], row: int, column: int) -> int | None:
    """The row of the node that a lane leads to, joined by others or not."""
    while (sign := _at(grid, row, column)) != NODE:
        if sign not in UP or sign not in DOWN:
            return None
        row += 1
    return row


def _reached(grid: list[str], row: int, column: int) -> set[int]:
    below = _at(grid, row + 1, column)
    if below == NODE:
        return {row + 1}
    if below == "│":
        return {_down(grid, row + 1, column)}
    if not below.strip() or below not in UP:
        return set()
    out = {_down(grid, row + 2, column)} if below in DOWN else set()
    for step, onward in ((-1, LEFT), (1, RIGHT)):
        if below not in onward:
            continue
        at = column + step
        while True:
            sign = _at(grid, row + 1, at)
            if at % 2 == 0 and sign != "─" and sign != "│":
                out.add(_down(grid, row + 2, at))
            if sign != "│" and sign not in onward:
                break
            at += step
    return out


@pytest.mark.parametrize("width", [3, 12])
def test_a_fan_takes_a_lane_each(width):
    names = [f"w{i}" for i in range(width)]
    lines = draw({"s": [], **{n: ["s"] for n in names}, "j": names})
    assert max(len(line.lanes) for line in lines) == 2 * width - 1
    assert lines[1].lanes == "├" + "─┬" * (width - 2) + "─╮"
