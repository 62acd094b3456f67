"""Tools of the templates that come with the kit: small, pure, and known to every inline worker."""

from __future__ import annotations

import math
from typing import Any


def square(n: int) -> int:
    """Return n squared."""
    return n * n


def multiply(factors: list[int], squared: bool = False) -> int:
    """Return the product of numbers, or its square."""
    product = math.prod(factors)
    return product * product if squared else product


def require(value: Any, message: str = "a value is missing") -> Any:
    """Return the value, unless it is null, false or empty.

    Raises:
        ValueError: it is; no retry can help.
    """
    if not value:
        raise ValueError(message)
    return value
