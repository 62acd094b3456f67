"""
The child process that runs tools: units in, results out.

    main thread     runs sync units one after the other
    reader thread   hears the parent, also while a tool runs: cancels, recalls, the end
    loop            for async tools, once there is one (tools/loop.py)

What the parent must rely on does not need the tool's cooperation: it kills the process group.  A
dead parent is noticed twice, by the end of the socket and by the kernel.  Results are sent when a
batch is finished, every 5 ms, 64 at a time, and before a unit that may take long: a tool that
kills the process should not take finished work with it.

Usage: python -m ordinaut.runner --fd SOCKET --cell MEMORY --slot N, with a configuration in
ORDINAUT_RUNNER_CONFIG.  Exit 78: the configuration cannot work.  Nothing heavy is imported
before a tool needs it: a child should be there in well under 100 ms.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections import deque
from importlib import import_module
from queue import SimpleQueue
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NoReturn

from ordinaut import wire
from ordinaut.tools import control, errors, output, python, registry, steps
from ordinaut.tools.death import die_first, die_with_parent
from ordinaut.tools.echo import echo
from ordinaut.tools.fail import fail
from ordinaut.tools.registry import DEFERRED, SETTLED
from ordinaut.tools.secrets import Secrets

if TYPE_CHECKING:
    from ordinaut.tools.database import Database
    from ordinaut.tools.loop import Loop

EX_CONFIG = 78
_BUILT_IN = ("sql", "shell", "http")  # off unless configured
_FLUSH_NS = 5_000_000
_FLUSH_UNITS = 64
_SLOW_NS = 500_000  # before a tool that took longer the last time, results are sent
_NOTE = 1 << 16  # bytes of a note's data
_STEP = wire.STEP  # as a global of this module: it is looked at for every unit

Run = steps.Run


class Runner:
    """A child's side of the conversation."""

    def __init__(
        self, sock: socket.socket, cell: mmap.mmap | bytearray, config: dict[str, Any]
    ) -> None:
        self._sock = sock
        self._cell = cell
        self._config = config
        self._python: dict[str, Any] | None = None
        self._todo: deque[wire.Unit] = deque()
        self._out: list[wire.Result] = []
        self._sending = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._late: set[bytes] = set()  # cancelled between leaving _todo and reaching the loop
        self._loop: Loop | None = None
        self._databases: dict[str | None, Database] = {}
        self.secrets = Secrets(config.get("secrets_dir"))
        self._tools: dict[bytes, Run] = {b"echo": echo, b"fail": fail}
        self._tools |= {name.encode(): control.tool(name) for name in control.PLANS}
        self.names = [name.decode() for name in self._tools]
        self._configure(config.get("tools") or {})

    def serve(self) -> None:
        """Say that we are ready, and run what comes until told to stop."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(("ready", os.getpid(), self.names))
        while not self._stopping or self._todo:
            self._wake.get()
            self._work()
        if self._loop:
            self._loop.join()
        self.flush()

    def forked(self) -> None:
        """Keep the copy of us that a tool's fork made from doing our work and speaking for us."""
        self._todo.clear()
        os.dup2(os.open(os.devnull, os.O_RDWR), self._sock.fileno(), inheritable=False)

    # The main thread

    def _work(self) -> None:
        take, append, note_start = self._todo.popleft, self._out.append, wire.CELL.pack_into
        out, cell, tools, clock = self._out, self._cell, self._tools, monotonic_ns
        fast: set[bytes] = set()
        counter = wire.CELL.unpack_from(cell)[1]
        flushed = started = clock()
        while True:
            try:
                unit = take()
            except IndexError:
                break
            lease_id, work_id, tool = unit[0], unit[1], unit[4]
            if out and tool not in fast:
                self.flush()
                flushed = clock()
            counter += 1
            started = clock()
            note_start(cell, 0, started, counter, work_id)
            try:
                run = tools.get(tool) or self._find(tool)
                result = run(unit) if unit[_STEP] is None else steps.run(unit, run, self)
            except BaseException as exc:
                self._fail(unit, exc, started)
                ended = clock()
            else:
                ended = clock()
                if result is SETTLED:
                    append((lease_id, work_id, "settled", None, None, (ended - started) // 1000))
                elif result is not DEFERRED:
                    append((lease_id, work_id, "success", result, None, (ended - started) // 1000))
            if ended - started < _SLOW_NS:
                fast.add(tool)
            else:
                fast.discard(tool)
            if len(out) >= _FLUSH_UNITS or ended - flushed >= _FLUSH_NS:
                self.flush()
                flushed = ended
        note_start(cell, 0, 0, counter, bytes(16))
        self._late.clear()
        self.flush()

    def _find(self, name: bytes) -> Run:
        """Make a Python function a tool; it is asked for once."""
        if self._python is None:
            raise python.UnknownTool(f"this worker runs no Python tools: {name.decode()}")
        tool = python.PythonTool(python.find(name.decode(), self._python), self)
        run = self._starter(tool) if tool.is_async else tool
        self._tools[name] = run
        return run

    def _starter(self, tool: python.PythonTool) -> Run:
        if self._loop is None:
            from ordinaut.tools.loop import GRACE, Loop

            self._loop = Loop(self, self._config.get("async_grace", GRACE))
        loop, cell = self._loop, self._cell

        def start(unit: wire.Unit) -> bytes:
            # It shares us with others: the parent must not hold us to its deadline.
            wire.CELL.pack_into(cell, 0, 0, wire.CELL.unpack_from(cell)[1], bytes(16))
            loop.start(unit, tool)
            if unit[wire.WORK] in self._late:
                loop.cancel(unit[wire.WORK])
            return DEFERRED

        return start

    # Results, from any thread

    def flush(self) -> None:
        """Send the results that there are."""
        with self._sending:
            count = len(self._out)  # others may append meanwhile
            if count:
                self._write(wire.encode(("done", self._out[:count])))
                del self._out[:count]

    def note(self, unit: wire.Unit, event: str, data: dict[str, Any]) -> None:
        """Send a line of a tool for its journal."""
        body = output.dump(data, _NOTE)
        self._send(("note", unit[wire.LEASE], unit[wire.WORK], event, body))

    def started(self, unit: wire.Unit) -> None:
        self._send(("started", unit[wire.WORK]))

    def overdue(self, work_id: bytes) -> None:
        self._send(("overdue", work_id))

    def succeeded(self, unit: wire.Unit, result: bytes | None, started: int) -> None:
        if result is not SETTLED:
            try:
                steps.check_output(unit, result)
            except errors.ToolFailed as exc:
                return self.failed(unit, exc, started)
        outcome, result = ("settled", None) if result is SETTLED else ("success", result)
        self._report(unit, outcome, result, None, started)

    def failed(self, unit: wire.Unit, exc: BaseException, started: int, outcome: str = "") -> None:
        self._fail(unit, exc, started, outcome)
        self.flush()

    def _fail(self, unit: wire.Unit, exc: BaseException, started: int, outcome: str = "") -> None:
        elapsed = (monotonic_ns() - started) // 1000
        if isinstance(exc, errors.Verdict):
            ids = unit[wire.LEASE], unit[wire.WORK]
            self._out.append((*ids, exc.outcome, exc.output, exc.error, elapsed))
            return
        try:
            said, error = self._describe(unit, exc, elapsed)
        except Exception:  # an exception that cannot even be looked at
            said, error = "failed", b'{"message": "an error that cannot be described"}'
        result = (unit[wire.LEASE], unit[wire.WORK], outcome or said, None, error, elapsed)
        self._out.append(result)

    def _describe(self, unit: wire.Unit, exc: BaseException, elapsed: int) -> tuple[str, bytes]:
        if isinstance(exc, python.UnknownTool):
            return "declined", output.dump({"message": str(exc)})
        outcome, error = errors.describe(exc)
        # A statement is stopped a little before the unit's own deadline.
        limit = unit[wire.TIMEOUT]
        if limit and elapsed > limit * 0.85 and errors.classify(exc).category == "timeout":
            outcome = "timed_out"
        return outcome, error

    def _report(
        self, unit: wire.Unit, outcome: str, result: bytes | None, error: bytes | None, started: int
    ) -> None:
        elapsed = (monotonic_ns() - started) // 1000
        self._out.append((unit[wire.LEASE], unit[wire.WORK], outcome, result, error, elapsed))
        self.flush()

    def _send(self, message: object) -> None:
        frame = wire.encode(message)
        with self._sending:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        try:
            self._sock.sendall(frame)
        except OSError:
            _give_up()

    # The reader thread

    def _listen(self) -> None:
        reader = wire.Reader()
        try:
            while data := self._sock.recv(1 << 18):
                for message in reader.feed(data):
                    self._hear(message)
        except ConnectionError:
            pass
        except Exception as exc:
            print(f"ordinaut: a child does not understand its parent: {exc!r}", file=sys.stderr)
        _give_up()

    def _hear(self, message: Any) -> None:
        kind = message[0]
        if kind == "run":
            self._todo.extend(message[1])
        elif kind == "cancel":
            self._cancel(message[1])
        elif kind == "return":
            back = []
            while True:
                try:
                    back.append(self._todo.pop())
                except IndexError:
                    break
            self._release(back[::-1])
        elif kind == "stop":
            self._stopping = True
        else:
            raise ValueError(f"the parent says {kind!r}")
        self._wake.put(None)

    def _cancel(self, work_id: bytes) -> None:
        for unit in list(self._todo):
            if unit[wire.WORK] == work_id:
                try:
                    self._todo.remove(unit)
                except ValueError:  # the main thread was faster
                    break
                return self._release([unit])
        self._late.add(work_id)
        if self._loop:
            self._loop.cancel(work_id)

    def _release(self, units: list[wire.Unit]) -> None:
        self._out.extend(
            [(unit[wire.LEASE], unit[wire.WORK], "released", None, None, 0) for unit in units]
        )
        self.flush()

    # What it can do

    def database(self, dsn: str | None = None) -> Database:
        if dsn not in self._databases:
            from ordinaut.tools.database import Database

            self._databases[dsn] = Database(self._config, dsn)
        return self._databases[dsn]

    def _configure(self, tools: dict[str, Any]) -> None:
        if unknown := tools.keys() - {"python", *_BUILT_IN}:
            known = ", ".join(["python", *_BUILT_IN])
            raise ValueError(f"there is no tools.{min(unknown)}; there are {known}")
        settings = tools.get("python", {})
        if settings is not False:
            self._python = settings if isinstance(settings, dict) else {}
            modules = self._python.get("modules", [])
            registry.load(modules)
            self.names += registry.TOOLS
            if self._python.get("strict"):
                self.names += [f"python:{module}.*" for module in modules]
            else:
                self.names.append("python:*")
        for name in _BUILT_IN:
            given = tools.get(name)
            if given is None or given is False:
                continue
            make = import_module(f"ordinaut.tools.{name}").make
            self._tools[name.encode()] = make(self, given if isinstance(given, dict) else {})
            self.names.append(name)


def main(argv: list[str]) -> int:
    """Run a child; `argv` as in the head of this module."""
    # The parent passes what follows by hand: argparse would cost more than all the rest.
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    die_with_parent(os.getppid())()
    die_first()
    fd, memory = int(given["--fd"]), int(given["--cell"])
    cell = mmap.mmap(memory, wire.CELL.size)
    os.close(memory)
    os.set_inheritable(fd, False)
    config = json.loads(os.environ.pop("ORDINAUT_RUNNER_CONFIG", "{}"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            masked = output.Masked(
                stream.detach(), stream.encoding, "backslashreplace", line_buffering=True
            )
            setattr(sys, name, masked)

    sock = socket.socket(fileno=fd)
    try:
        runner = Runner(sock, cell, config)
    except Exception as exc:
        import traceback

        traceback.print_exc()
        reason = errors.message(exc)
        print(f"ordinaut: a child cannot start: {reason}", file=sys.stderr)
        with contextlib.suppress(OSError):
            sock.sendall(wire.encode(("broken", reason)))
        return EX_CONFIG
    os.register_at_fork(after_in_child=runner.forked)
    runner.serve()
    return 0


def _give_up() -> NoReturn:
    """The parent is gone.  What our tools started goes with us."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _exit(code: int) -> NoReturn:
    """Leave without waiting for threads that a tool has left behind."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
