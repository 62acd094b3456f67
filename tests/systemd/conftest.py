"""
The shipped units on a machine of their own (machine.py), and a server that it can reach.

    machine      the machine, one for the whole directory; its PID 1 is systemd
    pg           a server, reached from inside through a socket, with a password
    database     a database of the test's own, installed, and the settings that lead there
    service      Service("ordinaut-worker@x"): starts, shows, kills; stopped afterwards
    witness      what tools write to, from inside too

Whole units are tested, so tests are few and each says much: a start costs a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import calls
from ordinaut.embedded import EmbeddedPostgres
from tests import postgres
from tests.loops.conftest import Witness
from tests.systemd.machine import SYSTEM, Machine, wait_for

ROLE, PASSWORD, SECRET = "ordinaut_machine", "pa'ss \\word", "s3cret-of-a-tool"
FAST = {
    "ORDINAUT_TOOLS": json.dumps(
        {
            "python": {"modules": ["tests.loops.hands"]},
            "shell": {"allow": ["/bin/sh"], "env": ["TOKEN"]},
        }
    ),
    "ORDINAUT_TTL": "3s",
    "ORDINAUT_HEARTBEAT": "300ms",
    "ORDINAUT_POLL": "100ms",
    "ORDINAUT_CONCURRENCY": "1",
    "ORDINAUT_DRAIN": "20s",
}


def lacking() -> str:
    """Say why there can be no machine here, or nothing."""
    if os.geteuid() != 0:
        return "namespaces with a systemd of their own need root"
    missing = [name for name in ("unshare", "nsenter", "systemctl") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def skip_or_fail(why: str) -> None:
    """Skip, but not in CI, where .ci/run has installed everything."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


@pytest.fixture(scope="session")
def outside() -> Iterator[Path]:
    """A directory that the machine knows as /opt/outside: sockets and witness files."""
    with tempfile.TemporaryDirectory(prefix="ordinaut-outside-") as made:
        os.chmod(made, 0o777)
        yield Path(made)


@pytest.fixture(scope="session")
def pg(server: postgres.Server, outside: Path) -> Iterator[EmbeddedPostgres]:
    made = postgres.private(server.bindir or postgres.find_bindir())
    made._options |= {
        "unix_socket_permissions": "0777",
        "unix_socket_directories": f'"{made.socket_dir}", "{outside}"',
    }
    with made as pg:
        hba = pg.cluster / "pg_hba.conf"
        hba.write_text(f"local all {ROLE} scram-sha-256\n{hba.read_text()}")
        with psycopg.connect(pg.dsn, autocommit=True) as conn:
            conn.execute("select pg_reload_conf()")
            conn.execute("create database template_ordinaut")
            postgres.install(pg.dsn_of("template_ordinaut"))
            conn.execute(
                psycopg.sql.SQL(
                    "create role {} login password {} in role ordinaut_worker, ordinaut_admin"
                ).format(psycopg.sql.Identifier(ROLE), psycopg.sql.Literal(PASSWORD))
            )
        yield pg


@pytest.fixture(scope="session")
def machine(outside: Path) -> Iterator[Machine]:
    if why := lacking():
        skip_or_fail(why)
    machine = Machine({outside: "/opt/outside"})
    try:
        machine.write("/etc/ordinaut/password", PASSWORD + "\n", 0o600)
        machine.write("/etc/ordinaut/secrets/token", SECRET + "\n", 0o600)
        machine.run("chmod", "700", "/etc/ordinaut/secrets")
        yield machine
    finally:
        machine.stop()


class Database:
    """A database, as the test sees it and as the machine does."""

    def __init__(self, pg: EmbeddedPostgres, machine: Machine, name: str) -> None:
        self.name = name
        self.dsn = pg.dsn_of(name)
        self._machine = machine
        self.settings()

    def settings(self, **more: str) -> None:
        """Write the settings that lead here; `more` of them, too."""
        dsn = f"host=/opt/outside dbname={self.name} user={ROLE}"
        lines = {"ORDINAUT_DSN": dsn} | FAST | more
        text = "".join(f"{name}='{value}'\n" for name, value in lines.items())
        self._machine.write("/etc/ordinaut/ordinaut.env", text)


@pytest.fixture
def database(
    pg: EmbeddedPostgres, machine: Machine, request: pytest.FixtureRequest
) -> Iterator[Database]:
    name = "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[:60]
    with psycopg.connect(pg.dsn, autocommit=True) as admin:
        admin.execute(f'create database "{name}" template template_ordinaut')
        yield Database(pg, machine, name)
        admin.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def db(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def witness(outside: Path, request: pytest.FixtureRequest) -> Iterator[Witness]:
    path = outside / f"witness-{abs(hash(request.node.nodeid)):x}"
    yield Witness(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def inside(witness: Witness) -> str:
    """The path of the witness for those in the machine."""
    return f"/opt/outside/{Path(witness.path).name}"


class Service:
    """A unit of the machine.

    `main` is the process that systemd watches, for a worker the guard; `parent` the one below it.
    """

    def __init__(self, machine: Machine, unit: str) -> None:
        self.unit = f"{unit}.service"
        self._machine = machine
        self._drop_in = f"{SYSTEM}/{self.unit}.d/test.conf"
        # Not a cursor: with a filter, journalctl skips the first line after it.
        self._since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")
        self.configure()

    def configure(self, *lines: str) -> None:
        """Shorten times, let tools write to /opt/outside, and what the test wants."""
        text = ["[Service]", "RestartSec=100ms", "ReadWritePaths=/opt/outside", *lines]
        self._machine.write(self._drop_in, "\n".join(text) + "\n")
        self._machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start it; systemctl returns when it is READY."""
        self._machine.run("systemctl", "start", self.unit)

    def show(self, name: str) -> str:
        return self._machine.run("systemctl", "show", "-P", name, self.unit)

    def stop(self) -> None:
        self._machine.run("systemctl", "stop", self.unit)

    @property
    def main(self) -> int:
        return int(self.show("MainPID"))

    @property
    def parent(self) -> int:
        return wait_for(lambda: self._below(self.main))[0]

    @property
    def is_ready(self) -> bool:
        return self.show("ActiveState") == "active"

    def _below(self, pid: int) -> list[int]:
        words = self._machine.run("pgrep", "-P", str(pid), check=False).split()
        return [int(word) for word in words]

    def signal(self, name: str, pid: int) -> None:
        self._machine.run("kill", "-s", name, str(pid))

    def restarted(self, times: int = 1) -> None:
        """Wait until systemd has started it again, and it is READY."""
        wait_for(lambda: int(self.show("NRestarts")) >= times and self.is_ready)

    def journal(self, *options: str) -> str:
        """What it said since this test began."""
        self._machine.run("journalctl", "--sync")
        command = ("journalctl", "-q", "-o", "cat", f"--since={self._since}", "-u", self.unit)
        return self._machine.run(*command, *options)

    def forget(self) -> None:
        self._machine.run("systemctl", "kill", "-s", "KILL", self.unit, check=False)
        self._machine.run("systemctl", "stop", self.unit, check=False)
        self._machine.run("systemctl", "reset-failed", self.unit, check=False)
        self._machine.remove(self._drop_in)


@pytest.fixture
def service(machine: Machine, database: Database) -> Iterator[Callable[[str], Service]]:
    with contextlib.ExitStack() as used:

        def service(unit: str) -> Service:
            made = Service(machine, unit)
            used.callback(made.forget)
            used.callback(lambda: print(f"--- {unit}\n{made.journal()}"))
            return made

        yield service


@pytest.fixture
def worker(service: Callable[[str], Service]) -> Service:
    return service("ordinaut-worker@default")


@pytest.fixture
def enqueue(db: psycopg.Connection[Any], inside: str) -> Callable[..., Any]:
    """enqueue("work", seconds=1): a run of tests.loops.hands.work; returns its id."""

    def enqueue(tool: str = "work", attempts: int = 3, **payload: Any) -> Any:
        (row,) = db.execute(
            "select run_id from ordinaut.enqueue(%s, %s, p_max_attempts => %s)",
            [
                f"python:tests.loops.hands.{tool}",
                psycopg.types.json.Jsonb({"witness": inside} | payload),
                attempts,
            ],
        ).fetchall()
        return row[0]

    return enqueue


@pytest.fixture
def ended(db: psycopg.Connection[Any]) -> Callable[[Any], Any]:
    """ended(run_id): the run, once it has ended."""

    def ended(run_id: Any) -> Any:
        done = {"success", "failed", "cancelled", "timed_out", "abandoned"}

        def look() -> Any:
            run = calls.get_run(db, run_id)
            return run if run is not None and run.state in done else None

        return wait_for(look)

    return ended
