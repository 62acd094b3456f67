"""What tools can do behind the worker's walls, and what they cannot."""

from __future__ import annotations

import json

import pytest

from tests.systemd.conftest import PASSWORD, SECRET

WORKS = {
    "a script": "for i in 1 2; do echo $i; done | sort | tail -n1 | grep -q 2",
    "python": "python3 -c 'import ssl, sqlite3, threading, subprocess; subprocess.run([\"true\"])'",
    "a JIT's memory": "python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=7)'",
    "a temporary file": "echo x > /tmp/x && echo x > /var/tmp/x && mktemp -d",
    "names": "getent hosts localhost && python3 -c 'import socket; socket.getaddrinfo(\"::1\", 1)'",
    "the machine's size": "grep MemTotal /proc/meminfo && nproc && nice true",
    "where it may write": "echo x > /opt/outside/witness-shell && rm /opt/outside/witness-shell",
}
FAILS = {
    "write the system": "echo x > /usr/x || echo x > /etc/x || echo x > /opt/x || echo x > /var/x",
    "read the originals": "cat /etc/ordinaut/password || ls /etc/ordinaut/secrets",
    "homes": "ls ~root/. || ls /home/.",
    "become another": "python3 -c 'import os; os.setuid(0)'",
    "a namespace": "unshare -U true || unshare -m true",
    "the kernel": "echo 1 > /proc/sys/vm/drop_caches || dmesg || cat /dev/kmsg",
    "a raw socket": "python3 -c 'import socket as s; s.socket(s.AF_PACKET, s.SOCK_RAW)'",
    "other processes": "test -d /proc/1",
}


@pytest.fixture
def sh(worker, db, ended):
    """sh(script): the run of a shell tool, ended."""
    worker.start()

    def sh(script, **env):
        payload = {"argv": ["/bin/sh", "-c", script], "env": env}
        [(run_id,)] = db.execute(
            "select run_id from ordinaut.enqueue('shell', %s, p_max_attempts => 1)",
            [json.dumps(payload)],
        ).fetchall()
        return ended(run_id)

    return sh


def test_tools_can_what_they_need_and_nothing_else(sh):
    broken = {what: run.error for what, do in WORKS.items() if (run := sh(do)).state != "success"}
    open_to = [what for what, do in FAILS.items() if sh(do).state == "success"]

    assert (broken, open_to) == ({}, [])


def test_secrets_are_credentials_and_the_password_is_none_of_them(sh, db):
    right = sh(f'[ "$TOKEN" = "{SECRET}" ] && echo "it is $TOKEN"', TOKEN={"$secret": "token"})
    wrong = sh("true", TOKEN={"$secret": "password"})

    assert (right.state, right.output["stdout"]) == ("success", "it is ***\n")
    assert (wrong.state, wrong.error["code"]) == ("failed", "E7001")
    [(text,)] = db.execute("select string_agg(to_jsonb(r)::text, '') from ordinaut.run_log as r")
    assert PASSWORD not in text and SECRET not in text
