"""
systemd in namespaces of this host: as PID 1 of a machine, or as the manager of a user.

It needs root, unshare and systemd, but no systemd that runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from ordinaut.tools.death import die_with_parent
from tests.loops import conftest as loops

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SYSTEM = Path("/etc/systemd/system")
_PRIVATE = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]


def wait_for(fact: Callable[[], Any]) -> Any:
    """Return the first true answer of `fact`; with the patience that whole services need."""
    return loops.wait_for(fact, 60)


class Cgroups:
    """A cgroup of our own in every hierarchy, and nothing left of it: systemd takes them all."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        name = f"ordinaut-test-{uuid4().hex[:8]}"
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if mount := _mounted(controllers):
                own = Path(mount, path.lstrip("/"), name)
                own.mkdir()
                self.paths.append(own)
                for limit in ("cpuset.cpus", "cpuset.mems"):  # v1 begins with none
                    if (own / limit).exists() and controllers:
                        (own / limit).write_text((own.parent / limit).read_text())

    def enter(self) -> None:
        """Move the calling process in."""
        for path in self.paths:
            (path / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        for path in self.paths:
            for directory, _, _ in os.walk(path, topdown=False):
                wait_for(partial(_removed, directory))


def _removed(directory: str) -> bool:
    """Remove a cgroup; not yet while a process that was killed is still leaving it."""
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True


def _mounted(controllers: str) -> str:
    """Where a hierarchy is mounted; in the words of /proc/self/cgroup, "" is cgroup2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        is_it = controllers in options.split(",") if controllers else kind == "cgroup2"
        if kind.startswith("cgroup") and is_it:
            return place.split(" ")[4]
    return ""


class Namespaces:
    """Processes that see only each other, from construction to `stop`.

    Attributes:
        shares: the namespaces of its own, as letters of nsenter.
        env: of what `run` runs.
    """

    shares = "mp"
    env: ClassVar = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": "", "LC_ALL": "C"}

    def __init__(self, unshare: list[str], command: list[str]) -> None:
        self._cgroups = Cgroups()
        die = die_with_parent(os.getpid())  # and with it all inside, if pytest is killed

        def begin() -> None:
            die()
            self._cgroups.enter()

        self._process = subprocess.Popen(
            ["unshare", *unshare, *_PRIVATE, *command],
            preexec_fn=begin,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
        )
        try:
            wait_for(self._up)
            self.prepare()
        except BaseException:
            self.stop()
            raise

    def prepare(self) -> None:
        """Do what there is to do when systemd is up."""

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """Run a command inside and return what it said, on either stream."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), *(f"-{n}" for n in self.shares), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            env=self.env,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}"
        return done.stdout.rstrip("\n")

    def stop(self) -> None:
        """End it at once: the death of its PID 1 is that of all."""
        with contextlib.suppress(ProcessLookupError):
            if init := self._child():
                os.kill(init, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        self._cgroups.remove()

    @property
    def _init(self) -> int:
        init = self._child()
        assert init, "it is down"
        return init

    def _child(self) -> int:
        pid = self._process.pid
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            return int(text) if text else 0
        return 0

    def _up(self) -> bool:
        if self._process.poll() is not None:
            assert self._process.stdout is not None
            raise AssertionError(f"it did not start: {self._process.stdout.read().decode()}")
        return self._child() > 0 and self._state() in ("running", "degraded")

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False)


class Machine(Namespaces):
    """A machine whose PID 1 is systemd, up in under a second: see the script `machine`.

    Inside are the units as shipped and Ordinaut at the path that they name.  The rest is the host's
    own, and stays as it was.

    Args:
        binds: host directory to path inside, besides those that Ordinaut itself needs.
    """

    shares = "mpuinCrw"

    def __init__(self, binds: dict[Path, str]) -> None:
        self._memory = tempfile.mkdtemp(prefix="ordinaut-machine-")
        self._python, binds = _python({ROOT: "/opt/checkout"} | binds)
        super().__init__(
            ["--uts", "--ipc", "--net", "--cgroup"],
            [
                *(str(Path(__file__).with_name("machine")), self._memory),
                *(f"{host}={inside}" for host, inside in binds.items()),
            ],
        )

    def prepare(self) -> None:
        self.write("/opt/ordinaut/bin/ordinaut", self._python, 0o755)
        for unit in UNITS.iterdir():
            self.write(str(SYSTEM / unit.name), unit.read_text())

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        inside = self._inside(path)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        inside.chmod(mode)

    def remove(self, path: str) -> None:
        self._inside(path).unlink(missing_ok=True)

    def stop(self) -> None:
        super().stop()
        os.rmdir(self._memory)

    def _inside(self, path: str) -> Path:
        return Path(f"/proc/{self._init}/root", path.lstrip("/"))

    def _up(self) -> bool:
        # Before, what answers is the script.
        return self._child() > 0 and _is_systemd(self._child()) and super()._up()


class UserManager(Namespaces):
    """A `systemd --user`, of root, which sees the host's files as they are."""

    env: ClassVar = Namespaces.env | {"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/nonexistent"}

    def __init__(self) -> None:
        # Not as PID 1 of the namespace: it would take itself for the manager of a system.
        script = (
            "mount -t tmpfs tmpfs /run && mkdir -p -m 700 /run/systemd/system /run/user/0"
            " && { /lib/systemd/systemd --user & wait; }"
        )
        super().__init__(["--mount-proc"], ["sh", "-c", script])

    def _state(self) -> str:
        return self.run("systemctl", "--user", "is-system-running", check=False)


def _is_systemd(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith("/systemd")
    except OSError:
        return False


def _python(binds: dict[Path, str]) -> tuple[str, dict[Path, str]]:
    """Return an `ordinaut` for inside, and what it needs to find there.

    Under /opt, whatever this Python's own path is: units hide /home, /root and /tmp.
    """
    binds = binds | {Path(sysconfig.get_path("purelib")): "/opt/packages"}
    python = f"{sys.base_prefix}/bin/python3"
    if sys.base_prefix != "/usr":
        binds[Path(sys.base_prefix)] = "/opt/python"
        python = "/opt/python/bin/python3"
    script = (
        "#!/bin/sh\n"
        "export PYTHONPATH=/opt/checkout:/opt/packages PYTHONDONTWRITEBYTECODE=1\n"
        "export LD_LIBRARY_PATH=/opt/python/lib\n"
        f'exec {python} -m ordinaut "$@"\n'
    )
    return script, binds
