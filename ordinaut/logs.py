"""Log lines on stderr: the event first and its fields after, for people and journald, or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _KNOWN}


def _plain(text: str, keep: str = "") -> str:
    """What others said must neither drive the terminal nor look like a line of ours."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = self.formatTime(record, "%H:%M:%S")
        fields = "".join(f" {k}={v}" for k, v in _fields(record).items() if v not in ("", None))
        line = f"{at} {record.levelname:<7} {_plain(record.getMessage() + fields)}"
        if record.exc_info:
            told = _plain("\n" + self.formatException(record.exc_info), keep="\n")
            line += told.replace("\n", "\n    ")
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def logging_to_stderr(level: str, style: str) -> None:
    """Send log lines of at least `level` to stderr, in style "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
