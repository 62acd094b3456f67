"""
Bloat: a forgotten transaction keeps every dead row of the hot tables; when it has ended, vacuum
gives the space back, and the next churn takes no more than the one before it.

Vacuum runs here by hand, as often as the thresholds of the tables would let autovacuum run: the
server of the suite has none, so that figures do not depend on when it wakes.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest

from ordinaut import calls
from ordinaut.bench.loops import Exchanger

HOT = ("due_work", "parked", "lease", "hold", "worker")
ROUNDS, SIZE = 10, 1000
ITEMS = """select count(*) from ordinaut.enqueue_many((
  select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
    'payload', jsonb_build_object('text', repeat(md5(n::text), 20)),
    'key', case when n %% 10 = 0 then 'k' || n end,
    'idempotency_key', case when n %% 20 = 1 then 'once-' || %s || '-' || n end,
    'idempotent_for', case when n %% 20 = 1 then '0 s' end)))
  from generate_series(1, %s) as n), 'echo')"""


class Churn:
    """Enqueues and does runs, a thousand at a time, as a worker does."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.done = 0
        self._exchanger = Exchanger(conn)

    def run(self, rounds: int) -> int:
        """Return how large the hot tables became, in bytes."""
        most = 0
        for n in range(rounds):
            self.conn.execute(ITEMS, [str(self.done), SIZE])
            while batch := self._exchanger.turn(SIZE // 4):
                self.done += batch
            while calls.prune(self.conn):
                pass
            most = max(most, self.size())
            if n % 2:
                self.vacuum()
        return most

    def vacuum(self) -> None:
        for table in HOT:
            self.conn.execute(f"vacuum ordinaut.{table}".encode())

    def size(self) -> int:
        query = "select sum(pg_total_relation_size('ordinaut.' || t)) from unnest(%s::text[]) as t"
        row = self.conn.execute(query, [list(HOT)]).fetchone()
        assert row is not None
        return int(row[0])


def test_what_a_forgotten_transaction_keeps_comes_back(prod_dsn):
    with closing(psycopg.connect(prod_dsn, autocommit=True)) as conn:
        churn = Churn(conn)
        usual = churn.run(ROUNDS // 2)
        with closing(psycopg.connect(prod_dsn)) as forgotten:
            forgotten.execute("set transaction isolation level repeatable read")
            forgotten.execute("select")
            bloated = churn.run(ROUNDS)
            forgotten.rollback()  # a close is noticed later
            assert bloated > 3 * usual, "nothing was kept: the test proves nothing"
        churn.vacuum()
        after = churn.run(ROUNDS // 2)
        churn.vacuum()

        assert churn.done == 2 * ROUNDS * SIZE
        # Indexes keep their pages, to be used again.
        assert after < 2 * usual, f"hot tables: {usual}, then {bloated}, then {after} bytes"
        heap = "select pg_relation_size('ordinaut.due_work') + pg_relation_size('ordinaut.lease')"
        assert conn.execute(heap).fetchone() == (0,)


@pytest.mark.parametrize("table", ["due_work", "parked", "hold", "lease"])
def test_vacuum_comes_soon_to_a_table_through_which_all_work_goes(conn, table):
    query = """
        select array(select unnest(c.reloptions) union all select 'toast.' || unnest(t.reloptions))
        from pg_class as c left join pg_class as t on t.oid = c.reltoastrelid
        where c.oid = ('ordinaut.' || %s)::regclass
    """
    options = dict(option.split("=") for option in conn.execute(query, [table]).fetchone()[0])
    # TOAST has the table's own settings where it has none.
    for place in ("", "toast."):
        for name, most in (("scale_factor", 0), ("threshold", 5000), ("cost_delay", 0)):
            name = f"autovacuum_vacuum_{name}"
            assert float(options.get(place + name, options[name])) <= most
