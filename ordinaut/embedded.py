"""
A private PostgreSQL for development and tests: initdb, start, stop.

Invariant: the server never outlives the process that started it, however that process ends.  It
is the child of a watcher (watcher.py, a program), which reads a pipe that nobody writes to.  The
kernel closes the pipe when our process is gone, kill -9 included; the watcher then asks for a
fast shutdown.  Should the watcher itself be killed, Linux signals the server for us
(PR_SET_PDEATHSIG).

Socket only, in a directory of mode 0700: authentication is `trust`, so who may open the socket
is the whole of the access control, and a TCP port would be open to every user of the host.

PostgreSQL refuses to run as root.  It looks at its own user id and no further, so as root it
runs in a user namespace in which we are `nobody`: no account is made, no mode is changed.  Its
files belong to root all the same: for development only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ordinaut.binaries import INSTALL_HINT, EmbeddedError, find_bindir, server_major, usable

_TAKES_CONNECTIONS = (["ready"], ["standby"])
_WATCHER = Path(__file__).with_name("watcher.py")
_PORT = 5432  # part of the socket's name; nothing listens on TCP
_SOCKET_PATH_MAX = 100  # sun_path has 108 bytes on Linux, 104 on macOS
_START_TIMEOUT = 60.0


def running_dsn(data_dir: Path | str) -> str | None:
    """Return the DSN of the server that some process runs on `data_dir`, or None."""
    try:
        socket_dir = (Path(data_dir) / "pg" / "postmaster.pid").read_text().splitlines()[4]
    except (OSError, IndexError):
        return None
    if not Path(socket_dir, f".s.PGSQL.{_PORT}").exists():
        return None
    return _dsn(socket_dir, "postgres")


def _dsn(socket_dir: Path | str, database: str) -> str:
    return f"postgresql://postgres@/{database}?host={quote(str(socket_dir), safe='')}"


class EmbeddedPostgres:
    """A server of our own on `data_dir`, from `start()` to `stop()`, or inside `with`.

    Args:
        data_dir: kept between starts, made if missing.  None: a temporary one, removed at the
            end, also after kill -9.
        bindir: where postgres and initdb are; None finds them, those that made `data_dir` first.
        options: server settings, as for `postgres -c`.
        fsync: False trades the data for speed when the host crashes.  For tests.
        scratch: where a temporary one is made; None: where temporary files are.
    """

    def __init__(
        self,
        data_dir: Path | str | None,
        bindir: Path | str | None = None,
        options: Mapping[str, str] | None = None,
        fsync: bool = True,
        scratch: Path | None = None,
    ) -> None:
        self._temporary = data_dir is None
        self._wanted_bindir = None if bindir is None else Path(bindir)
        self._options = dict(options or {})
        if not fsync:
            # Commits stay synchronous: what the kernel has survives the death of the server.
            self._options |= {"fsync": "off", "full_page_writes": "off"}
        self._lock: int | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self.data_dir = (
            Path(tempfile.mkdtemp(prefix="ordinaut-pg-", dir=scratch))
            if data_dir is None
            else Path(data_dir).absolute()
        )
        self.cluster = self.data_dir / "pg"
        self.log = self.data_dir / "postgres.log"
        self.socket_dir = self.data_dir
        self.bindir = Path()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return _dsn(self.socket_dir, database)

    def psql_line(self, database: str = "postgres") -> str:
        """Return a shell command that connects to this server."""
        psql = shutil.which("psql") or str(self.bindir / "psql")
        return shlex.join([psql, "-h", str(self.socket_dir), "-U", "postgres", "-d", database])

    def start(self) -> None:
        """Start the server, on a cluster made if need be, and return when it takes connections.

        Raises:
            EmbeddedError: no binaries, a cluster of another major version, in use by another
                process, or the server does not start.  The message names which.
        """
        try:
            self._own()
            self.bindir = self._choose_bindir()
            self._end_orphan()
            user = _Unprivileged(self.bindir, self.data_dir)
            if not self.cluster.exists():
                self._initdb(user)
            self._launch(user)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Shut the server down, fast.  `start()` may follow."""
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            assert watcher.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                watcher.stdin.write(b"k")  # keep what is temporary: it may start again
                watcher.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                watcher.stdin.close()
            watcher.wait()
        self._disown()

    def crash(self) -> None:
        """Kill the server as a power cut would (SIGQUIT: no checkpoint).  `start()` may follow."""
        pid = _postmaster_pid(self.cluster)
        if pid is not None:
            os.kill(pid, signal.SIGQUIT)
        if self._watcher is not None:
            self._watcher.wait()
        self.stop()

    def close(self) -> None:
        """Shut the server down and remove what was temporary."""
        try:
            self.stop()
        finally:  # a second Ctrl-C ends the wait, and leaves nothing either
            if self.socket_dir != self.data_dir:
                shutil.rmtree(self.socket_dir, ignore_errors=True)
                self.socket_dir = self.data_dir
            if self._temporary:
                shutil.rmtree(self.data_dir, ignore_errors=True)

    def _own(self) -> None:
        # flock and not a pid file: the kernel lets go of it when its owner dies, however it does.
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as e:
            raise EmbeddedError(
                f"cannot keep a database in {self.data_dir}: {e.strerror}",
                "Choose another directory (--data DIR, make demo DATA=DIR).",
            ) from e
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode() or "another process"
            os.close(lock)
            raise EmbeddedError(
                f"the database in {self.data_dir} is in use by process {owner}",
                f"Stop it, or choose another directory. Its DSN: {running_dsn(self.data_dir)}",
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def _disown(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _choose_bindir(self) -> Path:
        try:
            made_by: int | None = int((self.cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            made_by = None
        except PermissionError as e:
            raise EmbeddedError(
                f"{self.cluster} belongs to another user", "Choose another directory."
            ) from e
        if self._wanted_bindir is None:
            with contextlib.suppress(EmbeddedError):
                return find_bindir(made_by)
        bindir = self._wanted_bindir or find_bindir()
        if not usable(bindir):
            raise EmbeddedError(f"{bindir} has no postgres and initdb", INSTALL_HINT)
        ours = server_major(bindir)
        if made_by not in (None, ours):
            raise EmbeddedError(
                f"{self.cluster} was made by PostgreSQL {made_by}; {bindir} is PostgreSQL {ours}",
                f"Point ORDINAUT_PG_BINDIR at PostgreSQL {made_by}, or choose another directory.",
            )
        return bindir

    def _end_orphan(self) -> None:
        """Wait for a server whose owner was killed to be gone; end one that has no watcher."""
        deadline = time.monotonic() + 5
        while (pid := _postmaster_pid(self.cluster)) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGINT)
                deadline += 30
            time.sleep(0.05)

    def _initdb(self, user: _Unprivileged) -> None:
        # Into a directory of another name, so that an interrupted initdb is never taken for one.
        unfinished = self.data_dir / "pg.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        sync = ["--no-sync"] if self._options.get("fsync") == "off" else []
        done = subprocess.run(
            [*user.command(self.bindir / "initdb"), "-D", unfinished, "-U", "postgres",
             "--auth=trust", "-E", "UTF8", "--no-locale", *sync],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedError(f"initdb in {self.data_dir} failed: {_tail(done.stderr)}")
        unfinished.rename(self.cluster)

    def _launch(self, user: _Unprivileged) -> None:
        is_long = len(os.fsencode(self.data_dir)) + len(f"/.s.PGSQL.{_PORT}") > _SOCKET_PATH_MAX
        if is_long and self.socket_dir == self.data_dir:
            # Kept until close(): who has the DSN keeps it over a restart.
            self.socket_dir = Path(tempfile.mkdtemp(prefix="ordinaut-"))
            user.give(self.socket_dir)
        settings = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": f'"{self.socket_dir}"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "max_connections": "200",
            **self._options,
        }
        command = [*user.command(self.bindir / "postgres"), "-D", str(self.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        remove = [str(self.data_dir)] if self._temporary else []
        if self.socket_dir != self.data_dir:
            remove.append(str(self.socket_dir))
        stale = _started(self.cluster)
        with self.log.open("ab") as log:
            begin = log.tell()
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", str(_WATCHER), *remove, "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; the server ends after us
            )
        self._wait_ready(begin, stale)

    def _wait_ready(self, begin: int, stale: list[str]) -> None:
        assert self._watcher is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while (now := _started(self.cluster)) == stale or now[-1:] not in _TAKES_CONNECTIONS:
            ended = self._watcher.poll() is not None
            if ended or time.monotonic() > deadline:
                with self.log.open(errors="replace") as log:
                    log.seek(begin)
                    why = _tail(log.read()) or "it said nothing"
                raise EmbeddedError(f"PostgreSQL in {self.data_dir} did not start: {why}")
            time.sleep(0.01)


class _Unprivileged:
    """How to run a program that refuses to be root: as we are, in a namespace, or as nobody."""

    def __init__(self, bindir: Path, data_dir: Path) -> None:
        self._prefix: list[str] = []
        self._give = False
        if os.geteuid() != 0:
            return
        self._prefix = ["unshare", "-U", "--map-user=65534", "--map-group=65534"]
        if _runs([*self._prefix, bindir / "postgres", "-V"]):
            return
        # Containers often forbid namespaces.  Then really be nobody, on a directory of our own.
        self._prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        self._give = True
        self.give(data_dir)
        reachable = _runs([*self._prefix, "test", "-w", data_dir])
        if not (reachable and _runs([*self._prefix, bindir / "postgres", "-V"])):
            raise EmbeddedError(
                "PostgreSQL refuses to run as root, this machine forbids user namespaces, and the"
                f" user nobody cannot reach {data_dir} and {bindir}",
                "Run as an ordinary user, or set DATABASE_URL.",
            )

    def command(self, program: Path) -> list[str]:
        return [*self._prefix, str(program)]

    def give(self, directory: Path) -> None:
        """Let the server own a directory of ours, where it really is another user."""
        if self._give:
            os.chown(directory, 65534, 65534)


def _runs(command: list[Any]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, env=_environment()).returncode == 0
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """Return the environment without libpq's variables, which would redirect the server's tools."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def _tail(text: str, lines: int = 3) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])


def _postmaster_pid(cluster: Path) -> int | None:
    """Return the pid of the server that runs on `cluster`, or None."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
    except (OSError, IndexError, ValueError):
        return None
    # A stale file may name a stranger: after a reboot, pids begin anew.
    return pid if str(cluster) in _arguments(pid) else None


def _arguments(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    with contextlib.suppress(OSError):  # macOS
        ps = ["ps", "-o", "args=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True).stdout
    return ""


def _started(cluster: Path) -> list[str]:
    """Return who runs there since when, and "ready" once it is; after a kill -9 that is stale."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        return [lines[0], lines[2], lines[7].strip()]
    except (OSError, IndexError):
        return []
