"""
Which hosts requests may go to, and to which of their addresses.

    allow_hosts          api.example.com   *.example.org   localhost:8080   [::1]:8080   *
                         without a port: the one of the scheme; `:*` is any port
    allow_private        names may lead to addresses that are not public
    allow_private_hosts  these names may

A name is looked up once, and the caller connects to what was checked: a name that means something
else a moment later (DNS rebinding) gains nothing.  All its addresses must pass, so that which one
is tried first decides nothing.  An address that is listed as itself may be private.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ordinaut.tools.errors import ToolFailed

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]

_PATTERN = re.compile(
    r"(?P<host>\*|(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
)
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as the system orders them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Hosts:
    """The hosts of a configuration.

    Raises:
        ValueError: it lists no hosts, or something that is none.
    """

    def __init__(self, config: dict[str, Any], lookup: Resolve) -> None:
        self._allow = _patterns(config, "allow_hosts")
        if not self._allow:
            raise ValueError("tools.http.allow_hosts must list the hosts that requests may go to")
        self._private = bool(config.get("allow_private"))
        self._private_hosts = _patterns(config, "allow_private_hosts")
        self._lookup = lookup

    def addresses(self, url: httpx.URL) -> list[str]:
        """Return the addresses to connect to.

        Raises:
            ToolFailed: this worker does not talk to this host, or the name leads nowhere.
        """
        host = url.raw_host.decode().lower()
        if url.scheme not in _PORTS:
            raise ToolFailed(f"url: {url.scheme or 'no scheme'}: only http and https", "E2002")
        if url.userinfo:
            raise ToolFailed("url: a password belongs into the header Authorization", "E2002")
        port = url.port or _PORTS[url.scheme]
        if not 0 < port < 65_536:  # the socket would take what is left of it
            raise ToolFailed(f"url: there is no port {port}", "E2002")
        usual = port == _PORTS[url.scheme]
        if not any(_matches(pattern, host, port, usual) for pattern in self._allow):
            shown = host if usual else f"{host}:{port}"
            raise ToolFailed(
                f"this worker does not allow requests to {shown[:200]}: it is not in"
                " tools.http.allow_hosts",
                "E8001",
            )
        literal = _literal(host)
        listed = literal is not None and any(_literal(h) == literal for h, _ in self._allow)
        private = any(_matches((h, "*"), host, port, usual) for h, _ in self._private_hosts)
        found = [host] if literal is not None else self._find(host, port)
        for address in found:
            if not (self._private or listed or private or is_public(address)):
                raise ToolFailed(
                    f"{host[:200]} is {address}, which is no public address; see"
                    " tools.http.allow_private_hosts",
                    "E8001",
                )
        return found

    def _find(self, host: str, port: int) -> list[str]:
        try:
            return self._lookup(host, port)
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise ToolFailed(f"{host[:200]} is not found: {reason}", "E1001") from None


def is_public(text: str) -> bool:
    """Say whether an address is one of the open internet, whatever form it comes in."""
    address = _literal(text)
    if address is None:
        return False
    inside: list[Address | None] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        # Where these lead, an IPv4 address within them says.
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)))
        inside += [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return all(one.is_global and not _special(one) for one in inside if one is not None)


def _special(address: Address) -> bool:
    return (
        address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or getattr(address, "is_site_local", False)
    )


def _literal(host: str) -> Address | None:
    try:
        # A zone (fe80::1%eth0) is ours to choose, not a caller's.
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _matches(pattern: tuple[str, str], host: str, port: int, usual: bool) -> bool:
    name, allowed = pattern
    if not (allowed == "*" or (usual if not allowed else allowed == str(port))):
        return False
    if name == "*":
        return True
    if name.startswith("*."):
        return host.endswith(name[1:]) and len(host) > len(name) - 1 and _literal(host) is None
    return name.strip("[]") == host


def _patterns(config: dict[str, Any], name: str) -> list[tuple[str, str]]:
    given = config.get(name) or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"tools.http.{name} must list hosts")
    found = []
    for one in given:
        match = _PATTERN.fullmatch(one.strip().lower())
        if not match:
            raise ValueError(
                f"tools.http.{name}: {one!r} is no host; write api.example.com, *.example.org or"
                " localhost:8080"
            )
        found.append((match["host"], match["port"] or ""))
    return found
