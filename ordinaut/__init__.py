"""
Ordinaut: a scheduler, job queue and workflow engine that lives in PostgreSQL.

Public names, and nothing else.  They are imported on first use (PEP 562): runner children start
by exec, hundreds of times, and must not pay for psycopg, pydantic and typer to read a version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ordinaut.version import __version__

if TYPE_CHECKING:
    from ordinaut.client import Ordinaut
    from ordinaut.errors import (
        ConfigurationError,
        Conflict,
        IllegalTransition,
        LeaseLost,
        NotFound,
        OrdinautError,
        RunCancelled,
        RunFailed,
        RunTimedOut,
        VersionSkew,
        WaitTimeout,
        WorkCancelled,
        WorkerUnknown,
        WrongState,
    )
    from ordinaut.tools.errors import Permanent, Retry, Snooze
    from ordinaut.tools.registry import Context, tool

_HOME = {
    "Ordinaut": "ordinaut.client",
    "Context": "ordinaut.tools.registry",
    "Permanent": "ordinaut.tools.errors",
    "Retry": "ordinaut.tools.errors",
    "Snooze": "ordinaut.tools.errors",
    "tool": "ordinaut.tools.registry",
}

__all__ = [
    "ConfigurationError",
    "Conflict",
    "Context",
    "IllegalTransition",
    "LeaseLost",
    "NotFound",
    "Ordinaut",
    "OrdinautError",
    "Permanent",
    "Retry",
    "RunCancelled",
    "RunFailed",
    "RunTimedOut",
    "Snooze",
    "VersionSkew",
    "WaitTimeout",
    "WorkCancelled",
    "WorkerUnknown",
    "WrongState",
    "__version__",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ordinaut' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "ordinaut.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
