"""
What a chaos run stands on: one directory with a server, a proxy before it, and real processes.

Everything that has to be found out later lies in the directory: witness, client log, logs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from ordinaut import schema
from ordinaut.binaries import find_bindir
from ordinaut.embedded import EmbeddedPostgres
from tests.chaos.history import Recorder
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).parents[2]
TTL = 5.0  # of a worker; leases end with it
QUEUE = "default"
_OPTIONS = {
    "autovacuum_naptime": "5s",
    "log_lock_waits": "on",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "wal_sender_timeout": "0",  # one that is stopped must not let the primary go on alone
    "wal_keep_size": "256MB",
}
_MARK = "ORDINAUT_CHAOS"  # in the environment of all that a lab begins
_DISK = {"server": "1500m", "wal": "900m"}  # sizes of the disks that may be filled


def wait_for(fact: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true answer; a database that is away is none.

    Raises:
        TimeoutError: not within `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            if answer := fact():
                return answer
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.05)


class Process:
    """An `ordinaut worker` or `scheduler`, and all below it."""

    def __init__(self, lab: Lab, name: str, words: list[str], environ: dict[str, str]) -> None:
        self.name = name
        self.words = words
        self.environ = environ
        self._lab = lab
        self.start()

    @property
    def log(self) -> Path:
        return self._lab.folder / f"{self.name}.log"

    def wait_up(self) -> None:
        """Return when it works; before it has begun, SIGTERM ends it without an answer."""
        up = b"registered" if self.words[0] == "worker" else b"scheduler started"
        wait_for(lambda: up in self.log.read_bytes()[self._said :], 30, f"{self.name} to begin")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._said = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ordinaut", *self.words],
                cwd=self._lab.folder,
                env=os.environ | self._lab.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def tree(self) -> list[int]:
        """Its guard, the parent below, the children below that."""
        return _tree(self.process.pid)

    def kill(self) -> None:
        """kill -9 of all of it, as a lost host would be."""
        pids = self.tree
        for pid in pids:
            _signal(pid, signal.SIGSTOP)  # nobody may report the death of another
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        self.process.wait()

    def signal(self, signum: int) -> None:
        for pid in self.tree:
            _signal(pid, signum)

    def stop(self, seconds: float = 30.0) -> int | None:
        """SIGTERM, and what it answered; None: it had to be killed."""
        self.signal(signal.SIGCONT)
        _signal(self.process.pid, signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Lab:
    """From `with` to its end; nothing is left of it but the directory."""

    def __init__(self, folder: Path, major: int | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.witness = folder / "witness.jsonl"
        self.client = Recorder(folder / "client.jsonl", durable=False)
        self.calls = itertools.count(1)
        self.faults = Recorder(folder / "faults.jsonl", durable=False)
        self.bindir = find_bindir(major)
        self.server = self._server("server")
        self.processes: list[Process] = []
        self.has_small_disks = False
        self.async_failover = False
        self.frozen = False  # a process that slept past its lease cannot fence itself
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.canary = f"canary-{os.urandom(8).hex()}"
        (self.secrets / "canary").write_text(self.canary)
        self._keep = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as keep:
            os.environ[_MARK] = str(self.folder)
            keep.callback(self.client.close)
            keep.callback(self.faults.close)
            self._keep = keep
            self._mount()
            keep.callback(self._sweep)
            keep.callback(self._save_log)
            keep.callback(lambda: self.server.close())  # whichever is the primary by then
            self.server.start()
            if self.has_small_disks:
                self._move_wal()
            # The second port leads nowhere until there is a standby.
            self.proxy = Proxy(self.socket(self.server), self.folder / "none")
            keep.callback(self.proxy.close)
            keep.callback(self._end_processes)
            with self.connect() as conn:
                schema.install(conn)
            self._keep = keep.pop_all()
        return self

    def _mount(self) -> None:
        """Give the server disks of its own, small enough to be filled; only root may."""
        if os.geteuid() != 0:
            return
        for name, size in _DISK.items():
            (self.folder / name).mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.folder / name)]
            if subprocess.run(mount, capture_output=True).returncode:
                return
            unmount = ["umount", "-l", str(self.folder / name)]
            self._keep.callback(subprocess.run, unmount, capture_output=True)
        self.has_small_disks = True

    def _save_log(self) -> None:
        """What the server said must outlive the disk it said it on."""
        with contextlib.suppress(OSError):
            shutil.copyfile(self.folder / "server" / "postgres.log", self.folder / "server.log")

    def _move_wal(self) -> None:
        self.server.stop()
        here, there = self.server.cluster / "pg_wal", self.folder / "wal" / "pg_wal"
        shutil.move(here, there)
        here.symlink_to(there)
        self.server.start()

    def _server(self, name: str) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder / name, self.bindir, _OPTIONS)

    @staticmethod
    def socket(server: EmbeddedPostgres) -> Path:
        return server.socket_dir / ".s.PGSQL.5432"

    @contextlib.contextmanager
    def standby(self, conninfo: str = "") -> Iterator[EmbeddedPostgres]:
        """Copy the primary and let the copy follow it; the second proxy leads there."""
        standby = self._server("standby")
        standby.data_dir.mkdir()
        source = f"host={self.server.socket_dir} user=postgres {conninfo}"
        command = [self.bindir / "pg_basebackup", "-D", standby.cluster, "-R", "-c", "fast"]
        subprocess.run([*command, "-d", source], check=True, capture_output=True, timeout=60)
        standby.cluster.chmod(0o700)
        try:
            standby.start()
            self.proxy.targets[1] = self.socket(standby)
            yield standby
        finally:
            if self.server is not standby:
                standby.close()

    def fail_over(self, standby: EmbeddedPostgres) -> None:
        """The primary is gone for good, kill -9; the standby takes over."""
        old = self.server
        kill_server(old)
        old.crash()
        self.proxy.targets[0] = self.folder / "none"
        self.proxy.reset()
        with self.connect(standby.dsn) as conn:
            conn.execute("select pg_promote()")
        self.server = standby
        old.close()

    def __exit__(self, *_: object) -> None:
        self._keep.close()

    @property
    def direct(self) -> str:
        """The DSN of who breaks things and of who looks."""
        return self.server.dsn

    @property
    def dsn(self) -> str:
        """The DSN of who is to be disturbed."""
        ports = ",".join(map(str, self.proxy.ports))
        return (
            f"host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres"
            " target_session_attrs=read-write"
        )

    @property
    def environ(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            "PYTHONPATH": path,
            "ORDINAUT_DSN": self.dsn,
            "ORDINAUT_TTL": f"{TTL} s",
            "ORDINAUT_HEARTBEAT": "1 s",
            "ORDINAUT_DRAIN": "10 s",
            "ORDINAUT_SECRETS_DIR": str(self.secrets),
            "ORDINAUT_TOOLS": json.dumps({"python": {"modules": ["tests.chaos.tools"]}}),
            "CHAOS_WITNESS": str(self.witness),
        }

    def connect(self, dsn: str | None = None) -> psycopg.Connection[Any]:
        return psycopg.connect(
            dsn or self.direct, autocommit=True, row_factory=namedtuple_row, connect_timeout=5
        )

    def one(self, query: str, *args: Any) -> Any:
        """Return the first column of the first row, asked on a connection of its own."""
        with self.connect() as conn:
            row = conn.execute(query.encode(), args or None).fetchone()
            return None if row is None else row[0]

    def worker(self, name: str, concurrency: int = 3, **environ: str) -> Process:
        words = ["worker", "--queue", QUEUE, "--concurrency", str(concurrency), "--name", name]
        return self._process(name, words, environ)

    def scheduler(self, name: str, **environ: str) -> Process:
        return self._process(name, ["scheduler"], environ)

    @property
    def workers(self) -> list[Process]:
        return [process for process in self.processes if process.words[0] == "worker"]

    @property
    def schedulers(self) -> list[Process]:
        return [process for process in self.processes if process.words[0] == "scheduler"]

    @contextlib.contextmanager
    def fault(self, kind: str, target: str = "") -> Iterator[None]:
        """Note when a fault began and when it was healed."""
        began = time.time()
        print(f"{time.strftime('%H:%M:%S')}  {kind} {target}", flush=True)
        try:
            yield
        finally:
            self.faults.write({"fault": kind, "target": target, "t0": began, "t1": time.time()})

    def _process(self, name: str, words: list[str], environ: dict[str, str]) -> Process:
        process = Process(self, name, words, environ)
        self.processes.append(process)
        return process

    def _sweep(self) -> None:
        """Kill what was begun and not noted: an interrupt may come between the two."""
        mark = f"{_MARK}={self.folder}\0".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes() and int(environ.parent.name) != os.getpid():
                    _signal(int(environ.parent.name), signal.SIGKILL)

    def _end_processes(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()


def kill_server(server: EmbeddedPostgres) -> None:
    pid = int((server.cluster / "postmaster.pid").read_text().split()[0])
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _tree(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found
