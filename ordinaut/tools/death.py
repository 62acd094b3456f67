"""
Who dies when: with the parent, because a kill of the process group cannot reach everything; and
before it, when memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_FIRST = b"500"  # half of all memory counts as ours besides what is


def die_with_parent(parent: int) -> Callable[[], None]:
    """Return a function that has the calling process killed when `parent` dies.

    To be called in the new process, between fork and exec or after exec.  On systems without
    such a thing it does nothing: there the end of a socket or the group's kill must do.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork there should be no imports

    def die() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was faster
            os._exit(1)

    return die


def die_first() -> None:
    """Make this process, and what it will start, the kernel's choice when memory runs out.

    A dead child costs one unit of work; a dead parent all of them, and their crashes are charged.
    """
    with contextlib.suppress(OSError):  # another system, or no /proc
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, _FIRST)
        finally:
            os.close(fd)
