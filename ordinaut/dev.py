"""
`ordinaut dev`: everything in one terminal, on a PostgreSQL of its own.

It starts what a host in production runs, nothing else: `ordinaut scheduler` and `ordinaut
worker`, as processes of their own, and looks at them through the same functions that psql has.
What it starts ends with it; the data stays, and the next start takes up where this one left off.

A manifest may have an `ordinaut.toml` beside it (the worker's configuration), and Python modules
(its tools): both are the children's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from ordinaut import db, schema
from ordinaut.apply import Change, apply
from ordinaut.devview import Lines, Screen, Story
from ordinaut.embedded import EmbeddedPostgres
from ordinaut.errors import ConfigurationError
from ordinaut.manifest import read_all
from ordinaut.settings import Settings, mask

_HERE = Path(__file__).parent
_DRAIN = 10.0
_LOOK = 0.25


class Dev:
    """One session of `ordinaut dev`."""

    def __init__(
        self, settings: Settings, manifest: Path | None, seconds: float | None, concurrency: int
    ) -> None:
        self.settings = settings
        self.data = settings.data.absolute()
        self.manifest = (manifest or example()).absolute()
        self.seconds = seconds
        self.concurrency = concurrency
        self._stopping = False
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Start, watch until told to stop, stop, and return the exit code."""
        definitions = list(read_all([self.manifest]))  # a mistake in it should cost no start
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as keep:
            dsn, psql = self._database(keep)
            with db.connect(dsn, name="ordinaut-install", statement_timeout=None) as conn:
                schema.install(conn)
            conn = keep.enter_context(db.connect(dsn, name="ordinaut-dev"))
            changes = apply(conn, definitions)
            self._say(changes, psql)
            keep.callback(self._end_children)
            for name in ("scheduler", "worker"):
                self._children[name] = self._start(name, dsn)
            story = Story(conn)
            code = self._watch(story, psql)
            self._end_children()
            story.look()
            print(story.summary(), flush=True)
        return code

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _database(self, keep: ExitStack) -> tuple[str, str]:
        """The configured database, or one of our own; and the psql line for it."""
        if self.settings.dsn is not None:
            where = mask(self.settings.dsn)
            return self.settings.dsn, f"psql '{where}'"
        server = keep.enter_context(EmbeddedPostgres(self.data))
        return server.dsn, server.psql_line()

    def _say(self, changes: list[Change], psql: str) -> None:
        count = {
            a: sum(c.action == a for c in changes) for a in ("created", "updated", "unchanged")
        }
        said = ", ".join(f"{n} {action}" for action, n in count.items() if n) or "none"
        print(f"database   {psql}")
        print(f"tasks      {self.manifest.name}: {said}")
        print(f"logs       {self.data}/scheduler.log, worker.log", flush=True)

    def _start(self, name: str, dsn: str) -> subprocess.Popen[bytes]:
        home = self.data / "work"
        for folder in (home, home / "inbox", home / "archive"):
            folder.mkdir(exist_ok=True)
        beside = self.manifest.parent
        paths = [str(beside), str(_HERE.parent), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "ORDINAUT_DSN": dsn,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        if (beside / "ordinaut.toml").is_file():
            env["ORDINAUT_CONFIG"] = str(beside / "ordinaut.toml")
        command = [sys.executable, "-m", "ordinaut", name]
        if name == "worker":
            command += ["--concurrency", str(self.concurrency), "--drain", f"{_DRAIN / 2} s"]
        with (self.data / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C is for us, and we end the children in order.
            return subprocess.Popen(
                command, cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def _watch(self, story: Story, psql: str) -> int:
        deadline = None if self.seconds is None else time.monotonic() + self.seconds
        view = Screen(psql) if sys.stdout.isatty() else Lines()
        with view:
            while not self._stopping and (deadline is None or time.monotonic() < deadline):
                self._check_children()
                story.look()
                view.show(story)
                time.sleep(_LOOK)
        return 0

    def _check_children(self) -> None:
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                log = self.data / f"{name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise ConfigurationError(
                    f"the {name} ended with {code}: " + " / ".join(last), f"Its log: {log}"
                )

    def _end_children(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + _DRAIN
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._children.clear()


def example() -> Path:
    """The example that comes along: packaged in a wheel, the repository's own in a checkout."""
    packaged = _HERE / "_examples" / "host.yaml"
    return packaged if packaged.is_file() else _HERE.parent / "examples" / "host.yaml"


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when dev is gone, kill -9 included (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
