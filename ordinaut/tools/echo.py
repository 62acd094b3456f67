"""echo: the payload is the output.  To try things out, and to measure what the rest costs."""

from __future__ import annotations

from ordinaut import wire


def echo(unit: wire.Unit) -> bytes:
    """Return the payload as it came; a secret in it stays a reference."""
    payload: bytes = unit[wire.PAYLOAD]
    return payload
