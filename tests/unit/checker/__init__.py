"""Every violation that the checker must find; broken.py tells what one is."""

from tests.unit.checker import client, flow, schedules, system, units, witness
from tests.unit.checker.broken import VIOLATIONS, Break, Broken

__all__ = [
    "VIOLATIONS",
    "Break",
    "Broken",
    "client",
    "flow",
    "schedules",
    "system",
    "units",
    "witness",
]
