"""
Race: a new version is installed while workers lease and settle.

The install replaces functions and triggers in one transaction.  Nobody sees half of it:

    settle, install           the install waits for the open settle (a trigger is replaced)
    install, lease, settle    a lease and a settle wait at most for the install, and then succeed
    install rolled back       the code before it goes on
"""

from __future__ import annotations

import pytest

from ordinaut import schema
from tests.places import places

LEASE = "select * from ordinaut.lease_work('w')"
COMPLETE = "select outcome from ordinaut.complete_work(%s)"


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


@pytest.fixture
def installer(session):
    return session("installer")


def half_installed(installer):
    """Load all of sql/ and leave the transaction open."""
    for text in schema.code().values():
        installer.run(text)


def test_settle_install(lease, unit, worker, installer, boss):
    worker.run(COMPLETE, lease)
    installer._pending = installer._pool.submit(schema.install, installer.conn)
    installer.wait_blocked(by=worker)
    worker.commit()

    assert installer.result() == []
    assert places(boss) == {unit: "task_run"}


def test_install_lease_settle(work, worker, installer, boss):
    [unit] = work()
    half_installed(installer)
    [held] = worker.run(LEASE)  # does not wait: the functions of its snapshot
    worker.start(COMPLETE, held.lease_id)
    worker.wait_blocked(by=installer)
    installer.commit()

    assert worker.result() == [("success",)]
    worker.commit()
    assert places(boss) == {unit: "task_run"}


def test_install_rolled_back(lease, unit, worker, installer, boss):
    half_installed(installer)
    worker.start(COMPLETE, lease)
    worker.wait_blocked(by=installer)
    installer.rollback()

    assert worker.result() == [("success",)]
    worker.commit()
    assert places(boss) == {unit: "task_run"}
