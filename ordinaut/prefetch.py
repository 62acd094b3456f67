"""
How much to lease ahead, and how much of it to give a child at once.

Work on loan is work that no other worker can start.  So a worker takes no more than it expects
to start within `HORIZON`, by what each tool cost lately; of a tool that it does not know, or that
is slow, just what its free slots can begin now.  Work that turns out to wait for longer than
`PATIENCE` all the same (a slow tool behind a fast one) is handed back.

Pure: no clock, no database, no processes.
"""

from __future__ import annotations

from collections.abc import Sequence

HORIZON = 0.1  # seconds: what is leased should start within
PATIENCE = 0.25  # seconds: what is not expected to start within goes back
QUANTUM = 0.004  # seconds of work that are worth a message of their own
OVERHEAD = 15e-6  # seconds that a unit costs a child beside its tool
BATCH = 500  # units of one lease at most
AHEAD = 2 * BATCH  # units on loan and not finished, at most
ASYNC_LIMIT = 32  # async units that share a slot
_WEIGHT = 0.3


class Pace:
    """What a unit costs: seconds of a slot, averaged per tool and over the recent mix."""

    def __init__(self) -> None:
        self._cost: dict[bytes, float] = {}
        self._mean: float | None = None
        self._met: set[bytes] = set()
        self.shared: set[bytes] = set()  # tools that were seen to be async

    def learn(self, tool: bytes, units: int, seconds: float) -> None:
        """Take note that `units` of `tool` took `seconds` together."""
        cost = seconds / units + OVERHEAD
        if tool in self.shared:
            cost /= ASYNC_LIMIT
        weight = min(1.0, _WEIGHT * units)
        known = self._cost.get(tool)
        # A sudden slowness is believed at once, a sudden speed bit by bit: the error that
        # hoards other workers' work is the expensive one.
        if known is None or cost > 4 * known:
            self._cost[tool] = cost
        else:
            self._cost[tool] = known + weight * (cost - known)
        mean = self._mean
        self._mean = cost if mean is None else mean + weight * (cost - mean)

    def cost(self, tool: bytes) -> float | None:
        """Return the seconds of a slot that one unit takes; None: no idea."""
        return self._cost.get(tool)

    def meet(self, tools: set[bytes]) -> None:
        """Take note of what was leased: while a tool is unknown, nothing is leased ahead."""
        self._met = tools
        if not tools <= self._cost.keys():
            self._mean = None

    @property
    def all_shared(self) -> bool:
        """Was what was leased last all async?  Then the next probably is."""
        return bool(self._met) and self._met <= self.shared

    def want(self, slots: int, free: int, outstanding: int) -> int:
        """Return how many units to lease.

        Args:
            slots: children that work.
            free: those that could start a unit now, beyond what is already here.
            outstanding: units here that are not finished, started or not.
        """
        ahead = 0
        if self._mean is not None and self._mean < HORIZON:
            ahead = min(int(HORIZON * slots / self._mean), AHEAD) - outstanding
        return max(0, min(BATCH, max(free, ahead)))

    def share(self, waiting: int, free: int) -> float:
        """Return the seconds of work that one of `free` children should get of `waiting` units."""
        return max(QUANTUM, waiting * (self._mean or HORIZON) / max(free, 1))

    def surplus(self, tools: Sequence[bytes], slots: int) -> int:
        """Return the index in the local queue from which on work would wait too long."""
        left = PATIENCE * slots
        for index, tool in enumerate(tools):
            cost = self._cost.get(tool)
            if cost is None or cost > left:
                return index
            left -= cost
        return len(tools)
