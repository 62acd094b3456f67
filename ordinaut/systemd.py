"""
Tell systemd how we are: sd_notify in a datagram, without a library.

READY=1 is sent after the database has agreed on the schema version, WATCHDOG=1 only after a
successful round trip to it.  Without NOTIFY_SOCKET everything here does nothing.

The process that systemd started is the guard, and NotifyAccess=main hears only that one; so the
parent's words pass through the guard, and the variables are taken out of the environment of
everything below it.
"""

from __future__ import annotations

import os
import socket

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def notify(*words: str) -> bool:
    """Send e.g. "READY=1", "STATUS=idle"; return whether somebody listens.

    Never raises: a manager that went away is no reason to stop working.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(words).encode(), address)
    except OSError:
        return False
    return True


def without_notify(environ: dict[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which nobody is told to talk to systemd."""
    return {key: value for key, value in environ.items() if key not in _VARIABLES}
