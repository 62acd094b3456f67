"""What is packed by hand is what PostgreSQL reads, and what the ledger tells it is true."""

from __future__ import annotations

import contextlib
import socket
import uuid

import psycopg
import pytest

from ordinaut.exchange import Call, Line, bigints, instants, texts, uuids
from ordinaut.ledger import Ledger


def read(conn, kind, packed):
    cur = conn.cursor(binary=True)
    (oid,) = conn.execute("select %s::regtype::oid::int", [kind]).fetchone()
    from psycopg import pq

    answer = conn.pgconn.exec_params(
        f"select $1::{kind}::text".encode(), [packed], [oid], [pq.Format.BINARY]
    )
    cur.close()
    assert answer.status == pq.ExecStatus.TUPLES_OK, answer.error_message
    return answer.get_value(0, 0).decode()


def test_arrays_are_read_back(conn):
    ids = [uuid.uuid4() for _ in range(3)]

    assert read(conn, "uuid[]", uuids([i.bytes for i in ids])) == f"{{{','.join(map(str, ids))}}}"
    assert read(conn, "bigint[]", bigints([0, -1, 1 << 40])) == f"{{0,-1,{1 << 40}}}"
    assert read(conn, "text[]", texts([b"a", None, "ü,".encode()])) == '{a,NULL,"ü,"}'
    assert read(conn, "text[]", texts([None, None])) == "{NULL,NULL}"
    assert read(conn, "text[]", texts([b"x", b"x"])) == "{x,x}"
    conn.execute("set timezone = 'UTC'")
    assert read(conn, "timestamptz[]", instants([None, 0])) == '{NULL,"2000-01-01 00:00:00+00"}'


def test_a_call_can_be_repeated_as_it_is():
    call = Call(b"w" * 16, "q", b"l" * 16, 5, [(b"l" * 16, b"u" * 16, "success", None, None, 3)])

    assert call.params() == call.params()
    assert call.carefully().params()[:13] == call.params()[:13]
    assert call.carefully().careful


def test_a_connection_that_ends_while_it_is_made_ready_is_gone_and_no_bug(shared_dsn):
    with contextlib.closing(psycopg.connect(shared_dsn, autocommit=True)) as conn:
        with contextlib.closing(socket.fromfd(conn.pgconn.socket, 0, 0)) as its:
            its.shutdown(socket.SHUT_RDWR)

        with pytest.raises(psycopg.OperationalError):
            Line(conn, listen=False)


def test_a_lease_is_listed_from_before_it_is_asked_for_until_its_last_unit():
    ledger = Ledger()
    lease = ledger.ask()
    assert ledger.snapshot() == (set(), {lease})

    ledger.answered(lease, 2)
    assert ledger.snapshot() == ({lease}, set())
    ledger.settled([lease])
    assert lease in ledger
    ledger.settled([lease])

    assert ledger.snapshot() == (set(), set())


def test_an_empty_answer_is_no_lease():
    ledger = Ledger()

    ledger.answered(ledger.ask(), 0)

    assert ledger.snapshot() == (set(), set())
