"""The proxy of chaos, each of its misbehaviours, before a real server."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests import postgres
from tests.chaos.lab import Lab
from tests.chaos.proxy import Proxy

Connect = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def pg(server: postgres.Server) -> Iterator[postgres.EmbeddedPostgres]:
    with postgres.private(server.bindir or postgres.find_bindir()) as pg:
        yield pg


@pytest.fixture
def direct(pg: postgres.EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(pg.dsn, autocommit=True)) as conn:
        conn.execute("drop table if exists heard")
        conn.execute("create table heard (what text)")
        yield conn


@pytest.fixture
def proxy(pg: postgres.EmbeddedPostgres) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(Lab.socket(pg), pg.data_dir / "none")) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    with contextlib.ExitStack() as keep:

        def connect() -> psycopg.Connection[Any]:
            conn = psycopg.connect(
                f"host=127.0.0.1 port={proxy.ports[0]} user=postgres dbname=postgres",
                autocommit=True, connect_timeout=5,
            )  # fmt: skip
            return keep.enter_context(contextlib.closing(conn))

        yield connect


def heard(direct: psycopg.Connection[Any]) -> list[str]:
    return [what for (what,) in direct.execute("select what from heard").fetchall()]


def test_it_passes_what_it_is_given(connect: Connect) -> None:
    [(body,)] = connect().execute("select repeat('x', 1000000)").fetchall()

    assert len(body) == 1_000_000


def test_an_answer_is_lost_and_the_server_has_acted(
    proxy: Proxy, connect: Connect, direct: psycopg.Connection[Any]
) -> None:
    conn = connect()
    proxy.swallow(1)

    with pytest.raises(psycopg.OperationalError):
        conn.execute("insert into heard values ('lost')")

    assert heard(direct) == ["lost"]
    assert proxy.swallowing == 0
    connect().execute("select 1")


def test_only_the_answer_to_commit_is_lost(
    proxy: Proxy, connect: Connect, direct: psycopg.Connection[Any]
) -> None:
    conn = connect()
    with pytest.raises(psycopg.OperationalError), conn.transaction():
        conn.execute("insert into heard values ('lost')")
        proxy.swallow(1)
        conn.execute("select 1")
        assert proxy.swallowing == 1

    assert heard(direct) == ["lost"]


def test_nothing_passes_a_stalled_connection_and_nobody_is_told(
    proxy: Proxy, connect: Connect, direct: psycopg.Connection[Any]
) -> None:
    conn = connect()
    proxy.stall()
    conn.pgconn.send_query(b"insert into heard values ('never')")
    with socket.socket(fileno=conn.pgconn.socket) as sock:
        try:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        finally:
            sock.setblocking(False)
            sock.detach()

    proxy.unstall()

    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    assert heard(direct) == []
    connect().execute("select 1")


def test_a_reset_is_heard_at_once(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.ports[0])) as sock:
        sock.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
        assert sock.recv(1) == b"N"

        proxy.reset()

        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_each_packet_waits(proxy: Proxy, connect: Connect) -> None:
    conn = connect()
    proxy.delay = 0.1
    began = time.monotonic()

    conn.execute("select 1")

    assert time.monotonic() - began >= 0.2


def test_new_connections_are_refused_and_old_ones_live(proxy: Proxy, connect: Connect) -> None:
    conn = connect()
    proxy.refuse = True

    with pytest.raises(psycopg.OperationalError):
        connect()
    conn.execute("select 1")


def test_a_server_that_is_away_is_a_connection_that_ends(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.ports[1])) as sock:
        assert sock.recv(1) == b""
