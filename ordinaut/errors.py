"""
Every error that Ordinaut raises on purpose.

    psycopg.errors.DatabaseError
      OrdinautError              SQLSTATE class OR, raised by functions of the schema
        LeaseLost        OR001   stop: drop the result
        WorkCancelled    OR002   stop: somebody cancelled the run
        IllegalTransition OR010  a bug: the state machine says no
        NotFound         OR020   no such task, run or work
        WorkerUnknown    OR022   register again, with a new id
        Conflict         OR030   the name is taken
        WrongState       OR031   the task's state does not allow this
        VersionSkew      OR090   another API: exit 75
    Exception
      ConfigurationError         a setting or a manifest is wrong: exit 78
      RunFailed                  what Ordinaut.wait() raises for a run that ended badly
        RunCancelled, RunTimedOut
      WaitTimeout                the run had not ended in time; nothing is wrong with it

Declaring `code=` puts a class into psycopg's own table of SQLSTATEs, so psycopg raises it by
itself, with `diag.message_hint` and `diag.message_detail` intact.  That table is undocumented;
a test pins it, and pins this list to the view ordinaut.error_code.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import Error, errors


class OrdinautError(errors.DatabaseError):
    """Anything raised on purpose by a function in the ordinaut schema."""


class LeaseLost(OrdinautError, code="OR001"):
    """The caller does not hold this lease: it was reaped, or settled already.

    Discard the result.  Repeating the call cannot help; the work is done again by whoever
    leases it next.
    """


class WorkCancelled(OrdinautError, code="OR002"):
    """Somebody asked for this run to be cancelled while it was on loan.  Stop working on it."""


class IllegalTransition(OrdinautError, code="OR010"):
    """A statement tried a change of state that ordinaut.legal_transition lacks."""


class NotFound(OrdinautError, code="OR020"):
    """No such task, run or work, or the tail of an id that several of them share."""


class WorkerUnknown(OrdinautError, code="OR022"):
    """The worker has no row: it was reaped, and so was all it held.

    Drop every lease and register again under a new id.
    """


class Conflict(OrdinautError, code="OR030"):
    """The name is taken."""


class WrongState(OrdinautError, code="OR031"):
    """The task is paused, cancelled or completed, and the call needs an active one."""


class VersionSkew(OrdinautError, code="OR090"):
    """The database speaks another API than this wheel.  Exit 75 and come back upgraded."""


class ConfigurationError(Exception):
    """A setting or a manifest is wrong.  Trying again only repeats it: exit 78.

    Attributes:
        hint: what to do, or empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RunFailed(Exception):
    """The run ended without success.

    Attributes:
        run_id: which one.
        state: failed, abandoned, cancelled or timed_out.
        error: the error as the tool or the engine stored it; None if it stored none.
    """

    def __init__(self, run_id: UUID, state: str, error: Any = None) -> None:
        detail = error.get("message") if isinstance(error, dict) else error
        super().__init__(f"run {run_id} {state}" + (f": {detail}" if detail else ""))
        self.run_id = run_id
        self.state = state
        self.error = error


class RunCancelled(RunFailed):
    """Somebody cancelled the run."""


class RunTimedOut(RunFailed):
    """The last attempt exceeded its own timeout."""


class WaitTimeout(TimeoutError):
    """The run had not ended when the caller stopped waiting.  It goes on; wait again."""


def sentence(exc: Exception) -> str:
    """Return what went wrong in one line: no DETAIL, no CONTEXT, no second host."""
    said = exc.diag.message_primary if isinstance(exc, Error) else None
    return (said or str(exc).strip() or type(exc).__name__).splitlines()[0]
