"""sd_notify is a datagram, journald reads levels, and the kernel is told whom to kill first."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from ordinaut import systemd
from ordinaut.guard import Link


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


def test_words_of_several_lines_become_one(manager):
    Link(None).notify("STATUS=first\nSTOPPING=1", "WATCHDOG=1")

    assert manager.recv(100) == b"STATUS=first STOPPING=1\nWATCHDOG=1"


def logged(style: str, stream: str) -> str:
    """What a warning with a traceback and a plain line look like on a stderr that is a pipe."""
    code = (
        "import logging, os, sys; from ordinaut.logs import logging_to_stderr;"
        f"s = os.fstat(2); os.environ['JOURNAL_STREAM'] = {stream};"
        f"logging_to_stderr('info', '{style}');"
        "logging.info('registered', extra={'queue': 'mail'});"
        "logging.error('odd', exc_info=ValueError('why'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr


def test_journald_gets_a_level_for_each_line_and_no_time():
    said = logged("text", "f'{s.st_dev}:{s.st_ino}'")

    assert said == "<6>registered queue=mail\n<3>odd\n<3>    ValueError: why\n"
    lines = logged("json", "f'{s.st_dev}:{s.st_ino}'").splitlines()
    assert [line[:4] for line in lines] == ["<6>{", "<3>{"]


def test_another_stderr_gets_none():
    assert " INFO    registered queue=mail\n" in logged("text", "f'{s.st_dev}:1'")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has an OOM killer to tell")
def test_the_first_to_die_is_a_child_and_what_it_starts():
    code = (
        "from ordinaut.tools.death import die_first; die_first();"
        "print(open('/proc/self/oom_score_adj').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "500"
