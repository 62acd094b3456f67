"""
http: one request to a host that this worker's configuration allows.

    method     default GET, or POST when there is something to send
    url        http or https
    headers    texts by name
    params     of the query: texts by name, or lists of them
    json       what to send as JSON; or body, a text
    timeout    of the whole request; default as configured
    retry_on   statuses worth another try; default 408, 425, 429 and 5xx
    expect     statuses that are a success: 200, "2xx"; default 2xx

    output     {"status": 200, "headers": {…}, "json": …, "url": …, "elapsed_ms": n};
               "text" in place of "json" when the answer is none

Which hosts, and that a name cannot come to mean an address inside, is hosts.py's business: what it
checked is what the connection goes to, at every redirect.  There are no proxies and no cookies, and
no connection is kept.  A redirect to another origin takes only harmless headers along.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ordinaut import wire
from ordinaut.tools import output
from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.hosts import Hosts, Resolve, resolve
from ordinaut.tools.order import METHODS, Order
from ordinaut.tools.registry import Host
from ordinaut.tools.secrets import REFERENCE
from ordinaut.version import __version__

if TYPE_CHECKING:
    import httpx

_CONFIG = {
    "allow_hosts", "allow_private", "allow_private_hosts", "max_body", "max_redirects", "timeout",
    "ca_file",
}  # fmt: skip
_HARMLESS = {"accept", "accept-language", "content-type", "user-agent"}
_REDIRECTS = {301, 302, 303, 307, 308}
_CODES = {401: "E8002", 403: "E8001"}
_LONGEST = 86_400.0  # seconds that a server may ask us to stay away


def make(
    host: Host, config: dict[str, Any], lookup: Resolve = resolve
) -> Callable[[wire.Unit], bytes]:
    """Return the tool for a worker whose [tools.http] is `config`.

    Raises:
        ValueError: the configuration cannot work, or httpx is not installed.
    """
    if find_spec("httpx") is None:
        raise ValueError("tools.http needs httpx: pip install 'ordinaut[http]'")
    client = _Client(config, lookup)

    def http(unit: wire.Unit) -> bytes:
        payload = json.loads(unit[wire.PAYLOAD])
        if REFERENCE in unit[wire.PAYLOAD]:
            payload = host.secrets.resolve(payload)
        return output.dump(client.send(Order(payload, client.timeout, unit[wire.TIMEOUT])))

    return http


class _Client:
    """Sends requests, one at a time."""

    def __init__(self, config: dict[str, Any], lookup: Resolve) -> None:
        if unknown := config.keys() - _CONFIG:
            raise ValueError(f"tools.http: unknown setting {min(unknown)}")
        self._hosts = Hosts(config, lookup)
        self.timeout = _setting(config, "timeout", 30.0)
        self._most = int(_setting(config, "max_body", output.LIMIT))
        self._redirects = int(_setting(config, "max_redirects", 5, least=0))
        self._ca_file = config.get("ca_file")
        if self._ca_file is not None and not os.path.isfile(self._ca_file):
            raise ValueError(f"tools.http.ca_file: there is no file {self._ca_file}")
        self._made: httpx.HTTPTransport | None = None

    def send(self, order: Order) -> dict[str, Any]:
        """Send the request, follow its redirects, and return the output.

        Raises:
            ToolFailed: refused here or there, or nobody answered; its class says whether another
                try may help.
        """
        import httpx

        started = time.monotonic()
        try:
            url = httpx.URL(order.url)
            if order.params:  # after what is there, which stays as it was written
                more = str(httpx.QueryParams(order.params)).encode()
                url = url.copy_with(query=b"&".join([part for part in (url.query, more) if part]))
        except (httpx.InvalidURL, UnicodeError, ValueError) as exc:
            raise ToolFailed(f"url: {exc}", "E2002") from None
        method, headers, body = order.method, order.headers, order.body
        for _ in range(self._redirects + 1):
            response = self._hop(order, method, url, headers, body)
            try:
                where = response.headers.get("location")
                follow = response.status_code in _REDIRECTS - order.expect and where
                if not follow:
                    return self._read(order, method, url, response, started)
            finally:
                response.close()
            target = _join(url, where)
            if url.scheme == "https" and target.scheme != "https":
                raise ToolFailed(f"{_shown(url)} redirects from https to {target.scheme}", "E8001")
            if _origin(target) != _origin(url):
                headers = {k: v for k, v in headers.items() if k.lower() in _HARMLESS}
            lost = {301: {"POST"}, 302: {"POST"}, 303: METHODS - {"GET", "HEAD"}}
            if method in lost.get(response.status_code, ()):
                method, body = "GET", None
                headers = {k: v for k, v in headers.items() if k.lower() != "content-type"}
            url = target
        raise ToolFailed(f"{_shown(url)}: more than {self._redirects} redirects", retryable=False)

    def _hop(
        self,
        order: Order,
        method: str,
        url: httpx.URL,
        headers: dict[str, str],
        body: bytes | None,
    ) -> httpx.Response:
        """Send one request to the first of the host's addresses that takes a connection."""
        import httpx

        addresses = self._hosts.addresses(url)
        given = {"user-agent": f"ordinaut/{__version__}", "accept": "*/*"}
        given |= {name.lower(): value for name, value in headers.items()}
        given["accept-encoding"] = "gzip"
        transport = self._transport()
        for at, address in enumerate(addresses, 1):
            request = httpx.Request(method, url, headers=given, content=body)
            # The Host header is made.  From here on the address takes the name's place, and TLS
            # is told the name: its certificate must be the name's.
            request.url = url.copy_with(host=address)
            request.extensions = {
                "timeout": httpx.Timeout(order.left()).as_dict(),
                "sni_hostname": url.raw_host.decode(),
            }
            try:
                response = transport.handle_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                if at == len(addresses) or time.monotonic() >= order.until:
                    raise _unreachable(order, url, exc) from None
            except httpx.TransportError as exc:
                raise _unreachable(order, url, exc) from None
            except (httpx.InvalidURL, UnicodeError) as exc:
                raise ToolFailed(f"url: {exc}", "E2002") from None
            else:
                return response
        raise ToolFailed(f"{url.host} has no address", "E1001")

    def _transport(self) -> httpx.HTTPTransport:
        if self._made is None:
            import ssl

            import httpx

            # Kept connections are found by address, and one that was made for another name would
            # be used without a look at its certificate.
            limits = httpx.Limits(max_keepalive_connections=0)
            tls = ssl.create_default_context(cafile=self._ca_file)
            self._made = httpx.HTTPTransport(verify=tls, trust_env=False, limits=limits)
        return self._made

    def _read(
        self, order: Order, method: str, url: httpx.URL, response: httpx.Response, started: float
    ) -> dict[str, Any]:
        import httpx

        status = response.status_code
        wanted = status in order.expect
        try:
            data = b"".join(self._bounded(order, url, response)) if method != "HEAD" else b""
        except httpx.TransportError as exc:
            raise _unreachable(order, url, exc) from None
        except _TooLarge:
            if wanted:
                raise ToolFailed(
                    f"{_shown(url)}: the body is larger than {self._most} bytes", retryable=False
                ) from None
            data = b""
        text = _text(data, response)
        if not wanted:
            raise _refused(order, method, url, response, text)
        result: dict[str, Any] = {"status": status, "headers": dict(response.headers)}
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            try:
                result["json"] = json.loads(data)
            except (ValueError, RecursionError):
                result["text"] = text
        else:
            result["text"] = text
        result["url"] = str(url)
        result["elapsed_ms"] = round((time.monotonic() - started) * 1000)
        return result

    def _bounded(self, order: Order, url: httpx.URL, response: httpx.Response) -> Iterator[bytes]:
        left = self._most
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > left:
            raise _TooLarge
        for data in _decoded(response, url, left):
            left -= len(data)
            if left < 0:
                raise _TooLarge
            if time.monotonic() > order.until:
                raise ToolFailed(f"{_shown(url)}: the answer did not end in time", order.late_code)
            yield data


class _TooLarge(Exception):
    """The body is larger than this worker takes."""


def _decoded(response: httpx.Response, url: httpx.URL, most: int) -> Iterator[bytes]:
    """Yield the body in pieces; of what is compressed, never much more than `most` bytes."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        yield from response.iter_raw()
        return
    if coding not in ("gzip", "x-gzip"):
        raise ToolFailed(
            f"{_shown(url)} answers in {coding[:40]}, which nobody asked for", retryable=False
        )
    import zlib

    inflate, begun = zlib.decompressobj(31), False
    try:
        for raw in response.iter_raw():
            while raw:
                begun = True
                if inflate.eof:  # another member follows
                    inflate = zlib.decompressobj(31)
                yield inflate.decompress(raw, most + 1)
                raw = inflate.unconsumed_tail or inflate.unused_data
    except zlib.error as exc:
        raise ToolFailed(f"{_shown(url)}: broken gzip: {exc}") from None
    if begun and not inflate.eof:
        raise ToolFailed(f"{_shown(url)}: the body ends early", "E1001")


def _refused(
    order: Order, method: str, url: httpx.URL, response: httpx.Response, text: str
) -> ToolFailed:
    status = response.status_code
    said = " ".join(text[:400].split())[:200]
    message = f"{method} {_shown(url)}: {status} {response.reason_phrase}".rstrip()
    return ToolFailed(
        message + (f": {said}" if said else ""),
        _CODES.get(status, "E4004"),
        retryable=status in order.retry_on,
        after=_retry_after(response.headers.get("retry-after", "")),
    )


def _retry_after(text: str) -> float | None:
    text = text.strip()
    if text.isdecimal():
        return min(float(text[:10]), _LONGEST)
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        wait = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), _LONGEST)


def _unreachable(order: Order, url: httpx.URL, exc: Exception) -> ToolFailed:
    import httpx

    if isinstance(exc, httpx.TimeoutException):
        return ToolFailed(f"{_shown(url)}: no answer in time", order.late_code)
    return ToolFailed(f"{_shown(url)}: {str(exc) or type(exc).__name__}", "E1001")


def _join(url: httpx.URL, where: str) -> httpx.URL:
    import httpx

    try:
        return url.join(where)
    except (httpx.InvalidURL, UnicodeError, ValueError) as exc:
        raise ToolFailed(
            f"{_shown(url)} redirects to what is no URL: {exc}", retryable=False
        ) from None


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _shown(url: httpx.URL) -> str:
    """A URL without what may be secret in it."""
    return f"{url.scheme}://{url.netloc.decode().rpartition('@')[2]}{url.path}"[:300]


def _text(data: bytes, response: httpx.Response) -> str:
    try:
        return data.decode(response.charset_encoding or "utf-8", errors="replace")
    except LookupError:
        return data.decode(errors="replace")


def _setting(config: dict[str, Any], name: str, default: float, least: float = 0.001) -> float:
    value = config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
        raise ValueError(f"tools.http.{name} must be a number, more than zero")
    return value
