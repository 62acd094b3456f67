"""Faults of the server: crashes, full disks, a standby that takes over."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

from ordinaut.binaries import EmbeddedError
from tests.chaos.faults import Missing, fault
from tests.chaos.lab import Lab, kill_server, wait_for


def _start(lab: Lab) -> None:
    """Start the server, as often as systemd would: backends of a killed postmaster hold it up."""
    until = time.monotonic() + 90
    while True:
        try:
            return lab.server.start()
        except EmbeddedError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _restart(lab: Lab, how: str, down: float) -> None:
    with lab.fault(how, f"down for {down:.1f} s"):
        try:
            if how == "crash_server":
                lab.server.crash()
            else:
                kill_server(lab.server)
                lab.server.crash()
            time.sleep(down)
        finally:
            _start(lab)


@fault
def crash_server(lab: Lab, dice: random.Random, scale: float) -> None:
    """pg_ctl stop -m immediate, and a start."""
    _restart(lab, "crash_server", dice.choice((0.0, 1.0, 8.0 * scale)))


@fault
def kill_postmaster(lab: Lab, dice: random.Random, scale: float) -> None:
    """SIGKILL of the postmaster."""
    _restart(lab, "kill_postmaster", dice.choice((0.0, 2.0)))


def _fill(folder: Path, seconds: float) -> None:
    """Leave no byte on this disk for a while."""
    filler = folder / "filler"
    try:
        with filler.open("wb") as file, contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
            os.posix_fallocate(file.fileno(), 0, free - 65536)
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(8192))
        time.sleep(seconds)
    finally:
        filler.unlink()


@fault
def full_disk(lab: Lab, dice: random.Random, scale: float) -> None:
    """No room for data: what has to grow a table fails."""
    if not lab.has_small_disks:
        raise Missing("only root may mount a disk to fill")
    with lab.fault("full_disk"):
        _fill(lab.folder / "server", 6)


@fault
def full_wal_disk(lab: Lab, dice: random.Random, scale: float) -> None:
    """No room for WAL: the server panics, and starts again when there is."""
    if not lab.has_small_disks:
        raise Missing("only root may mount a disk to fill")
    if not (lab.server.cluster / "pg_wal").is_symlink():
        raise Missing("the primary is the former standby, and has no disk of its own")
    with lab.fault("full_wal_disk"):
        _fill(lab.folder / "wal", 8)
        time.sleep(1)
        lab.server.crash()
        _start(lab)


def _fail_over(lab: Lab, dice: random.Random, is_sync: bool) -> None:
    if lab.proxy.targets[1] == lab.socket(lab.server):
        raise Missing("it has failed over already")
    kind = "sync_failover" if is_sync else "async_failover"
    with (
        contextlib.ExitStack() as keep,
        lab.standby("application_name=standby") as standby,
        lab.connect() as conn,
    ):
        if is_sync:
            conn.execute("alter system set synchronous_standby_names = 'standby'")
            conn.execute("select pg_reload_conf()")
        wanted = "sync" if is_sync else "async"
        asked = (
            "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = %s"
        )
        wait_for(lambda: lab.one(asked, wanted), 30, f"a standby that is {wanted}")
        time.sleep(3)
        with lab.fault(kind):
            if not is_sync:
                # What the primary still says yes to, the standby will never have.
                lab.async_failover = True
                sender = conn.execute("select pid from pg_stat_replication").fetchone()
                assert sender is not None
                os.kill(sender[0], signal.SIGSTOP)
                # What is stopped outlives its postmaster.
                keep.callback(os.kill, sender[0], signal.SIGKILL)
                time.sleep(1.0)
            lab.fail_over(standby)
            lab.one("select 1")
            with lab.connect() as new:
                new.execute("alter system reset synchronous_standby_names")
                new.execute("select pg_reload_conf()")


@fault
def sync_failover(lab: Lab, dice: random.Random, scale: float) -> None:
    """A synchronous standby is promoted: nothing that was acknowledged is lost."""
    _fail_over(lab, dice, True)


@fault
def async_failover(lab: Lab, dice: random.Random, scale: float) -> None:
    """A standby a second behind is promoted: that second is done again, or named as lost."""
    _fail_over(lab, dice, False)
