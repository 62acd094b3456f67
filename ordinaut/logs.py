"""
Log lines on stderr: the event first and its fields after, for people and journald, or JSON.

journald knows the time and takes the level from a prefix, "<4>": so a line of text has neither
there.  Each line of a traceback has a prefix of its own, because journald reads line by line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def to_journal() -> bool:
    """Say whether stderr leads to journald: systemd tells device and inode of its stream."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, none, or not a file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def with_priority(text: str, level: str) -> str:
    """Return `text` with the level in front of each line, as journald reads it."""
    return "\n".join(f"<{_PRIORITY.get(level, 6)}>{line}" for line in text.split("\n"))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _KNOWN}


def _plain(text: str, keep: str = "") -> str:
    """What others said must neither drive the terminal nor look like a line of ours."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {k}={v}" for k, v in _fields(record).items() if v not in ("", None))
        line = self.head(record) + _plain(record.getMessage() + fields)
        if record.exc_info:
            told = _plain("\n" + self.formatException(record.exc_info), keep="\n")
            line += told.replace("\n", "\n    ")
        return line

    def head(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} "


class _Bare(_Text):
    def head(self, record: logging.LogRecord) -> str:
        return ""


class _Journal(logging.Formatter):
    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return with_priority(self._inner.format(record), record.levelname)


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
    if to_journal():
        handler.setFormatter(_Journal(_Json() if style == "json" else _Bare()))
    else:
        handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
