"""
How a call is made: named arguments out, typed rows in.

Rows are mapped by column name, and columns that a class does not know are dropped, so a newer
database may answer more than this wheel understands.

Intervals are read as text.  An interval may hold months, and a month is no number of days:
psycopg would make it 30 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb
from psycopg.types.string import TextLoader

T = TypeVar("T")

Json = dict[str, Any] | list[Any] | str | int | float | bool | None
Conn = psycopg.Connection[Any]


def _text(verb: str, args: dict[str, Any]) -> str:
    named = ", ".join(f"p_{name} => %({name})s" for name in args)
    return f"select * from ordinaut.{verb}({named})"


def _given(args: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if value is not None}


def rows(conn: Conn, cls: type[T], verb: str, **args: Any) -> list[T]:
    """Call ordinaut.<verb> and return its rows as instances of the dataclass `cls`."""
    given = _given(args)
    cur = conn.cursor(row_factory=_tolerant(cls))
    cur.adapters.register_loader("interval", TextLoader)
    return cur.execute(_text(verb, given), given).fetchall()


def scalar(conn: Conn, verb: str, **args: Any) -> Any:
    """Call ordinaut.<verb> and return the single value of its single row."""
    given = _given(args)
    return conn.cursor(row_factory=scalar_row).execute(_text(verb, given), given).fetchone()


def view(conn: Conn, name: str, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of the view ordinaut.<name> as dictionaries."""
    cur = conn.cursor(row_factory=dict_row)
    cur.adapters.register_loader("interval", TextLoader)
    return cur.execute(f"select * from ordinaut.{name} limit %s", [limit]).fetchall()


def jsonb(value: Json) -> Jsonb | None:
    """Wrap JSON for a jsonb argument; None stays "left out"."""
    return None if value is None else Jsonb(value)


def _tolerant(cls: type[T]) -> Callable[[psycopg.Cursor[Any]], Callable[[Sequence[Any]], T]]:
    wanted = {field.name for field in fields(cls)}  # type: ignore[arg-type]

    def factory(cur: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], T]:
        names = [column.name for column in cur.description or ()]
        known = [(i, name) for i, name in enumerate(names) if name in wanted]

        def make(values: Sequence[Any]) -> T:
            return cls(**{name: values[i] for i, name in known})

        return make

    return factory
