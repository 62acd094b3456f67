"""sd_notify is a datagram, and silence when nobody listens."""

from __future__ import annotations

import socket

import pytest

from ordinaut import systemd


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_words_arrive_as_lines(manager):
    assert systemd.notify("READY=1", "STATUS=ready")

    assert manager.recv(100) == b"READY=1\nSTATUS=ready"


def test_the_abstract_namespace_works(monkeypatch, tmp_path):
    name = f"ordinaut-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)

        assert systemd.notify("WATCHDOG=1")

        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("where", [None, "", "relative", "/nonexistent/socket"])
def test_nobody_listens_and_nothing_breaks(monkeypatch, where):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if where is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", where)

    assert not systemd.notify("READY=1")


def test_children_are_not_told_of_systemd():
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "HOME": "/"}

    assert systemd.without_notify(environ) == {"HOME": "/"}
