"""
fail: fail a number of times, then succeed.  To see retries, and to test what watches them.

    times      failures before the success; default 1
    message    of each failure
    retryable  false: the first failure is the last
"""

from __future__ import annotations

import json

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed


def fail(unit: wire.Unit) -> bytes:
    """Raise while the unit has failed less than `times`; then return {"failures": n}."""
    payload = json.loads(unit[wire.PAYLOAD])
    if not isinstance(payload, dict):
        raise ToolFailed("the payload of fail is an object", "E2001")
    times = payload.get("times", 1)
    if not isinstance(times, int):
        raise ToolFailed("times: a whole number", "E2002")
    failures = unit[wire.FAILURES]
    if failures < times:
        message = payload.get("message") or f"failure {failures + 1} of {times}, as asked"
        raise ToolFailed(str(message), retryable=bool(payload.get("retryable", True)))
    return output.dump({"failures": failures})
