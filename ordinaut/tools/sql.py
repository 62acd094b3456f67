"""
sql: run one statement in this database, and complete with it.

    statement  SQL; `query` is the same.  Values are bound: %s with a list, %(name)s with an object
    params     the values: a list, or an object.  Lists become arrays, objects jsonb
    max_rows   rows kept in the output; default 1000, or as configured

    output     {"rows": [{column: value, …}, …], "rowcount": n}, "truncated": true if cut

What it writes and the completion of the run are one transaction (database.py).  A statement that
fails is rolled back, and its SQLSTATE decides whether to try again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.registry import SETTLED, Host
from ordinaut.tools.secrets import REFERENCE

_KEYS = {"statement", "query", "params", "max_rows"}


def make(host: Host, config: dict[str, Any]) -> Callable[[wire.Unit], bytes]:
    """Return the tool for a worker whose [tools.sql] is `config`."""
    max_rows = int(config.get("max_rows", 1000))

    def sql(unit: wire.Unit) -> bytes:
        payload = json.loads(unit[wire.PAYLOAD])
        if REFERENCE in unit[wire.PAYLOAD]:
            payload = host.secrets.resolve(payload)
        statement, params, limit = _read(payload, max_rows)

        transaction = host.database(config.get("dsn")).begin(unit)
        try:
            result = output.dump(_run(transaction.connection, statement, params, limit))
        except BaseException as exc:
            transaction.rollback(exc)
            raise
        transaction.commit(result)
        return SETTLED

    return sql


def _read(payload: Any, most: int) -> tuple[str, Any, int]:
    if not isinstance(payload, dict):
        raise ToolFailed("the payload of sql is an object with a statement", "E2001")
    if unknown := payload.keys() - _KEYS:
        raise ToolFailed(f"{min(unknown)}: sql knows no such field", "E2002")
    given = [payload[key] for key in ("statement", "query") if key in payload]
    if len(given) != 1 or not isinstance(given[0], str) or not given[0].strip():
        raise ToolFailed("statement: one SQL statement, as text", "E2003")
    params = payload.get("params")
    if params is not None and not isinstance(params, dict | list):
        raise ToolFailed("params: a list for %s, or an object for %(name)s", "E2002")
    limit = payload.get("max_rows", most)
    if not isinstance(limit, int) or not 0 <= limit <= most:
        raise ToolFailed(f"max_rows: a whole number up to {most}", "E2002")
    return given[0], params, limit


def _run(conn: Any, statement: str, params: Any, limit: int) -> dict[str, Any]:
    from psycopg import ProgrammingError
    from psycopg.rows import dict_row

    if isinstance(params, dict):
        params = {name: _bound(value) for name, value in params.items()}
    elif params is not None:
        params = [_bound(value) for value in params]
    cur = conn.cursor(row_factory=dict_row)
    # Without parameters psycopg would use the simple protocol, which takes "a; b; c".
    with conn.pipeline():
        try:
            cur.execute(statement, params)
        except ProgrammingError as exc:
            if exc.sqlstate is None:  # the placeholders and the values do not match
                raise ToolFailed(f"params: {exc}", "E2002") from None
            raise
    if cur.description is None:
        return {"rows": [], "rowcount": max(cur.rowcount, 0)}
    rows = cur.fetchmany(limit) if limit else []
    result = {"rows": rows, "rowcount": cur.rowcount}
    return result | {"truncated": True} if cur.rowcount > limit else result


def _bound(value: Any) -> Any:
    from psycopg.types.json import Jsonb

    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return Jsonb(value)
    return Jsonb(value) if isinstance(value, dict) else value
