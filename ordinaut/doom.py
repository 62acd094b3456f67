"""Why a child dies, and which of its units is to blame."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Doom:
    """Why a child is being killed, and what becomes of the unit that caused it."""

    outcome: str | None  # None: nobody wants to know, the lease is lost
    work_id: bytes | None
    message: str

    def error(self) -> bytes:
        """Return the error of the unit that is to blame, as JSON."""
        kind = {"timed_out": "Timeout", "cancelled": "Cancelled"}.get(self.outcome or "")
        category = {"timed_out": "timeout", "cancelled": "cancelled"}.get(self.outcome or "")
        return json.dumps(
            {
                "message": self.message,
                "type": kind or "ChildDied",
                "category": category or "crash",
                "code": self.outcome,
                "retryable": self.outcome != "cancelled",
                "retry_after": None,
                "traceback": None,
            }
        ).encode()


def guilty(doom: Doom | None, running: bytes | None, shared: set[bytes]) -> set[bytes]:
    """Say which units are charged with the end of their child.

    `shared` ran together on its event loop: it was one of them, and nobody can tell which.
    """
    if doom is not None and doom.work_id is not None:
        return {doom.work_id}
    return {running} if running is not None else shared
