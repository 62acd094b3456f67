"""
shell: run a program.  Not a shell: an argument list goes to the program as it is.

    argv       the program, by the very path that the worker's configuration allows, and arguments
    cwd        where; default: the worker's directory
    env        variables; names must be allowed by the configuration
    stdin      text

    output     {"exit_code": 0, "stdout": …, "stderr": …}, the last 4 kB of each

A path is compared as text, so nothing on PATH can take its place; a symbolic link is followed when
the program starts, so whoever may change the link decides what runs: allow the file itself to pin
it.  The environment is empty but for PATH, LANG and what `env` gives.

An exit code other than 0 is a failure worth another try, as is death by a signal.  The program is
in the process group of the child that started it, and dies with it.  One that leaves a process
behind which holds its output open is waited for.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Callable
from typing import Any

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.death import die_with_parent
from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.registry import Host
from ordinaut.tools.secrets import REFERENCE

_TAIL = 4096
_CHUNK = 1 << 16
_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_KEYS = {"argv", "cwd", "env", "stdin"}


def make(host: Host, config: dict[str, Any]) -> Callable[[wire.Unit], bytes]:
    """Return the tool for a worker whose [tools.shell] is `config`.

    Raises:
        ValueError: `allow` is missing, or names something that is no absolute path.
    """
    allow: Any = config.get("allow")
    names: Any = config.get("env", [])
    if not _texts(allow) or not all(path.startswith("/") for path in allow):
        raise ValueError("tools.shell.allow must list the absolute paths of programs")
    if not _texts(names):
        raise ValueError("tools.shell.env must list the names of variables")

    def shell(unit: wire.Unit) -> bytes:
        payload = json.loads(unit[wire.PAYLOAD])
        if REFERENCE in unit[wire.PAYLOAD]:
            payload = host.secrets.resolve(payload)
        _check(payload, allow, names)
        code, out, err = _run(payload)
        result = {"exit_code": code, "stdout": out, "stderr": err}
        if out or err:
            host.note(unit, "log", {"message": f"{payload['argv'][0]} ended", **result})
        if code < 0:
            how = "9 (out of memory?)" if code == -9 else str(-code)
            raise ToolFailed(f"killed by signal {how}", "E3001" if code == -9 else "E4004")
        if code:
            last = (err.strip() or out.strip()).rpartition("\n")[2]
            raise ToolFailed(f"exit code {code}" + (f": {last}" if last else ""))
        return output.dump(result)

    return shell


def _check(payload: Any, allow: list[str], names: list[str]) -> None:
    if not isinstance(payload, dict):
        raise ToolFailed("the payload of shell is an object with argv", "E2001")
    if unknown := payload.keys() - _KEYS:
        raise ToolFailed(f"{min(unknown)}: shell knows no such field", "E2002")
    argv = payload.get("argv")
    if not _texts(argv) or not argv:
        raise ToolFailed("argv: a list of texts, the program first", "E2003")
    if argv[0] not in allow:
        raise ToolFailed(f"argv: this worker does not allow {argv[0]}", "E8001")
    env = payload.get("env") or {}
    if not isinstance(env, dict) or not _texts([*env, *env.values()]):
        raise ToolFailed("env: an object of texts", "E2002")
    if refused := env.keys() - set(names):
        raise ToolFailed(f"env: this worker does not allow {min(refused)}", "E8001")
    for name in ("cwd", "stdin"):
        if not isinstance(payload.get(name), str | None):
            raise ToolFailed(f"{name}: a text", "E2002")


def _run(payload: dict[str, Any]) -> tuple[int, str, str]:
    try:
        process = subprocess.Popen(
            payload["argv"],
            executable=payload["argv"][0],
            cwd=payload.get("cwd"),
            env=_ENV | (payload.get("env") or {}),
            stdin=subprocess.DEVNULL if payload.get("stdin") is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent(os.getpid()),
        )
    except PermissionError as exc:
        raise ToolFailed(f"{exc.filename}: {exc.strerror}", "E8001") from None
    except OSError as exc:
        raise ToolFailed(f"{exc.filename}: {exc.strerror}", "E7001") from None
    except ValueError as exc:  # a NUL
        raise ToolFailed(f"argv: {exc}", "E2002") from None
    try:
        tails = _pump(process, (payload.get("stdin") or "").encode(errors="replace"))
        return process.wait(), *tails
    except BaseException:
        process.kill()
        process.wait()
        raise


def _pump(process: subprocess.Popen[bytes], given: bytes) -> tuple[str, str]:
    """Feed stdin, read both outputs to their ends, and return the tail of each."""
    assert process.stdout and process.stderr
    # A secret that the cut went through is not recognised: what may be the rest of one goes too.
    margin = output.longest_secret()
    keep = _TAIL + margin
    tails = {process.stdout: bytearray(), process.stderr: bytearray()}
    view = memoryview(given)
    with selectors.DefaultSelector() as selector:
        for pipe in tails:
            selector.register(pipe, selectors.EVENT_READ)
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            for key, _ in selector.select():
                if key.fileobj is process.stdin:
                    try:
                        view = view[os.write(key.fd, view[:_CHUNK]) :]
                    except BrokenPipeError:
                        view = view[:0]
                    if not view:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    continue
                tail = tails[key.fileobj]  # type: ignore[index]
                tail += data
                del tail[:-keep]
    texts = []
    for tail in tails.values():
        text = output.plain(tail.decode(errors="replace"))
        texts.append((text[margin:] if len(tail) == keep else text)[-_TAIL:])
    return texts[0], texts[1]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
