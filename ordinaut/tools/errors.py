"""
What went wrong, in the words that retries are decided by: a category, a code, worth another try?

    network           E1001 connection failed  E1002 timeout  E1003 unreachable      retryable
    validation        E2001 invalid structure  E2002 invalid input  E2003 missing    not
    resource          E3001 memory  E3002 disk  E3004 too many connections           retryable
    external_service  E4003 unavailable  E4004 the tool failed                       retryable
    internal          E5001 database connection  E5002 internal  E5003 processing    retryable
    timeout           E6001 execution timeout                                        retryable
    configuration     E7001 missing  E7002 invalid                                   not
    permission        E8001 insufficient  E8002 unauthorized                         not

A tool that knows better raises `Retry`, `Snooze` or `Permanent`.

sql/classify.sql has the same tables, for errors that come as text; a test compares them.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ordinaut.tools import output

_MESSAGE = 4_000  # characters kept
_TRACEBACK = 16_000

CATEGORIES = {
    "1": "network",
    "2": "validation",
    "3": "resource",
    "4": "external_service",
    "5": "internal",
    "6": "timeout",
    "7": "configuration",
    "8": "permission",
}
_HOPELESS = {"validation", "configuration", "permission"}

# Of a SQLSTATE, the longest beginning decides.
_SQLSTATES = {
    "08": "E5001",
    "0A": "E2001",
    "22": "E2002",
    "23": "E2002",
    "25006": "E5001",  # read-only: a standby; the next connection finds the primary
    "25P03": "E6001",
    "28": "E8002",
    "3D": "E7001",
    "40": "E5003",
    "42": "E2001",
    "42501": "E8001",
    "53": "E3004",
    "53100": "E3002",
    "53200": "E3001",
    "54": "E2002",
    "55P03": "E5003",
    "57014": "E6001",
    "57P": "E5001",
    "OR001": "E5003",
}
# Of an exception and its bases, the first that is named here decides.
_NAMES = {
    "E1001": (
        "ConnectionError ConnectionRefusedError ConnectionResetError "
        "ConnectionAbortedError BrokenPipeError IncompleteReadError RemoteDisconnected "
        "IncompleteRead ServerDisconnectedError ClientConnectionError NetworkError "
        "ConnectError ReadError WriteError CloseError RemoteProtocolError ProxyError "
        "SSLError ChunkedEncodingError NewConnectionError ProtocolError URLError "
        "gaierror herror"
    ),
    "E1003": "NameResolutionError",
    "E1002": (
        "ConnectTimeout ReadTimeout WriteTimeout Timeout TimeoutException "
        "ConnectTimeoutError ReadTimeoutError"
    ),
    "E3004": "PoolTimeout",
    "E4003": "TooManyRedirects",
    "E4004": "HTTPStatusError HTTPError ToolFailed Retry Permanent",
    "E6001": "TimeoutError TimeoutExpired",
    "E2002": (
        "ValueError UnicodeError UnicodeDecodeError UnicodeEncodeError "
        "UnicodeTranslateError JSONDecodeError InvalidURL NotStorable UnstorableResult"
    ),
    "E2001": "ValidationError",
    "E3001": "MemoryError",
    "E8001": "PermissionError",
    "E5001": "OperationalError InterfaceError",
}
_TYPES = {name: code for code, names in _NAMES.items() for name in names.split()}
_ERRNOS = {
    errno.ENOMEM: "E3001",
    errno.ENOSPC: "E3002",
    errno.EDQUOT: "E3002",
    errno.EHOSTUNREACH: "E1003",
    errno.ENETUNREACH: "E1003",
}


class Verdict(Exception):
    """How a unit ends that neither succeeds nor fails: `skipped`, or `waiting` for something.

    Attributes:
        output, error: JSON, for the database.
    """

    def __init__(
        self, outcome: str, *, output: bytes | None = None, error: bytes | None = None
    ) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.output = output
        self.error = error


class Fault(NamedTuple):
    """The class of an error."""

    category: str
    code: str
    retryable: bool


class ToolFailed(Exception):
    """A failure with a class of its own and no traceback: its message says it all.

    Attributes:
        code: one of this module's codes.
        retryable: None lets the code decide.
        after: seconds until the next attempt; None: the backoff of the work's policy.
    """

    def __init__(
        self,
        message: str = "",
        code: str = "E4004",
        *,
        retryable: bool | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.after = None if after is None else max(0.0, after)


class Retry(ToolFailed):
    """Fail this attempt, and try again after a wait of the tool's choosing.

    Args:
        after: seconds; None: the backoff of the work's policy.
    """

    def __init__(self, message: str = "the tool asks for a retry", after: float | None = None):
        super().__init__(message, retryable=True, after=after)


class Permanent(ToolFailed):
    """Fail for good: no further attempt can help."""

    def __init__(self, message: str = "the tool says that a retry cannot help"):
        super().__init__(message, retryable=False)


class Snooze(Exception):
    """Do this work later; charges no attempt.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float, note: str = "") -> None:
        super().__init__(note)
        self.seconds = max(0.0, seconds)


def classify(exc: BaseException) -> Fault:
    """Return the class of an exception."""
    code = _code(exc)
    category = CATEGORIES[code[1]]
    retryable = category not in _HOPELESS
    if isinstance(exc, ToolFailed) and exc.retryable is not None:
        retryable = exc.retryable
    return Fault(category, code, retryable)


def by_sqlstate(sqlstate: str) -> str:
    """Return the code for a SQLSTATE."""
    for size in (5, 3, 2):
        if code := _SQLSTATES.get(sqlstate[:size]):
            return code
    return "E5002"


def describe(exc: BaseException) -> tuple[str, bytes]:
    """Return the outcome of a unit whose tool raised `exc`, and its error as JSON."""
    if isinstance(exc, Snooze):
        wait: dict[str, object] = {"retry_after": exc.seconds, "message": str(exc) or None}
        return "snoozed", output.dump(wait)
    fault = classify(exc)
    error = {
        "message": message(exc)[:_MESSAGE],
        "type": type(exc).__qualname__,
        "category": fault.category,
        "code": fault.code,
        "retryable": fault.retryable,
        "retry_after": exc.after if isinstance(exc, ToolFailed) else None,
        "traceback": None if isinstance(exc, ToolFailed) else _traceback(exc),
    }
    cancelled = getattr(exc, "sqlstate", None) == "OR002"
    return "cancelled" if cancelled else "failed", output.dump(error)


def message(exc: BaseException) -> str:
    """Return what an exception says, or at least its name; nothing it does can raise."""
    if isinstance(exc, SystemExit):
        return f"the tool called exit({exc.code!r})"
    try:
        # Redacted before it is cut: half a secret is no longer recognised.
        return output.redact(str(exc)) or type(exc).__qualname__
    except Exception as broken:
        return f"{type(exc).__qualname__}, and its text cannot be had: {type(broken).__qualname__}"


def _code(exc: BaseException) -> str:
    if isinstance(exc, ToolFailed):
        return exc.code
    sqlstate = getattr(exc, "sqlstate", None)
    if isinstance(sqlstate, str) and len(sqlstate) == 5:
        return by_sqlstate(sqlstate)
    for kind in type(exc).__mro__:
        # By name: most of these libraries are not installed, and none need be imported.
        if code := _TYPES.get(kind.__name__):
            return code
    return _ERRNOS.get(exc.errno or 0, "E5002") if isinstance(exc, OSError) else "E5002"


def _traceback(exc: BaseException) -> str:
    import traceback

    frames = exc.__traceback__
    while frames is not None and _ours(frames.tb_frame.f_globals.get("__name__", "")):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(exc), exc, frames)
    except Exception:  # a __str__ that raises
        lines = traceback.format_tb(frames)
    return output.redact("".join(lines))[-_TRACEBACK:]


def _ours(module: str) -> bool:
    return module in ("__main__", "ordinaut.runner") or module.startswith("ordinaut.tools.")
