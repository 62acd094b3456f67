"""
Run a server as long as somebody holds the other end of our stdin.

A program, started by its path (embedded.py says why): it imports nothing of Ordinaut, so that it
is up in the time of an interpreter.

    python watcher.py [DIRECTORY_TO_REMOVE ...] -- COMMAND ...

A byte on stdin before its end says that the directories are to be kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    # The second line of defence, for a kill -9 of the watcher itself.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def watch(remove: list[str], command: list[str]) -> int:
    """Run `command` until it ends or stdin does; then remove what was temporary."""
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # Handlers, not SIG_IGN: the server would inherit that.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD"):
        signal.signal(getattr(signal, name), lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    said = None
    while said != b"" and server.poll() is None:
        readable, _, _ = select.select([0, child_ended], [], [])
        if 0 in readable:
            said = os.read(0, 1)
            remove = [] if said else remove
        else:
            os.read(child_ended, 64)
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, the end
        if server.poll() is None:
            server.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(15)
    # Ended by itself while the owner lives: the owner may start it again.
    for directory in remove if said == b"" else []:
        shutil.rmtree(directory, ignore_errors=True)
    return server.wait()


if __name__ == "__main__":
    split = sys.argv.index("--")
    sys.exit(watch(sys.argv[1:split], sys.argv[split + 1 :]))
