"""
What an asynchronous failover may take with it.

A standby that is promoted lacks the last commits of the primary.  Where the history declares so,
what was done shortly before is not judged as lost in silence: it is named, either as an allowed
rerun (the witness or the tables show the work again) or as lost.
"""

from __future__ import annotations

from tests.chaos.history import History, Start
from tests.chaos.lives import Lives


def is_excused(history: History, at: float, after: float = 0) -> bool:
    """Whether a commit of this instant may be missing, by a declared asynchronous failover.

    Args:
        after: so many seconds after it, somebody may still go on with what was forgotten.
    """
    if not history.declares("async_failover"):
        return False
    window = history.bound("async_window_s", 5)
    return any(
        fault["t0"] - window <= at <= (fault.get("t1") or fault["t0"]) + after
        for fault in history.faults
        # A synchronous standby has all that was acknowledged.
        if ("promot" in fault["fault"] or "failover" in fault["fault"])
        and not fault["fault"].startswith("sync")
    )


def is_lost_attempt(history: History, lives: Lives, start: Start) -> bool:
    """Whether the lease under which this ran was forgotten by a declared failover."""
    # Its worker finds out by a heartbeat, at the latest when its ttl is over.
    if not is_excused(history, start.rt, float(history.config.get("lease_ttl") or 60)):
        return False
    unit = lives.by_work.get(start.work)
    return unit is None or start.token not in unit.tokens()
