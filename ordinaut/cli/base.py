"""What the commands share: settings, one connection, tables for people and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ordinaut import db, embedded, schema
from ordinaut.errors import ConfigurationError
from ordinaut.logs import to_journal, with_priority
from ordinaut.settings import Settings, mask

COLOURS = {
    "success": "green", "active": "green", "ok": "green", "created": "green", "ready": "green",
    "running": "cyan", "pending": "cyan", "updated": "cyan", "new": "cyan", "live": "green",
    "failed": "red", "timed_out": "red", "abandoned": "red", "fail": "red", "invalid": "red",
    "fired": "green", "missed": "red", "dropped": "red", "skipped": "yellow", "buffered": "cyan",
    "excluded": "yellow", "dead": "red", "cancelled": "yellow", "paused": "yellow",
    "parked": "yellow", "warn": "yellow", "complete": "green", "resolved_manually": "green",
    "in_progress": "cyan", "error": "red", "waiting_for_retry": "yellow",
    "closed": "green", "half_open": "yellow", "open": "red", "busy": "yellow", "stuck": "yellow",
    "info": "cyan",
}  # fmt: skip


UNAVAILABLE = 69  # the exit code for a database that cannot be reached


class State:
    """What the global options said, and what follows from them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, dsn: str | None = None, json: bool = False) -> None:
        self._given_dsn = dsn
        self.json = json
        self._settings: Settings | None = None
        self._conn: db.Connection | None = None

    def settings(self, **given: Any) -> Settings:
        """Read the settings, `given` being further options of the command line."""
        if self._settings is None or given:
            self._settings = Settings.load(dsn=self._given_dsn, **given)
        return self._settings

    def dsn(self) -> str:
        """The configured database, else the one that `ordinaut dev` runs in this directory."""
        settings = self.settings()
        if settings.dsn is None and (running := embedded.running_dsn(settings.data)):
            return running
        return settings.need_dsn()

    def where(self) -> str:
        try:
            return mask(self.dsn())
        except ConfigurationError:
            return "none"

    def connect(self, check: bool = True) -> db.Connection:
        """Return the command's connection, checked to lead to a usable Ordinaut."""
        if self._conn is None:
            self._conn = db.connect(self.dsn(), name="ordinaut-cli", pooled=self.settings().pooled)
            if check:
                schema.check_api(self._conn)
        return self._conn

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


state = State()


def console(stderr: bool = False) -> Console:
    """A console that takes text for text: no markup, no emoji, and no folding in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def complain(message: str, hint: str, code: int) -> int:
    """Print an error for a person, or for a program, and return `code`."""
    if state.json:
        said = {"error": message, "hint": hint or None, "exit": code}
        if code == UNAVAILABLE:
            said["status"] = "unavailable"
        print(json.dumps(said), file=sys.stderr)
        return code
    if to_journal():
        text = clean(f"{message}\n{hint}".strip())
        print(with_priority(text, "ERROR"), file=sys.stderr)
        return code
    out = console(stderr=True)
    out.print(Text("error: ", style="bold red") + Text(clean(message)), soft_wrap=True)
    if hint:
        out.print(Text("  " + clean(hint)), soft_wrap=True)
    return code


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def answer(value: Any, text: str = "") -> None:
    """Print one answer: `text` for a person, all of `value` for a program."""
    if state.json:
        print(json.dumps(plain(value), indent=2, ensure_ascii=False))
    else:
        console().print(clean(text), soft_wrap=True)


def table(
    rows: Sequence[Any], columns: Sequence[tuple[str, str]], empty: str, style: str = "state"
) -> None:
    """Print rows (dataclasses or dictionaries): the named columns, or all of them as JSON.

    Args:
        columns: (field, heading).
        empty: what to say to a person when there are no rows.
        style: the field whose words have colours.
    """
    if state.json:
        print(json.dumps([plain(row) for row in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        console().print(empty)
        return
    console().print(grid(rows, columns, style))


def grid(rows: Iterable[Any], columns: Sequence[tuple[str, str]], style: str = "state") -> Table:
    out = Table(box=None, pad_edge=False, header_style="bold")
    for field, heading in columns:
        short = field.endswith("_id") or field in (style, "queue")
        out.add_column(heading, no_wrap=short, overflow="fold")
    for row in rows:
        out.add_row(*(cell(field, _get(row, field), field == style) for field, _ in columns))
    return out


def _get(row: Any, field: str) -> Any:
    return row.get(field) if isinstance(row, dict) else getattr(row, field)


def cell(field: str, value: Any, coloured: bool = False) -> Text:
    if isinstance(value, UUID):
        return Text(tail(value))
    if isinstance(value, datetime):
        return Text(when(value))
    text = clean(show(value))
    if field == "error" and isinstance(value, dict):
        text = clean(str(value.get("message", "")))
    return Text(text, style=COLOURS.get(text, "") if coloured else "")


def show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


def tail(id: UUID) -> str:
    """The part of an id that people read out: its last eight digits."""
    return id.hex[-8:]


def when(at: datetime) -> str:
    """Local time, with the name of its zone, and the date unless it is today."""
    local = at.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S %Z" if today else "%Y-%m-%d %H:%M:%S %Z")


def ago(at: datetime, now: datetime | None = None) -> str:
    """How far from now: "in 4 s", "3 min ago"."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    size = abs(seconds)
    if size < 0.05:
        return "now"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if size >= 2 * length or unit == "s":
            amount = f"{size / length:.1f}" if size < 10 else f"{size / length:.0f}"
            return f"{amount} {unit} ago" if seconds > 0 else f"in {amount} {unit}"
    return ""


def clean(text: str) -> str:
    """Text from the database without what would drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def json_value(text: str | None, what: str) -> Any:
    """Read a JSON argument: the text itself, @file, or - for the standard input."""
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise typer.BadParameter(f"{what}: cannot read {text[1:]}: {exc}") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise typer.BadParameter(
            f"{what} is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
        ) from None
    except (RecursionError, ValueError):
        raise typer.BadParameter(f"{what} is not JSON that can be read") from None
