"""
A machine with systemd as PID 1, in namespaces of this host, in under a second: see `machine`.

Inside are the units as shipped, Ordinaut at the path that they name, and the host directories that
were asked for.  Everything else is the host's own, read-only in effect.  It needs root, unshare and
systemd, but no systemd that runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SYSTEM = Path("/etc/systemd/system")
_PRIVATE = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
_BOOT = 30.0


def wait_until(fact: object, seconds: float = 15.0, why: object = None) -> None:
    """Return when `fact()` is true; fail after `seconds`, with what `why()` says."""
    until = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        if time.monotonic() > until:
            raise AssertionError(f"never came true: {why() if callable(why) else fact}")
        time.sleep(0.02)


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
        """Move the calling process in; to be called between fork and exec."""
        for path in self.paths:
            (path / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        for path in self.paths:
            for directory, _, _ in os.walk(path, topdown=False):
                until = time.monotonic() + 5
                while True:  # a process that was killed leaves its cgroup a little later
                    try:
                        os.rmdir(directory)
                        break
                    except OSError:
                        if time.monotonic() > until:
                            raise
                        time.sleep(0.02)


def _mounted(controllers: str) -> str:
    """Where a hierarchy is mounted; in the words of /proc/self/cgroup, "" is cgroup2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        is_it = controllers in options.split(",") if controllers else kind == "cgroup2"
        if kind.startswith("cgroup") and is_it:
            return place.split(" ")[4]
    return ""


class Machine:
    """The machine, from construction to `stop`.

    Args:
        binds: host directory to path inside, besides those that Ordinaut itself needs.
    """

    def __init__(self, binds: dict[Path, str]) -> None:
        self._memory = tempfile.mkdtemp(prefix="ordinaut-machine-")
        self._cgroups = Cgroups()
        python, binds = _python({ROOT: "/opt/checkout"} | binds)
        self._process = subprocess.Popen(
            [
                *("unshare", *_PRIVATE, "--uts", "--ipc", "--net", "--cgroup"),
                *(str(Path(__file__).with_name("machine")), self._memory),
                *(f"{host}={inside}" for host, inside in binds.items()),
            ],
            preexec_fn=self._cgroups.enter,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(self._up, _BOOT, self._words)
            self.write("/opt/ordinaut/bin/ordinaut", python, 0o755)
            for unit in UNITS.iterdir():
                self.write(str(SYSTEM / unit.name), unit.read_text())
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """Run a command inside and return what it said, on either stream."""
        done = subprocess.run(
            [
                *("nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w"),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": "", "LC_ALL": "C"},
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}"
        return done.stdout.rstrip("\n")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        inside = self._inside(path)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        inside.chmod(mode)

    def remove(self, path: str) -> None:
        self._inside(path).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it at once: the death of its PID 1 is that of all."""
        self._process.kill()  # --kill-child
        with contextlib.suppress(ProcessLookupError):
            if init := self._child():
                os.kill(init, signal.SIGKILL)
        self._process.communicate()
        self._cgroups.remove()
        os.rmdir(self._memory)

    @property
    def _init(self) -> int:
        init = self._child()
        assert init, "the machine is down"
        return init

    def _inside(self, path: str) -> Path:
        return Path(f"/proc/{self._init}/root", path.lstrip("/"))

    def _child(self) -> int:
        pid = self._process.pid
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            return int(text) if text else 0
        return 0

    def _up(self) -> bool:
        assert self._process.poll() is None, self._words()
        if not (init := self._child()) or not os.readlink(f"/proc/{init}/exe").endswith("/systemd"):
            return False
        return self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def _words(self) -> str:
        if self._process.poll() is None:
            return "PID 1 does not come up: " + self.run("systemctl", "list-jobs", check=False)
        assert self._process.stdout is not None
        return self._process.stdout.read().decode()


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
