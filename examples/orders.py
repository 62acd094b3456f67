"""
Run orders.yaml from end to end: make example

It brings what the pipeline needs: a web shop (a local HTTP server, which is busy at first), a
PostgreSQL of its own, and a worker.  The shop's orders are over the limit, so a person is asked:
you, when this runs in a terminal; else the answer is yes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ordinaut import Ordinaut, db, schema
from ordinaut.apply import apply
from ordinaut.embedded import EmbeddedPostgres
from ordinaut.manifest import read_all

HERE = Path(__file__).resolve().parent
ORDERS = [
    {"id": 1, "customer": "ada lovelace", "lines": [{"price": 24.5, "count": 40}]},
    {"id": 2, "customer": "grace hopper ", "lines": [{"price": 310.0, "count": 1}]},
    {"id": 3, "customer": "alan turing", "cancelled": True, "lines": []},
]
CONFIG = """
[tools.http]
allow_hosts = ["127.0.0.1:{port}"]
[tools.python]
modules = ["orders_tools"]
"""


class Shop(BaseHTTPRequestHandler):
    """A web shop that is busy when it is asked for the first time."""

    asked = 0
    told: dict[str, Any] | None = None

    def do_GET(self) -> None:
        Shop.asked += 1
        self._answer(503 if Shop.asked == 1 else 200, ORDERS)

    def do_POST(self) -> None:
        Shop.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, {"thanks": True})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        print(f"shop      {format % args}")


@contextmanager
def shop() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextmanager
def worker(dsn: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {
        "ORDINAUT_DSN": dsn,
        "ORDINAUT_CONFIG": str(config),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    }
    command = [sys.executable, "-m", "ordinaut", "worker", "--concurrency", "2"]
    process = subprocess.Popen(command, env=env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def answer(prompt: str) -> bool:
    if not sys.stdin.isatty():
        print(f"approval  {prompt} yes")
        return True
    return input(f"approval  {prompt} [y/n] ").lower().startswith("y")


def main() -> int:
    with ExitStack() as keep:
        folder = Path(keep.enter_context(tempfile.TemporaryDirectory()))
        port = keep.enter_context(shop())
        dsn = keep.enter_context(EmbeddedPostgres(folder / "postgres")).dsn
        with db.connect(dsn, name="orders") as conn:
            schema.install(conn)
            apply(conn, list(read_all([HERE / "orders.yaml"])))
        (folder / "ordinaut.toml").write_text(CONFIG.format(port=port))
        hands = keep.enter_context(worker(dsn, folder / "ordinaut.toml"))
        ordinaut = keep.enter_context(Ordinaut(dsn))

        params = {"shop": f"http://127.0.0.1:{port}", "limit": 1000}
        run_id = ordinaut.run_now("shop/daily-orders", params).run_id
        assert run_id is not None
        while ordinaut.get_run(run_id).finished_at is None:
            if hands.poll() is not None:
                return 1  # it has said why
            for approval in ordinaut.approvals():
                approved = answer(approval.prompt)
                ordinaut.respond(approval.approval_id, {"approved": approved})
            time.sleep(0.05)
        subprocess.run(
            [sys.executable, "-m", "ordinaut", "run", "show", str(run_id)],
            env=os.environ | {"ORDINAUT_DSN": dsn, "PYTHONPATH": str(HERE.parent)},
            check=True,
        )
        with db.connect(dsn, name="orders") as conn:
            loaded = conn.execute("select to_regclass('sale') is not null").fetchone()
            if loaded == (True,):
                for row in conn.execute("select order_id, customer, amount from sale order by 1"):
                    print("loaded   ", *row)
        print("the shop was told", json.dumps(Shop.told))
        return 0 if ordinaut.get_run(run_id).state == "success" else 1


if __name__ == "__main__":
    sys.exit(main())
