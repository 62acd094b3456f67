"""
The faults: each is injected, kept up for a while, and healed, whatever happens meanwhile.

`@fault` names one by its function.  `scale` is 1 in a long run and less in a short one; a fault
that needs what this machine lacks raises Missing, is said and left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.lab import Lab

Fault = Callable[[Lab, random.Random, float], None]
FAULTS: dict[str, Fault] = {}


class Missing(Exception):
    """This machine cannot do that; the sentence says what it lacks."""


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


from tests.chaos.faults import demand, network, processes, server  # noqa: E402, F401
