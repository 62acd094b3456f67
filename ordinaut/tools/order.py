"""What a payload of http asks for, checked before anything is sent."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from ordinaut import duration
from ordinaut.tools.errors import ToolFailed

_KEYS = {
    "method", "url", "headers", "params", "json", "body", "timeout", "retry_on", "expect"
}  # fmt: skip
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
# Who may set these could talk to another host than the one that was checked, or smuggle a request.
_OURS = {
    "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
    "keep-alive", "expect", "proxy-authorization", "proxy-connection", "accept-encoding",
}  # fmt: skip
_RETRYABLE = {408, 425, 429, *range(500, 600)}


class Order:
    """What a payload asks for, checked."""

    def __init__(self, payload: Any, timeout: float, limit: int) -> None:
        if not isinstance(payload, dict):
            raise ToolFailed("the payload of http is an object with a url", "E2001")
        if unknown := payload.keys() - _KEYS:
            raise ToolFailed(f"{min(unknown)}: http knows no such field", "E2002")
        url = payload.get("url")
        if not isinstance(url, str) or not url:
            raise ToolFailed("url: a text", "E2003")
        self.url = url
        sends = payload.get("json") is not None or payload.get("body") is not None
        method = payload.get("method") or ("POST" if sends else "GET")
        self.method = method.upper() if isinstance(method, str) else ""
        if self.method not in METHODS:
            raise ToolFailed(f"method: one of {', '.join(sorted(METHODS))}", "E2002")
        self.headers = _headers(payload.get("headers"))
        self.params = _params(payload.get("params"))
        self.body = _body(payload, self.headers)
        self.expect = _statuses("expect", payload.get("expect"), set(range(200, 300)))
        self.retry_on = _statuses("retry_on", payload.get("retry_on"), _RETRYABLE)
        wanted = payload.get("timeout")
        seconds = _seconds(timeout if wanted is None else wanted)
        # Sooner than the parent's kill, which would cost the whole child.
        own = limit * 0.9 / 1e6 if limit else seconds
        self.until = time.monotonic() + min(seconds, own)
        self.late_code = "E1002" if seconds <= own else "E6001"

    def left(self) -> float:
        return max(0.001, self.until - time.monotonic())


def _headers(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ToolFailed("headers: an object of texts", "E2002")
    for name, value in given.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise ToolFailed(f"headers: {name[:100]!r} cannot be set", "E2002")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            # Not the value itself, which may be a secret.
            raise ToolFailed(f"headers: {name}: a text of one line, in ASCII", "E2002")
    return dict(given)


def _params(given: Any) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(
        isinstance(item, plain)
        for value in given.values()
        for item in (value if isinstance(value, list) else [value])
    ):
        raise ToolFailed("params: an object of texts and numbers, or lists of them", "E2002")
    return {name: value for name, value in given.items() if value is not None}


def _body(payload: dict[str, Any], headers: dict[str, str]) -> bytes | None:
    value, text = payload.get("json"), payload.get("body")
    if value is not None and text is not None:
        raise ToolFailed("json and body: only one of them", "E2002")
    if value is not None:
        if not any(name.lower() == "content-type" for name in headers):
            headers["content-type"] = "application/json"
        return json.dumps(value, ensure_ascii=False).encode()
    if text is not None and not isinstance(text, str):
        raise ToolFailed("body: a text; an object goes into json", "E2002")
    return None if text is None else text.encode()


def _statuses(name: str, given: Any, default: set[int]) -> set[int]:
    if given is None:
        return default
    found: set[int] = set()
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, int) and not isinstance(one, bool) and 100 <= one < 600:
            found.add(one)
        elif isinstance(one, str) and re.fullmatch(r"[1-5]xx", one.lower()):
            found |= set(range(int(one[0]) * 100, int(one[0]) * 100 + 100))
        else:
            raise ToolFailed(f'{name}: statuses like 404 or "5xx"', "E2002")
    return found


def _seconds(given: Any) -> float:
    found: Any = given
    if isinstance(given, str):
        try:
            found = duration.seconds(given)
        except ValueError:
            found = None
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found <= 86_400:
        raise ToolFailed("timeout: seconds, or a text like 10 s, up to a day", "E2002")
    return float(found)
