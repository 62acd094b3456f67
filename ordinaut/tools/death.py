"""Die with the parent: what a kill of the process group cannot reach, the kernel does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


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
