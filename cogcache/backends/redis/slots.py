"""Freshness slots without the container: what a refresh changes of one that lies elsewhere."""

from __future__ import annotations

import struct
from typing import Final

from cogcache import _core
from cogcache._types import NEVER_MS

__all__ = ["TAIL_BYTES", "refreshed_tail"]

_SLOT_SEED: Final = 0xEB44ACCAB455D165  # docs/format.md, "Checksums"
TAIL_BYTES: Final = 112  # of a container: the freshness slots and the footer
_SLOTS: Final = (112, 80)  # of slot A and B, from the end


def refreshed_tail(tail: bytes, token: int, now_ms: int, ttl_ms: int | None) -> bytes:
    """The last 112 bytes of a container whose life begins ``now_ms``: in the freshness slot that is
    not current, as ``docs/format.md`` says. Nothing else of it changes.
    """
    image = bytearray(tail)
    seqs: list[int | None] = []
    for at in _SLOTS:
        words = bytes(image[-at : -at + 24])
        valid = _slot_sum(words, token) == image[-at + 24 : -at + 32]
        seqs.append(struct.unpack_from("<Q", words)[0] >> 48 if valid else None)
    first, second = seqs
    if first is None or second is None:
        current = 0 if second is None else 1
    else:
        current = 1 if 1 <= (second - first) % (1 << 16) <= (1 << 15) - 1 else 0
    at = _SLOTS[current]
    _, life, stale = struct.unpack_from("<3Q", image, len(image) - at)
    seq = ((seqs[current] or 0) + 1) % (1 << 16)
    flags = life >> 48
    words = struct.pack(
        "<3Q",
        seq << 48 | now_ms,
        flags << 48 | (NEVER_MS if ttl_ms is None else ttl_ms),
        stale & NEVER_MS,
    )
    end = len(image) - _SLOTS[1 - current] + 32
    image[end - 32 : end] = words + _slot_sum(words, token)
    return bytes(image)


def _slot_sum(words: bytes, token: int) -> bytes:
    return _core.hash64(words, token ^ _SLOT_SEED).to_bytes(8, "little")
