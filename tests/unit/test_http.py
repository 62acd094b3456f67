"""http talks to allowed hosts at checked addresses, and takes no more than it may."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ordinaut.tools import hosts, http
from ordinaut.tools.errors import ToolFailed, classify
from ordinaut.tools.secrets import Secrets
from tests.unit.child import Child, unit_of
from tests.unit.child import child as child

BOMB = gzip.compress(bytes(50_000_000))


class Site(BaseHTTPRequestHandler):
    """What the tests ask: each path is a behaviour."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, Any]]
    over: ClassVar[list[str]] = []

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append(
            {
                "method": self.command,
                "path": self.path,
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "body": body.decode(),
            }
        )
        path, _, query = self.path.partition("?")
        name, *rest = path.strip("/").split("/")
        getattr(self, f"page_{name}")(*rest, query)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def page_echo(self, _: str) -> None:
        self.answer(body=json.dumps(self.seen[-1]).encode(), content_type="application/json")

    def page_text(self, _: str) -> None:
        self.answer(body="grüß".encode("latin-1"), content_type="text/plain; charset=latin-1")

    def page_odd(self, _: str) -> None:
        self.answer(body=b"\xff{", content_type="application/json; charset=no-such")

    def page_status(self, status: str, query: str) -> None:
        self.answer(
            int(status), f"said {status}".encode(), **({"retry_after": query} if query else {})
        )

    def page_to(self, status: str, query: str) -> None:
        self.answer(int(status), location=query)

    def page_size(self, size: str, _: str) -> None:
        self.answer(body=b"x" * int(size))

    def page_stream(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(b"x" * 65536)
        except OSError:
            self.over.append("stream")

    def page_bomb(self, _: str) -> None:
        self.answer(body=BOMB, content_encoding="gzip")

    def page_gzip(self, _: str) -> None:
        body = gzip.compress(b"one ") + gzip.compress(b"two")
        self.answer(body=body, content_encoding="gzip")

    def page_coding(self, name: str, _: str) -> None:
        self.answer(body=b"nonsense", content_encoding=name)

    def page_short(self, _: str) -> None:
        self.answer(body=gzip.compress(b"x" * 1000)[:-8], content_encoding="gzip")

    def page_hang(self, _: str) -> None:
        self.rfile.read(1)  # until the other side has gone

    def page_promise(self, _: str) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000000000")
        self.end_headers()
        self.page_hang("")

    def page_drop(self, _: str) -> None:
        self.close_connection = True

    def page_slow(self, _: str) -> None:
        """Send a byte now and then, each soon enough."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


class Server:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        handler = type("Handler", (Site,), {"seen": []})
        self.seen: list[dict[str, Any]] = handler.seen
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    both = [Server(), Server()]
    yield both
    for server in both:
        server.close()


@pytest.fixture
def site(servers: list[Server]) -> Server:
    servers[0].seen.clear()
    servers[1].seen.clear()
    return servers[0]


class Hands:
    secrets = Secrets(None)


def tool(lookup: Any = hosts.resolve, **config: Any) -> Callable[..., Any]:
    run = http.make(Hands(), config, lookup)  # type: ignore[arg-type]

    def call(url: str, timeout_of_unit: float = 0, **payload: Any) -> Any:
        unit = unit_of("http", {"url": url, **payload}, timeout=timeout_of_unit)
        return json.loads(run(unit))

    return call


def local(site: Server, **config: Any) -> Callable[..., Any]:
    """A tool for which the site is api.test:PORT."""
    call = tool(
        lambda host, port: ["127.0.0.1"],
        allow_hosts=["api.test:*", "other.test:*"],
        allow_private_hosts=["*.test"],
        **config,
    )
    return lambda path, *args, **payload: call(
        f"http://api.test:{site.port}{path}", *args, **payload
    )


def refused(call: Callable[..., Any], *args: Any, **payload: Any) -> tuple[str, str, bool]:
    with pytest.raises(ToolFailed) as caught:
        call(*args, **payload)
    _, code, retryable = classify(caught.value)
    return str(caught.value), code, retryable


# Requests and answers


def test_a_request_is_what_was_asked_for_and_the_answer_what_came(site: Server) -> None:
    get = local(site)

    result = get("/echo?a=1", params={"b": [1, 2], "c": None, "d": "x y"}, headers={"X-Key": "k"})

    seen = result["json"]
    assert (result["status"], result["headers"]["content-type"]) == (200, "application/json")
    assert result["url"] == f"http://api.test:{site.port}/echo?a=1&b=1&b=2&d=x+y"
    assert result["elapsed_ms"] >= 0
    assert (seen["method"], seen["path"]) == ("GET", "/echo?a=1&b=1&b=2&d=x+y")
    assert seen["headers"]["host"] == f"api.test:{site.port}"
    assert seen["headers"]["x-key"] == "k"
    assert seen["headers"]["user-agent"].startswith("ordinaut/")


def test_bodies(site: Server) -> None:
    send = local(site)

    as_json = send("/echo", json={"a": "ü"})["json"]
    as_text = send("/echo", method="put", body="plain", headers={"content-type": "a/b"})["json"]
    no_body = send("/echo", method="DELETE")["json"]

    assert (as_json["method"], json.loads(as_json["body"])) == ("POST", {"a": "ü"})
    assert as_json["headers"]["content-type"] == "application/json"
    assert (as_text["method"], as_text["body"]) == ("PUT", "plain")
    assert as_text["headers"]["content-type"] == "a/b"
    assert (no_body["method"], no_body["body"]) == ("DELETE", "")


def test_answers_that_are_no_json_are_text(site: Server) -> None:
    get = local(site)

    assert get("/text")["text"] == "grüß"
    assert get("/odd")["text"] == "\ufffd{"
    assert get("/gzip")["text"] == "one two"
    assert get("/size/10", method="HEAD")["text"] == ""
    assert get("/status/204")["status"] == 204


@pytest.mark.parametrize(
    ("status", "more", "code", "retryable"),
    [
        (500, {}, "E4004", True),
        (503, {}, "E4004", True),
        (429, {}, "E4004", True),
        (408, {}, "E4004", True),
        (425, {}, "E4004", True),
        (400, {}, "E4004", False),
        (401, {}, "E8002", False),
        (403, {}, "E8001", False),
        (404, {}, "E4004", False),
        (404, {"retry_on": [404]}, "E4004", True),
        (500, {"retry_on": 404}, "E4004", False),
        (502, {"retry_on": ["5xx"]}, "E4004", True),
        (200, {"expect": [404]}, "E4004", False),
        (304, {}, "E4004", False),
    ],
)
def test_a_status_decides_about_another_try(
    site: Server, status: int, more: dict[str, Any], code: str, retryable: bool
) -> None:
    said = refused(local(site), f"/status/{status}", **more)

    assert said[1:] == (code, retryable)
    assert said[0].startswith(f"GET http://api.test:{site.port}/status/{status}: {status} ")


def test_a_failure_shows_what_was_said_and_an_expected_status_is_none(site: Server) -> None:
    get = local(site)

    assert refused(get, "/status/404?x")[0].endswith("404 Not Found: said 404")
    assert get("/status/404", expect=[200, "4xx"])["status"] == 404


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("7", 7, 7), ("99999999999999", 86_400, 86_400), ("soon", None, None), ("-1", None, None)],
)
def test_retry_after_in_seconds(site: Server, header: str, low: Any, high: Any) -> None:
    with pytest.raises(ToolFailed) as caught:
        local(site)(f"/status/503?{header}")

    assert caught.value.after == low


def test_retry_after_as_a_date(site: Server) -> None:
    date = formatdate(time.time() + 100, usegmt=True).replace(" ", "%20")
    assert http._retry_after(date.replace("%20", " ")) == pytest.approx(100, abs=2)
    assert http._retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert http._retry_after("Thu, 99 Jan 1970") is None


@pytest.mark.parametrize(
    ("payload", "said", "code"),
    [
        ({"url": ""}, "url: a text", "E2003"),
        ({"url": 7}, "url: a text", "E2003"),
        ({"url": "ftp://api.test/"}, "url: ftp: only http and https", "E2002"),
        ({"url": "api.test/x"}, "url: no scheme: only http and https", "E2002"),
        ({"url": "http://a:b@api.test/"}, "url: a password belongs into", "E2002"),
        ({"url": "http://api.test:99999/"}, "url: ", "E2002"),
        ({"url": "http://api.test/\r\nX: y"}, "url: ", "E2002"),
        ({"method": "TRACE"}, "method: one of DELETE, GET", "E2002"),
        ({"method": 7}, "method: one of DELETE, GET", "E2002"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers: X: a text of one line", "E2002"),
        ({"headers": {"X": "a\nb"}}, "headers: X: a text of one line", "E2002"),
        ({"headers": {"X": "ü"}}, "headers: X: a text of one line", "E2002"),
        ({"headers": {"X": 7}}, "headers: X: a text of one line", "E2002"),
        ({"headers": {"X\r\nY": "a"}}, "headers: 'X\\r\\nY' cannot be set", "E2002"),
        ({"headers": {"Host": "other.test"}}, "headers: 'Host' cannot be set", "E2002"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers: 'Transfer-Encoding'", "E2002"),
        ({"headers": []}, "headers: an object", "E2002"),
        ({"params": {"a": {}}}, "params: an object", "E2002"),
        ({"json": 1, "body": "x"}, "json and body: only one", "E2002"),
        ({"body": {}}, "body: a text", "E2002"),
        ({"timeout": "ever"}, "timeout: seconds", "E2002"),
        ({"timeout": 0}, "timeout: seconds", "E2002"),
        ({"expect": ["ok"]}, "expect: statuses", "E2002"),
        ({"retry_on": [True]}, "retry_on: statuses", "E2002"),
        ({"proxy": "x"}, "proxy: http knows no such field", "E2002"),
    ],
)
def test_a_bad_request_is_not_sent(
    site: Server, payload: dict[str, Any], said: str, code: str
) -> None:
    call = tool(lambda *_: ["127.0.0.1"], allow_hosts=["*:*"], allow_private=True)

    found = refused(call, **({"url": f"http://api.test:{site.port}/echo"} | payload))

    assert found[0].startswith(said)
    assert found[1:] == (code, False)
    assert site.seen == []


# Who may be talked to


@pytest.mark.parametrize(
    ("allow", "url", "ok"),
    [
        ("api.test", "http://api.test/", True),
        ("API.test", "https://api.TEST/", True),
        ("api.test", "http://api.test:80/", True),
        ("api.test", "http://api.test:443/", False),
        ("api.test", "http://api.test:8080/", False),
        ("api.test:8080", "http://api.test:8080/", True),
        ("api.test:8080", "http://api.test/", False),
        ("api.test:*", "http://api.test:1/", True),
        ("api.test", "http://api.test.evil/", False),
        ("api.test", "http://evilapi.test/", False),
        ("api.test", "http://sub.api.test/", False),
        ("*.api.test", "http://a.b.api.test/", True),
        ("*.api.test", "http://api.test/", False),
        ("*.api.test", "http://evilapi.test/", False),
        ("*.1.1.1", "http://1.1.1.1/", False),
        ("*", "http://anything/", True),
        ("*", "http://anything:81/", False),
        ("api.test", "http://api.test./", False),
        ("api.test", "http://api.test\\@evil.test/", False),
        ("api.test", "http://api.test%2eevil/", False),
        ("bücher.test", "http://bücher.test/", None),
    ],
)
def test_the_list_of_hosts(allow: str, url: str, ok: bool | None) -> None:
    import httpx

    if ok is None:
        with pytest.raises(ValueError, match="is no host"):
            hosts.Hosts({"allow_hosts": [allow]}, lambda *_: [])
        return
    known = hosts.Hosts({"allow_hosts": [allow]}, lambda host, port: ["1.1.1.1"])
    try:
        found = known.addresses(httpx.URL(url))
    except (ToolFailed, httpx.InvalidURL):
        found = []

    assert bool(found) is ok


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1",
        "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "fec0::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:1.1.1.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
        "::127.0.0.1", "2001:0:7f00:1::", "nonsense",
    ],
)  # fmt: skip
def test_addresses_inside(address: str) -> None:
    assert not hosts.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_outside(address: str) -> None:
    assert hosts.is_public(address)


@pytest.mark.parametrize(
    ("host", "config", "ok"),
    [
        ("api.test", {}, False),
        ("api.test", {"allow_private": True}, True),
        ("api.test", {"allow_private_hosts": ["api.test"]}, True),
        ("api.test", {"allow_private_hosts": ["other.test"]}, False),
        ("127.0.0.1", {}, False),  # allowed by *, but not listed as itself
        ("127.0.0.1", {"allow_hosts": ["127.0.0.1:*"]}, True),
        ("[::1]", {"allow_hosts": ["[::1]:*"]}, True),
        ("[::1]", {}, False),
        ("[::ffff:127.0.0.1]", {}, False),
        ("2130706433", {}, False),
        ("0x7f.1", {}, False),
        ("localhost", {}, False),
    ],
)
def test_private_addresses_are_refused_unless_they_are_asked_for(
    host: str, config: dict[str, Any], ok: bool
) -> None:
    def lookup(name: str, port: int) -> list[str]:
        return ["127.0.0.1"] if name == "api.test" else hosts.resolve(name, port)

    call = tool(lookup, **({"allow_hosts": ["*:*"]} | config))

    found = refused(call, f"http://{host}:1/")

    assert found[1:] == (("E1001", True) if ok else ("E8001", False))


def test_one_private_address_among_others_is_enough_to_refuse() -> None:
    call = tool(lambda *_: ["1.1.1.1", "10.0.0.1"], allow_hosts=["*"])

    assert refused(call, "http://api.test/")[1] == "E8001"


def test_the_address_that_was_checked_is_the_one_connected_to(site: Server) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"]]
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers.pop(0)

    call = tool(rebinding, allow_hosts=["no-such-name.invalid:*"], allow_private=True)

    result = call(f"http://no-such-name.invalid:{site.port}/echo")

    assert asked == [("no-such-name.invalid", site.port)]  # and nobody else looked it up
    assert result["json"]["headers"]["host"] == f"no-such-name.invalid:{site.port}"


def test_the_next_address_is_tried_when_one_does_not_answer(site: Server) -> None:
    call = tool(lambda *_: ["127.0.0.9", "127.0.0.1"], allow_hosts=["*:*"], allow_private=True)

    assert call(f"http://api.test:{site.port}/echo")["status"] == 200


def test_a_name_that_leads_nowhere_is_worth_another_try() -> None:
    call = tool(allow_hosts=["*"])
    none = tool(lambda *_: [], allow_hosts=["*"])

    assert refused(call, "http://no-such-name.invalid/")[1:] == ("E1001", True)
    assert refused(none, "http://no-such-name.invalid/")[1:] == ("E1001", True)


def test_the_environment_names_no_proxy(site: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert local(site)("/echo")["status"] == 200


# Redirects


def test_redirects_are_followed_and_counted(site: Server) -> None:
    few = local(site, max_redirects=1)
    none = local(site, max_redirects=0)

    assert few("/to/302?/echo")["url"] == f"http://api.test:{site.port}/echo"
    assert refused(few, "/to/302?/to/302?/echo")[0].endswith("more than 1 redirects")
    assert refused(none, "/to/302?/echo")[1:] == ("E4004", False)
    assert none("/to/302?/echo", expect=[302])["status"] == 302
    assert refused(few, "/to/302?/to/302")[1:] == ("E4004", False)


@pytest.mark.parametrize(
    ("status", "method", "then", "body"),
    [
        (301, "POST", "GET", ""),
        (302, "POST", "GET", ""),
        (303, "PUT", "GET", ""),
        (307, "POST", "POST", "b"),
        (308, "PUT", "PUT", "b"),
        (302, "PUT", "PUT", "b"),
    ],
)
def test_a_redirect_keeps_or_changes_the_method(
    site: Server, status: int, method: str, then: str, body: str
) -> None:
    seen = local(site)(f"/to/{status}?/echo", method=method, body="b")["json"]

    assert (seen["method"], seen["body"]) == (then, body)


def test_another_origin_gets_harmless_headers_only(site: Server, servers: list[Server]) -> None:
    headers = {"Authorization": "a", "Cookie": "c", "X-Api-Key": "k", "Accept": "x/y"}
    call = local(site)

    same = call("/to/302?/echo", headers=headers)["json"]["headers"]
    host = call(f"/to/302?http://other.test:{site.port}/echo", headers=headers)["json"]["headers"]
    port = call(f"/to/302?http://api.test:{servers[1].port}/echo", headers=headers)["json"]

    assert same.items() >= {k.lower(): v for k, v in headers.items()}.items()
    for other in (host, port["headers"]):
        assert other["accept"] == "x/y"
        assert not other.keys() & {"authorization", "cookie", "x-api-key"}


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://127.0.0.1:1/", "E8001"),
        ("http://inside.example:80/", "E8001"),
        ("http://169.254.169.254/latest/meta-data", "E8001"),
        ("//[::1]/", "E8001"),
        ("file:///etc/passwd", "E2002"),
        ("gopher://api.test/", "E2002"),
        ("http://api.test:x/", "E4004"),
        ("http://u:p@api.test/", "E2002"),
    ],
)
def test_a_redirect_is_checked_as_the_first_request_was(
    site: Server, target: str, code: str
) -> None:
    def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    names = ["api.test:*", "inside.example"]
    call = tool(lookup, allow_hosts=names, allow_private_hosts=["api.test"])

    said = refused(call, f"http://api.test:{site.port}/to/302?{target}")

    assert said[1:] == (code, False)
    assert len(site.seen) == 1


# Bounds


def test_a_body_is_taken_up_to_the_limit(site: Server) -> None:
    call = local(site, max_body=1000)

    assert len(call("/size/1000")["text"]) == 1000
    assert refused(call, "/size/1001") == (
        f"http://api.test:{site.port}/size/1001: the body is larger than 1000 bytes",
        "E4004",
        False,
    )
    assert refused(call, "/promise", timeout=5)[1:] == ("E4004", False)  # and not waited for
    Site.over.clear()
    assert refused(call, "/stream")[1:] == ("E4004", False)
    while not Site.over:  # it was hung up on
        pass


def test_a_compressed_body_is_bounded_as_it_is_inflated(site: Server) -> None:
    import tracemalloc

    call = local(site)
    call("/gzip")
    tracemalloc.start()
    said = refused(call, "/bomb")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "larger than 1048576 bytes" in said[0]
    assert most < 10_000_000
    assert refused(call, "/coding/br")[0].endswith("answers in br, which nobody asked for")
    assert refused(call, "/coding/gzip, gzip")[1:] == ("E4004", False)
    assert "broken gzip" in refused(call, "/coding/gzip")[0]
    assert refused(call, "/short")[1:] == ("E1001", True)


def test_time_is_bounded(site: Server) -> None:
    call = local(site)

    assert refused(call, "/hang", timeout=0.1)[1:] == ("E1002", True)
    assert refused(call, "/slow", timeout=0.2)[1:] == ("E1002", True)
    assert refused(call, "/hang", 0.1)[1:] == ("E6001", True)
    assert refused(local(site, timeout=0.1), "/hang")[1:] == ("E1002", True)


def test_a_connection_that_breaks_is_worth_another_try(site: Server) -> None:
    call = tool(allow_hosts=["127.0.0.1:*"])

    assert refused(call, f"http://127.0.0.1:{site.port}/drop")[1:] == ("E1001", True)
    assert refused(call, "http://127.0.0.1:1/")[1:] == ("E1001", True)


# TLS


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server whose certificate is for api.test, and the certificate."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=api.test"),
            *("-addext", "subjectAltName=DNS:api.test"),
            *("-keyout", str(folder / "key"), "-out", str(folder / "cert")),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert", folder / "key")
    server = Server(tls)
    yield server, folder / "cert"
    server.close()


def test_the_certificate_is_checked_against_the_name(certified: tuple[Server, Path]) -> None:
    server, cert = certified
    config: dict[str, Any] = {"allow_hosts": ["*:*"], "allow_private": True}
    ours = tool(lambda *_: ["127.0.0.1"], **config, ca_file=str(cert))
    strangers = tool(lambda *_: ["127.0.0.1"], **config)

    assert ours(f"https://api.test:{server.port}/echo")["status"] == 200
    assert "ertificate" in refused(ours, f"https://other.test:{server.port}/echo")[0]
    assert "ertificate" in refused(ours, f"https://127.0.0.1:{server.port}/echo")[0]
    assert "ertificate" in refused(strangers, f"https://api.test:{server.port}/echo")[0]


def test_a_redirect_does_not_lead_from_https_to_http(
    certified: tuple[Server, Path], site: Server
) -> None:
    server, cert = certified
    call = tool(
        lambda *_: ["127.0.0.1"], allow_hosts=["*:*"], allow_private=True, ca_file=str(cert)
    )

    said = refused(call, f"https://api.test:{server.port}/to/302?http://api.test:{site.port}/echo")

    assert said[0].endswith("redirects from https to http")
    assert said[1:] == ("E8001", False)
    assert site.seen == []


# In a worker


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "tools.http.allow_hosts must list"),
        ({"allow_hosts": "api.test"}, "tools.http.allow_hosts must list hosts"),
        ({"allow_hosts": ["http://api.test"]}, "'http://api.test' is no host"),
        ({"allow_hosts": ["a"], "proxy": 1}, "unknown setting proxy"),
        ({"allow_hosts": ["a"], "timeout": 0}, "tools.http.timeout must be"),
        ({"allow_hosts": ["a"], "max_body": "1 MB"}, "tools.http.max_body must be"),
        ({"allow_hosts": ["a"], "ca_file": "/no/such"}, "there is no file /no/such"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tool(**config)


def test_in_a_child_with_a_secret(child: Callable[..., Child], site: Server) -> None:
    runner = child(
        env={"ORDINAUT_SECRET_TOKEN": "t0p-s3cret"},
        tools={"http": {"allow_hosts": [f"127.0.0.1:{site.port}"]}},
    )
    url = f"http://127.0.0.1:{site.port}"
    headers = {"Authorization": {"$secret": "token"}}

    outcome, output = runner.run("http", {"url": f"{url}/echo", "headers": headers})
    failed, error = runner.run("http", {"url": f"{url}/status/503?3", "headers": headers})
    off = child()

    assert (outcome, output["json"]["headers"]["authorization"]) == ("success", "***")
    assert site.seen[0]["headers"]["authorization"] == "t0p-s3cret"
    assert (failed, error["retryable"], error["retry_after"]) == ("failed", True, 3.0)
    assert off.run("http", {"url": url})[0] == "declined"
