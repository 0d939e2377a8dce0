"""A bundle of hundreds of frames, and how much is done for one of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cogcache import CacheManager, _core
from cogcache import frames as frames_module
from cogcache.frames import make_bundle

COUNT = 400
METADATA = {"keyframes": [{"frame_id": n, "timestamp": n / 2} for n in range(COUNT)]}
PICTURES = [b"\xff\xd8\xff" + _core.hash128(b"%d" % n) * 600 for n in range(COUNT)]
FRAME_BYTES = len(PICTURES[0])
BUNDLE = make_bundle(METADATA, PICTURES)


def frames_built(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, the ids of the frames that are made of documents."""
    built: Counter[str] = Counter()
    real = frames_module._frame_from

    def counting(item: Any) -> Any:
        frame = real(item)
        built[str(frame.id)] += 1
        return frame

    monkeypatch.setattr(frames_module, "_frame_from", counting)
    return built


async def look_up_one_frame(
    manager: CacheManager, built: Counter[str], number: int, frame_id: int | str
) -> None:
    """Look up one frame with the metadata, and see that no other frame was built."""
    built.clear()
    metadata, frames = (await manager.lookup("bundle", frames=[frame_id])).value
    assert metadata == METADATA
    assert list(frames) == [str(number)]
    assert frames.encoded(frame_id) == PICTURES[number]
    assert built == {str(number): 1}


async def open_one_frame(manager: CacheManager, built: Counter[str], number: int) -> None:
    """Read one frame as a part, and see that the document was not looked at."""
    built.clear()
    async with manager.open("bundle", f"frame/{number}") as reader:
        assert reader is not None
        assert (reader.content_type, reader.size) == ("image/jpeg", FRAME_BYTES)
        assert await reader.read() == PICTURES[number]
        assert await reader.read(5, 9) == PICTURES[number][5:9]
        assert "parts" not in vars(reader)  # nobody has listed hundreds of them
        assert len(reader.parts) == COUNT + 1
    assert built == {}
