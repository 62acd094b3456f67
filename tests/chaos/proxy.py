"""
A TCP proxy before the server that misbehaves on request.

One thread per direction of each connection.  What it can do to them:

    swallow     the server hears the request and acts; its answer never arrives (a lost COMMIT)
    stall       nothing passes any more, and nobody is told (half-open)
    reset       RST to both sides
    delay       each packet waits
    refuse      new connections are closed at once
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

_RST = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on 127.0.0.1, a port for each server; `targets` are their sockets, and may change."""

    def __init__(self, *targets: Path) -> None:
        self.targets = list(targets)
        self.delay = 0.0
        self.refuse = False
        self._swallow = 0
        self._stalled = threading.Event()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=200) for _ in targets]
        self.ports: list[int] = [listener.getsockname()[1] for listener in self._listeners]
        for n in range(len(targets)):
            self._thread(self._accept, n)

    def swallow(self, answers: int) -> None:
        """Lose the next so many answers of the server, and their connections with them."""
        with self._lock:
            self._swallow = answers

    @property
    def swallowing(self) -> int:
        return self._swallow

    def stall(self) -> None:
        """Let nothing pass on the connections of now, without a word; `unstall` ends them."""
        self._stalled.set()

    def unstall(self) -> None:
        self.reset()
        self._stalled.clear()

    def reset(self) -> None:
        """RST on every connection."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self.reset()

    def _accept(self, n: int) -> None:
        while True:
            try:
                client, _ = self._listeners[n].accept()
            except OSError:
                return
            if self.refuse or self._stalled.is_set():
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self.targets[n]))
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            self._thread(self._pump, pair, client, server, False)
            self._thread(self._pump, pair, server, client, True)

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket,
        sink: socket.socket, answers: bool,
    ) -> None:  # fmt: skip
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.delay:
                    time.sleep(self.delay)
                if self._stalled.is_set():
                    continue
                if answers and self._take(data):
                    break
                sink.sendall(data)
        self._end(pair)

    def _take(self, data: bytes) -> bool:
        """Say whether this answer is to be lost: one that ends a statement (ReadyForQuery)."""
        with self._lock:
            # 'Z' is followed by its length, 5, and the transaction's state; I: committed.
            if self._swallow and data[-6:] == b"Z\x00\x00\x00\x05I":
                self._swallow -= 1
                return True
        return False

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        for sock in pair:
            with contextlib.suppress(OSError):
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                # Wakes who reads from it, and sends no FIN: that would be a polite end.
                sock.shutdown(socket.SHUT_RD if sock.family == socket.AF_INET else socket.SHUT_RDWR)
            sock.close()

    def _thread(self, target: object, *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()  # type: ignore[arg-type]
