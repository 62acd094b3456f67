"""
What a worker's parent and its children say to each other, and how it becomes bytes.

A frame is four bytes of length, big-endian, and one marshalled object.  marshal, because it is
several times faster than JSON and pickle on tuples of bytes; both ends are the same Python on the
same machine, and the socket has no name that anybody else could connect to.

    parent -> child
      ("run", [unit, ...])       a unit is a tuple, its places are named below
      ("cancel", work_id)        an async unit, or one that has not started
      ("return",)                hand back what has not started
      ("stop",)                  finish what runs, and exit 0
    child -> parent
      ("ready", pid, [tool, ...])
      ("done", [(lease_id, work_id, outcome, output, error, microseconds), ...])
      ("note", lease_id, work_id, event, json)     event is log or progress
      ("started", work_id)                         an async unit: it shares the child with others
      ("overdue", work_id)                         an async unit that ignores its cancellation

Ids are 16 bytes, JSON and names are UTF-8 bytes.  The outcomes are those of ordinaut.exchange, and
`settled`: the tool's own transaction has completed the unit.  The payload of a step is an envelope
that the child opens (tools/steps.py); of `waiting`, the output says what for.

Beside the socket there is a cell of shared memory in which the child notes the sync unit that it
runs, so that deadlines need no messages.
"""

from __future__ import annotations

import marshal
import socket
from struct import Struct
from typing import Any

Unit = tuple[Any, ...]
Result = tuple[bytes, bytes, str, bytes | None, bytes | None, int]

# The places of a unit.
LEASE, WORK, RUN, TASK, TOOL, PAYLOAD = 0, 1, 2, 3, 4, 5
ATTEMPT, FAILURES, MAX_ATTEMPTS = 6, 7, 8
TIMEOUT = 9  # microseconds, 0 for none
STEP = 10
SCHEDULED_FOR = 11  # microseconds since 1970, or None

CELL = Struct("<qq16s")  # started, by the monotonic clock in ns, 0 when idle; counter; work_id

_LENGTH = Struct(">I")
_LIMIT = 1 << 28  # nobody sends this much: the stream is broken


def encode(message: Any) -> bytes:
    """Return the frame of a message."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def send(sock: socket.socket, message: Any) -> None:
    """Send a message on a blocking socket."""
    sock.sendall(encode(message))


class Reader:
    """Makes messages of bytes as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        """Return the messages that `data` completes.

        Raises:
            ValueError: this is no frame; nothing that follows can be understood.
        """
        if self._rest:
            data = self._rest + data
        found = []
        start, end = 0, len(data)
        while end - start >= 4:
            (size,) = _LENGTH.unpack_from(data, start)
            if size > _LIMIT:
                raise ValueError(f"a frame of {size} bytes")
            if end - start - 4 < size:
                break
            start += 4
            found.append(marshal.loads(memoryview(data)[start : start + size]))
            start += size
        self._rest = data[start:]
        return found
