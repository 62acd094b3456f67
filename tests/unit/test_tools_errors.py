"""An error's class decides whether it is tried again; the taxonomy is the table in errors.py."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import psycopg
import pytest

from ordinaut.errors import LeaseLost, WorkCancelled
from ordinaut.tools import errors, output
from ordinaut.tools.errors import Permanent, Retry, Snooze, ToolFailed


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("exc", "code", "category", "retryable"),
    [
        (ConnectionError(), "E1001", "network", True),
        (ConnectionRefusedError(), "E1001", "network", True),
        (socket.gaierror(), "E1001", "network", True),
        (OSError(errno.ENETUNREACH, ""), "E1003", "network", True),
        (TimeoutError(), "E6001", "timeout", True),
        (TimeoutError(), "E6001", "timeout", True),
        (OSError(errno.ETIMEDOUT, ""), "E6001", "timeout", True),
        (ValueError(), "E2002", "validation", False),
        (output.NotStorable(), "E2002", "validation", False),
        (MemoryError(), "E3001", "resource", True),
        (OSError(errno.ENOSPC, ""), "E3002", "resource", True),
        (PermissionError(), "E8001", "permission", False),
        (OSError("sensor"), "E5002", "internal", True),
        (KeyError("x"), "E5002", "internal", True),
        (SystemExit(3), "E5002", "internal", True),
        (ToolFailed("x"), "E4004", "external_service", True),
        (ToolFailed("x", "E7001"), "E7001", "configuration", False),
        (ToolFailed("x", "E7001", retryable=True), "E7001", "configuration", True),
        (Retry(), "E4004", "external_service", True),
        (Permanent(), "E4004", "external_service", False),
        (psycopg.OperationalError("lost"), "E5001", "internal", True),
        (psycopg.errors.AdminShutdown(), "E5001", "internal", True),
        (psycopg.errors.ConnectionFailure(), "E5001", "internal", True),
        (psycopg.errors.SerializationFailure(), "E5003", "internal", True),
        (psycopg.errors.DeadlockDetected(), "E5003", "internal", True),
        (psycopg.errors.LockNotAvailable(), "E5003", "internal", True),
        (psycopg.errors.OutOfMemory(), "E3001", "resource", True),
        (psycopg.errors.DiskFull(), "E3002", "resource", True),
        (psycopg.errors.TooManyConnections(), "E3004", "resource", True),
        (psycopg.errors.QueryCanceled(), "E6001", "timeout", True),
        (psycopg.errors.NumericValueOutOfRange(), "E2002", "validation", False),
        (psycopg.errors.UniqueViolation(), "E2002", "validation", False),
        (psycopg.errors.UndefinedTable(), "E2001", "validation", False),
        (psycopg.errors.InsufficientPrivilege(), "E8001", "permission", False),
        (psycopg.errors.InvalidPassword(), "E8002", "permission", False),
        (LeaseLost(), "E5003", "internal", True),
        (psycopg.errors.InternalError_(), "E5002", "internal", True),
    ],
)
def test_every_exception_has_a_class(
    exc: BaseException, code: str, category: str, retryable: bool
) -> None:
    assert errors.classify(exc) == (category, code, retryable)


def described(exc: BaseException) -> tuple[str, dict[str, Any]]:
    try:
        raise exc
    except BaseException as caught:
        outcome, error = errors.describe(caught)
    return outcome, json.loads(error)


def test_an_error_keeps_its_message_type_and_the_end_of_its_traceback() -> None:
    outcome, error = described(KeyError("x" * 50_000))

    assert outcome == "failed"
    assert error["type"] == "KeyError"
    assert len(error["message"]) == 4_000
    assert len(error["traceback"]) == 16_000


def test_a_message_that_cannot_be_stored_or_had_is_replaced() -> None:
    assert described(RuntimeError("a\0b\ud800"))[1]["message"] == "a\ufffdb\ufffd"
    assert "cannot be had" in described(Mute())[1]["message"]
    assert described(RuntimeError())[1]["message"] == "RuntimeError"
    assert described(SystemExit(3))[1]["message"] == "the tool called exit(3)"


@pytest.mark.parametrize(("after", "stored"), [(5, 5), (None, None), (-1, 0), (float("nan"), 0)])
def test_a_tool_chooses_when_to_be_tried_again(after: float | None, stored: float | None) -> None:
    outcome, error = described(Retry("busy", after=after))

    assert outcome == "failed"
    assert error["retry_after"] == stored


def test_a_snooze_is_no_failure_and_a_cancel_is_a_cancel() -> None:
    assert described(Snooze(90, "later")) == ("snoozed", {"retry_after": 90, "message": "later"})
    assert described(WorkCancelled())[0] == "cancelled"


def test_secrets_are_masked_before_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_secrets", [])
    output.register_secret("hunter2")

    error = described(RuntimeError("x" * 3_996 + "hunter2"))[1]

    assert "hunt" not in json.dumps(error)
