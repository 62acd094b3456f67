"""
Errors are classified where they are raised, by class, and in SQL, by text: with one result.

The tables of ordinaut/tools/errors.py and of sql/classify.sql are the same, and every exception
that this Python and psycopg know gets one code from both.
"""

from __future__ import annotations

import builtins
import errno
import http.client
import io
import json
import socket
import subprocess
import urllib.error
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from ordinaut.tools import errors
from ordinaut.tools.errors import Permanent, Retry, ToolFailed


def table(conn: psycopg.Connection[Any], kind: str) -> dict[str, str]:
    rows = conn.execute(
        "select c.pattern, c.code from ordinaut.error_class as c where c.kind = %s", [kind]
    )
    return dict(rows.fetchall())


def classified(conn: psycopg.Connection[Any], **said: str) -> tuple[Any, ...]:
    named = ", ".join(f"p_{name} => %({name})s" for name in said)
    row = conn.execute(f"select * from ordinaut.classify_error({named})", said).fetchone()
    assert row is not None
    return row


def test_the_tables_of_sql_and_python_are_the_same(conn):
    assert table(conn, "sqlstate") == errors._SQLSTATES
    assert table(conn, "type") == errors._TYPES
    categories = conn.execute(
        "select c.digit, c.category, c.is_retryable from ordinaut.error_category as c"
    ).fetchall()
    assert {digit: name for digit, name, _ in categories} == errors.CATEGORIES
    assert {name for _, name, again in categories if not again} == errors._HOPELESS


def test_every_sqlstate_has_one_code_in_both(conn):
    known = {getattr(kind, "sqlstate", None) for kind in vars(pg).values()}
    states = sorted(state for state in known if isinstance(state, str))
    assert len(states) > 200
    rows = conn.execute(
        "select s, ordinaut._error_code(null, null, s) from unnest(%s::text[]) as s", [states]
    ).fetchall()
    assert dict(rows) == {state: errors.by_sqlstate(state) for state in states}


def _made(kind: type[BaseException]) -> BaseException:
    """An exception with as few arguments as it takes: only its class is asked."""
    if kind is urllib.error.HTTPError:
        return urllib.error.HTTPError("", 404, "", http.client.HTTPMessage(), io.BytesIO())
    if kind.__name__ == "ExceptionGroup":
        return ExceptionGroup("", [ValueError()])
    return kind.__new__(kind)


KNOWN = [
    *(k for k in vars(builtins).values() if isinstance(k, type) and issubclass(k, Exception)),
    socket.gaierror, socket.herror, json.JSONDecodeError, subprocess.TimeoutExpired,
    urllib.error.URLError, urllib.error.HTTPError, http.client.RemoteDisconnected,
    http.client.IncompleteRead, psycopg.OperationalError, psycopg.InterfaceError, ToolFailed,
]  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN, ids=lambda k: k.__name__)
def test_every_well_known_exception_has_one_code_in_both(conn, kind):
    exc = ToolFailed() if kind is ToolFailed else _made(kind)
    for name in (kind.__qualname__, f"some.module.{kind.__qualname__}"):
        category, _, code, _, retryable = classified(conn, type=name)
        assert (category, code, retryable) == errors.classify(exc), name


@pytest.mark.parametrize(
    ("said", "category", "severity", "code", "recoverable", "retryable"),
    [
        ({"type": "ConnectionError"}, "network", "medium", "E1001", True, True),
        ({"type": "httpx.ConnectTimeout"}, "network", "medium", "E1002", True, True),
        ({"type": "requests.exceptions.Timeout"}, "network", "medium", "E1002", True, True),
        ({"type": "TimeoutError"}, "timeout", "medium", "E6001", True, True),
        ({"type": "asyncio.TimeoutError"}, "timeout", "medium", "E6001", True, True),
        ({"type": "ValueError"}, "validation", "high", "E2002", False, False),
        ({"type": "MemoryError"}, "resource", "high", "E3001", True, True),
        ({"type": "PermissionError"}, "permission", "high", "E8001", False, False),
        ({"type": "SurpriseError"}, "internal", "critical", "E5002", True, True),
        ({"type": "E7002"}, "configuration", "high", "E7002", False, False),
        ({"type": "E4002"}, "external_service", "medium", "E4002", True, True),
        ({"sqlstate": "08006"}, "internal", "critical", "E5001", True, True),
        ({"sqlstate": "40001"}, "internal", "critical", "E5003", True, True),
        ({"sqlstate": "40P01"}, "internal", "critical", "E5003", True, True),
        ({"sqlstate": "53300"}, "resource", "high", "E3004", True, True),
        ({"sqlstate": "53100"}, "resource", "high", "E3002", True, True),
        ({"sqlstate": "57014"}, "timeout", "medium", "E6001", True, True),
        ({"sqlstate": "57P01"}, "internal", "critical", "E5001", True, True),
        ({"sqlstate": "22012"}, "validation", "high", "E2002", False, False),
        ({"sqlstate": "23505"}, "validation", "high", "E2002", False, False),
        ({"sqlstate": "42501"}, "permission", "high", "E8001", False, False),
        ({"sqlstate": "28P01"}, "permission", "high", "E8002", False, False),
        # The SQLSTATE rules over the name, the name over the text.
        ({"type": "ValueError", "sqlstate": "40001"}, "internal", "critical", "E5003", True, True),
        ({"type": "ValueError", "message": "timed out"}, "validation", "high", "E2002", False,
         False),
        ({"type": "RuntimeError", "message": "timed out"}, "timeout", "medium", "E6001", True,
         True),
        ({"message": "429 Too Many Requests"}, "external_service", "medium", "E4002", True, True),
        ({"message": "HTTP 503: Service Unavailable"}, "external_service", "medium", "E4003",
         True, True),
        ({"message": "Invalid API key"}, "external_service", "medium", "E4001", True, True),
        ({"message": "connection refused"}, "network", "medium", "E1001", True, True),
        ({"message": "connect timed out"}, "network", "medium", "E1002", True, True),
        ({"message": "No route to host"}, "network", "medium", "E1003", True, True),
        ({"message": "queue wait timed out"}, "timeout", "medium", "E6002", True, True),
        ({"message": "No space left on device"}, "resource", "high", "E3002", True, True),
        ({"message": "queue is full"}, "resource", "high", "E3004", True, True),
        ({"message": "field name is required"}, "validation", "high", "E2003", False, False),
        ({"message": "not valid JSON"}, "validation", "high", "E2001", False, False),
        ({"message": "invalid literal"}, "validation", "high", "E2002", False, False),
        ({"message": "missing setting X"}, "configuration", "high", "E7001", False, False),
        ({"message": "bad configuration"}, "configuration", "high", "E7002", False, False),
        ({"message": "Permission denied"}, "permission", "high", "E8001", False, False),
        ({"message": "401 Unauthorized"}, "permission", "high", "E8002", False, False),
        ({"message": ""}, "internal", "critical", "E5002", True, True),
        ({}, "internal", "critical", "E5002", True, True),
    ],
)  # fmt: skip
def test_text_is_classified(conn, said, category, severity, code, recoverable, retryable):
    assert classified(conn, **said) == (category, severity, code, recoverable, retryable)


def test_an_error_that_says_its_class_keeps_it(conn):
    def class_of(error: dict[str, Any]) -> tuple[Any, ...]:
        row = conn.execute(
            "select c.category, c.code, c.retryable from ordinaut._class_of(%s) as c",
            [json.dumps(error)],
        ).fetchone()
        assert row is not None
        return row

    for exc in (Retry("busy"), Permanent("no"), ValueError("x"), OSError(errno.ENOSPC, "")):
        _, stored = errors.describe(exc)
        fault = errors.classify(exc)
        assert class_of(json.loads(stored)) == (fault.category, fault.code, fault.retryable)
    assert class_of({"category": "network", "message": "?"}) == ("network", "E1000", True)
    assert class_of({"category": "network", "retryable": False})[2] is False
    assert class_of({"category": "crash", "message": "killed"})[0] == "internal"
    assert class_of({"message": "connection reset by peer"})[:2] == ("network", "E1001")
