"""Which exchange is due, decided without a database and without children."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ordinaut.agenda import Agenda
from ordinaut.ledger import Ledger
from ordinaut.outbox import Outbox
from ordinaut.workerconfig import WorkerConfig

ME = b"w" * 16


class Crew(SimpleNamespace):
    """What the agenda sees of the children."""

    def want(self) -> int:
        return self.wanted


@pytest.fixture
def crew():
    return Crew(outbox=Outbox(), spare=2, busy=False, draining=False, wanted=2)


def agenda_of(crew, listen=True, queues=("q",)):
    agenda = Agenda(WorkerConfig("", list(queues)), crew, Ledger())
    agenda.reconnected(listen)
    return agenda


def result(n=1):
    return [(b"l" * 16, bytes([i]) * 16, "success", None, None, 1) for i in range(n)]


def work(n):
    return [(b"work", *[None] * 12, 5, 1) for _ in range(n)]


def turn(agenda, rows=0, now=0.0):
    """One exchange: what was asked, after it was answered with so many units."""
    call, _ = agenda.next(ME, now)
    assert call is not None
    agenda.answered(call, work(rows), work(rows), now)
    return call


def test_before_it_waits_it_declares_itself_idle_and_looks_once_more(crew):
    agenda = agenda_of(crew)

    assert turn(agenda).idle is None
    assert turn(agenda).idle is True
    assert turn(agenda).idle is None
    call, wake = agenda.next(ME, 0.0)

    assert call is None
    assert 0.2 <= wake <= 0.3


def test_poll_only_never_declares_anything(crew):
    agenda = agenda_of(crew, listen=False)

    assert turn(agenda).idle is None
    assert agenda.next(ME, 0.0)[0] is None
    assert turn(agenda, now=1.0).idle is None


def test_a_notify_is_followed_by_a_look(crew):
    agenda = agenda_of(crew)
    for _ in range(3):
        turn(agenda)

    agenda.wake()

    assert turn(agenda, rows=1).limit == 2
    assert agenda.next(ME, 0.0)[0] is None


def test_full_answers_end_the_idleness(crew):
    agenda = agenda_of(crew)
    for _ in range(3):
        turn(agenda)
    agenda.wake()

    turn(agenda, rows=2)

    assert turn(agenda).idle is False


def test_taken_slots_end_the_idleness_after_a_while(crew):
    agenda = agenda_of(crew)
    for _ in range(3):
        turn(agenda)
    crew.wanted = 0

    call, wake = agenda.next(ME, 10.0)
    assert (call, wake) == (None, 10.25)
    call, _ = agenda.next(ME, 10.3)

    assert call is not None
    assert (call.idle, call.lease_id, call.limit) == (False, None, 0)


def test_queues_take_turns(crew):
    agenda = agenda_of(crew, queues=["a", "b"])

    assert [turn(agenda, rows=2).queue for _ in range(4)] == ["a", "b", "a", "b"]


def test_an_empty_queue_does_not_hide_the_other(crew):
    agenda = agenda_of(crew, queues=["a", "b"])

    asked = [turn(agenda, rows=0 if n == 0 else 2).queue for n in range(3)]

    assert asked == ["a", "b", "b"]


def test_results_wait_a_moment_for_others_but_not_for_nothing(crew):
    agenda = agenda_of(crew)
    crew.wanted, crew.busy = 0, True
    crew.outbox.results = result()

    call, wake = agenda.next(ME, 0.0)
    assert call is None
    assert 0 < wake <= 0.01
    assert agenda.next(ME, 0.01)[0] is not None

    crew.outbox.results, crew.busy = result(), False
    assert agenda.next(ME, 0.02)[0] is not None


def test_a_settle_takes_a_lease_along(crew):
    agenda = agenda_of(crew)
    for _ in range(3):
        turn(agenda)
    crew.outbox.results = result(3)

    call = turn(agenda)

    assert (len(call.settle), call.limit) == (3, 2)
    assert call.lease_id is not None


def test_who_drains_only_settles(crew):
    agenda = agenda_of(crew)
    crew.draining, crew.outbox.results = True, result()

    call = turn(agenda)

    assert (len(call.settle), call.lease_id, call.limit) == (1, None, 0)
    assert agenda.next(ME, 0.0)[0] is None


def test_a_request_to_sweep_counts_once(crew):
    agenda = agenda_of(crew, listen=False)
    sweep = (b"sweep", *[None] * 13, 77)
    turn(agenda, rows=1)

    for at, swept in ((1.0, True), (3.0, False)):
        call, _ = agenda.next(ME, at)
        assert call is not None
        agenda.answered(call, [sweep], [], at)
        call, _ = agenda.next(ME, at + 1)
        assert call is not None
        assert (call.floors is None) == swept
        agenda.answered(call, [], [], at + 1)
