"""Frames survive however the socket cuts them, and garbage is noticed."""

from __future__ import annotations

import pytest

from ordinaut import wire

MESSAGES = [
    ("run", [(b"l" * 16, b"w" * 16, None, "x", 7)]),
    ("return",),
    ("note", b"", b"w", "log", b"\x00" * 70_000),
]


@pytest.mark.parametrize("size", [1, 3, 7, 65_536, 1 << 20])
def test_messages_arrive_whole_and_in_order_however_they_are_cut(size: int) -> None:
    stream = b"".join(wire.encode(message) for message in MESSAGES)
    reader = wire.Reader()

    got = [
        message
        for start in range(0, len(stream), size)
        for message in reader.feed(stream[start : start + size])
    ]

    assert got == MESSAGES


def test_a_stream_that_is_no_stream_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        wire.Reader().feed(b"HTTP/1.1 400 Bad Request")


def test_a_unit_has_twelve_places_and_the_cell_32_bytes() -> None:
    assert wire.SCHEDULED_FOR == 11
    assert wire.CELL.size == 32
