"""
A directed graph in a terminal, one node a line, as logs of version control are drawn.

Every lane leads down to one node that is still to come.  The line below a node joins it to the
lanes of what needs it; a lane that it only passes under breaks it.

    * fetch       * a
    ├─╮           ├─╮
    * │ clean     * │ b      c and e need b: the line to e
    │ * price     ├─│─╮      passes under the lane of d
    ├─╯           │ * │ d
    * load        │ ╰─┤      e needs d, too
                  *   │ c
                      * e
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Up, down, left, right.
_JOINTS = {
    (1, 1, 0, 1): "├", (1, 1, 1, 0): "┤", (1, 1, 1, 1): "┼", (0, 1, 1, 0): "╮", (0, 1, 0, 1): "╭",
    (1, 0, 1, 0): "╯", (1, 0, 0, 1): "╰", (0, 1, 1, 1): "┬", (1, 0, 1, 1): "┴", (1, 1, 0, 0): "│",
}  # fmt: skip

NODE = "*"  # to be replaced by the node's own sign


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a drawing; of a node, or (None) only of lanes."""

    lanes: str
    node: str | None


def draw(needs: Mapping[str, Sequence[str]]) -> list[Line]:
    """Draw the nodes in their order, as far as each comes after all that it needs.

    Args:
        needs: of each node, which it needs; those that are no nodes are left out.
    """
    followers: dict[str, list[str]] = {node: [] for node in needs}
    for node, needed in needs.items():
        for other in dict.fromkeys(needed):
            if other in followers:
                followers[other].append(node)
    lines: list[Line] = []
    lanes: list[str | None] = []
    for node in _in_order(needs, followers):
        is_led_to = node in lanes
        at = _lane(lanes, node)
        # Right below a node that leads nowhere, it would seem to be led to.
        if not is_led_to and lines and lines[-1].lanes[2 * at : 2 * at + 1] == NODE:
            lines.append(Line(_trunks(lanes, at).replace(NODE, " ").rstrip(), None))
        lines.append(Line(_trunks(lanes, at), node))
        above = list(lanes)
        lanes[at] = None
        ends = []
        for follower in followers[node]:
            if follower not in lanes and lanes[at] is None:
                lanes[at] = follower
            ends.append(_lane(lanes, follower))
        if ends and ends != [at]:
            lines.append(Line(_branches(above, lanes, at, ends), None))
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines


def _in_order(
    needs: Mapping[str, Sequence[str]], followers: Mapping[str, Sequence[str]]
) -> list[str]:
    place = {node: i for i, node in enumerate(needs)}
    missing = {node: sum(other in place for other in set(needed)) for node, needed in needs.items()}
    ready = [(place[node], node) for node, n in missing.items() if n == 0]
    out = []
    while ready:
        _, node = heapq.heappop(ready)
        out.append(node)
        for follower in followers[node]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, (place[follower], follower))
    return out


def _lane(lanes: list[str | None], node: str) -> int:
    """The lane that leads to a node: its own, else the first that is free."""
    for wanted in (node, None):
        if wanted in lanes:
            at = lanes.index(wanted)
            lanes[at] = node
            return at
    lanes.append(node)
    return len(lanes) - 1


def _trunks(lanes: Sequence[str | None], at: int) -> str:
    return " ".join(
        NODE if i == at else "│" if lane else " " for i, lane in enumerate(lanes)
    ).rstrip()


def _branches(
    above: Sequence[str | None], below: Sequence[str | None], at: int, ends: Sequence[int]
) -> str:
    low, high = min(at, *ends), max(at, *ends)
    out = []
    for i in range(len(below)):
        up = i < len(above) and above[i] is not None
        down = below[i] is not None
        across = low <= i <= high
        if i == at or i in ends:
            out.append(_JOINTS[int(up or i == at), int(down), int(low < i), int(i < high)])
        else:
            out.append("│" if down else "─" if across else " ")
        out.append("─" if low <= i < high else " ")
    return "".join(out).rstrip()
