"""The tools of orders.yaml: plain functions, called as `python:orders_tools.<name>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ordinaut import Context, Permanent

Row = dict[str, Any]

TABLE = """
create table if not exists sale (
  order_id  bigint  primary key,
  run_id    uuid    not null,
  customer  text    not null,
  amount    numeric not null
)
"""


def transform(orders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make rows of the shop's orders; what was cancelled is left out."""
    rows = [
        {
            "order_id": order["id"],
            "customer": order["customer"].strip().title(),
            "amount": round(sum(line["price"] * line["count"] for line in order["lines"]), 2),
        }
        for order in orders
        if not order.get("cancelled")
    ]
    return {"rows": rows, "total": round(sum(row["amount"] for row in rows), 2)}


def check(rows: Sequence[Row]) -> dict[str, int]:
    """Refuse what cannot be right; another try would not make it so."""
    ids = [row["order_id"] for row in rows]
    if len(set(ids)) < len(ids):
        raise Permanent("an order came twice")
    if bad := [row["order_id"] for row in rows if row["amount"] <= 0]:
        raise Permanent(f"orders of no worth: {bad}")
    return {"checked": len(rows)}


def load(rows: Sequence[Row], context: Context) -> dict[str, int]:
    """Write the rows in the transaction that completes this step."""
    context.connection.execute(TABLE)
    with context.connection.cursor() as cursor:
        cursor.executemany(
            "insert into sale (order_id, run_id, customer, amount)"
            " values (%(order_id)s, %(run_id)s, %(customer)s, %(amount)s)",
            [{**row, "run_id": context.run_id} for row in rows],
        )
    return {"rows": len(rows)}


def unload(context: Context) -> dict[str, int]:
    """Take back what this run has loaded: a later step failed."""
    gone = context.connection.execute("delete from sale where run_id = %s", [context.run_id])
    return {"rows": gone.rowcount}
