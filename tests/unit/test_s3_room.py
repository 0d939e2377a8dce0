"""Memory that is filled in place and handed out as bytes."""

from __future__ import annotations

import pytest

from cogcache.backends.s3.download import Room


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 1 << 20, (9 << 20) + 5])
def test_what_is_written_is_what_is_taken(size: int) -> None:
    room = Room(size)
    assert len(room.view) == size
    whole = bytes(range(256)) * (size // 256) + bytes(size % 256)
    half = size // 2
    with room.view[:half] as front, room.view[half:] as back:
        back[:] = whole[half:]
        front[:] = whole[:half]
    assert room.take() == whole


def test_a_view_that_somebody_kept_never_changes_what_was_taken() -> None:
    room = Room(1000)
    kept = room.view[:10]
    kept[:] = b"0123456789"
    taken = room.take()
    assert taken[:10] == b"0123456789"
    kept[:] = b"x" * 10
    assert taken[:10] == b"0123456789"
