"""
Which leases this process answers for: what a heartbeat tells the database.

A heartbeat names every lease that the worker holds or has asked for, and the database takes back
the others.  It runs beside the exchanges, in its own thread, so two orders of events must be
survived:

    list made, exchange commits a new lease, heartbeat arrives
        The new lease is not in the list.  The database takes back only leases that are older
        than the heartbeat before this one, and of those the list knows all: a lease is in it
        from before its exchange is sent until its last unit is settled.

    list made, exchange settles a lease, heartbeat arrives
        The database no longer knows it and answers "lost".  So the loop believes that only of
        leases that it held when the list was made and holds still.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterable


class Ledger:
    """Leases held, with the number of units not settled; safe for two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[bytes, int] = {}
        self._asked: set[bytes] = set()  # in an exchange whose answer is not known

    def __contains__(self, lease_id: bytes) -> bool:
        return lease_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def ask(self) -> bytes:
        """Return an id for a new lease."""
        lease_id = uuid.uuid4().bytes
        with self._lock:
            self._asked.add(lease_id)
        return lease_id

    def answered(self, lease_id: bytes, units: int) -> None:
        """Take note of what an exchange leased under this id; 0: nothing."""
        with self._lock:
            self._asked.discard(lease_id)
            if units:
                self._held[lease_id] = units

    def settled(self, lease_ids: Iterable[bytes]) -> None:
        """Take note of settled units: their leases, one entry per unit."""
        with self._lock:
            for lease_id, units in Counter(lease_ids).items():
                left = self._held.get(lease_id, 0) - units
                if left > 0:
                    self._held[lease_id] = left
                else:
                    self._held.pop(lease_id, None)

    def drop(self, lease_id: bytes) -> None:
        with self._lock:
            self._held.pop(lease_id, None)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self._asked.clear()

    def snapshot(self) -> tuple[set[bytes], set[bytes]]:
        """Return (leases held, leases asked for), for a heartbeat."""
        with self._lock:
            return set(self._held), set(self._asked)
