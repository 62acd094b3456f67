"""What the workers of a soak run: outputs of a size, and a unit that is too slow."""

from __future__ import annotations

import random
import time


def make(size: int) -> str:
    """Return text that does not compress."""
    return random.randbytes(size // 2).hex()


def work(seconds: float) -> str:
    """Take a while; past its timeout the child is killed, and another takes its place."""
    time.sleep(seconds)
    return "done"
