"""Freshness slots without the container: what a refresh changes of one that lies elsewhere.

Two slots of 32 bytes in the tail of a container say when its life began and how long it is
(docs/format.md). Where nothing can be rewritten in place, the newest of them lies beside it.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Final

from cogcache import _core
from cogcache._types import NEVER_MS

__all__ = [
    "TAIL_BYTES",
    "current_slot",
    "refreshed_tail",
    "slot_as_text",
    "slot_of_text",
    "take_slot",
]

_SLOT_SEED: Final = 0xEB44ACCAB455D165  # docs/format.md, "Checksums"
TAIL_BYTES: Final = 112  # of a container: the freshness slots and the footer
_SLOT_BYTES: Final = 32
_SLOTS: Final = (112, 80)  # of slot A and B, from the end


def refreshed_tail(tail: bytes, token: int, now_ms: int, ttl_ms: int | None) -> bytes:
    """The last 112 bytes of a container whose life begins ``now_ms``: in the freshness slot that is
    not current, as ``docs/format.md`` says. Nothing else of it changes.
    """
    image = bytearray(tail)
    current, seq = _current(image, token)
    _, life, stale = struct.unpack_from("<3Q", image, len(image) - _SLOTS[current])
    flags = life >> 48
    words = struct.pack(
        "<3Q",
        ((seq or 0) + 1) % (1 << 16) << 48 | now_ms,
        flags << 48 | (NEVER_MS if ttl_ms is None else ttl_ms),
        stale & NEVER_MS,
    )
    _write(image, 1 - current, words + _slot_sum(words, token))
    return bytes(image)


def current_slot(tail: bytes | bytearray, token: int) -> bytes | None:
    """The slot that counts of a container with this tail; ``None`` if none is valid."""
    current, seq = _current(tail, token)
    at = len(tail) - _SLOTS[current]
    return None if seq is None else bytes(tail[at : at + _SLOT_BYTES])


def take_slot(tail: bytearray, token: int, slot: bytes) -> None:
    """Take over a slot that lay beside a container into its tail, if it is of the same write and
    newer than what is there.
    """
    seq = _seq_of(slot, token)
    if seq is None or len(tail) < TAIL_BYTES:
        return
    current, known = _current(tail, token)
    if known is None:
        _write(tail, current, slot)
    elif _is_newer(seq, known):
        _write(tail, 1 - current, slot)


def slot_as_text(slot: bytes) -> str:
    """A slot in 43 ASCII characters."""
    return base64.urlsafe_b64encode(slot).decode().rstrip("=")


def slot_of_text(text: str) -> bytes | None:
    """The slot in a text of ``slot_as_text``; ``None`` for any other text."""
    try:
        slot = base64.b64decode(f"{text}=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return slot if len(slot) == _SLOT_BYTES else None


def _current(tail: bytes | bytearray, token: int) -> tuple[int, int | None]:
    """Which slot counts, and its number; no number where none is valid."""
    first, second = (_seq_of(bytes(tail[-at : -at + _SLOT_BYTES]), token) for at in _SLOTS)
    if first is None or second is None:
        return (0, first) if second is None else (1, second)
    return (1, second) if _is_newer(second, first) else (0, first)


def _is_newer(one: int, other: int) -> bool:
    return 1 <= (one - other) % (1 << 16) <= (1 << 15) - 1


def _seq_of(slot: bytes, token: int) -> int | None:
    """The number of a slot, or ``None`` if it is not a valid one of this write."""
    words = slot[:24]
    if len(slot) != _SLOT_BYTES or _slot_sum(words, token) != slot[24:]:
        return None
    first: int = struct.unpack_from("<Q", words)[0]
    return first >> 48


def _write(tail: bytearray, which: int, slot: bytes) -> None:
    at = len(tail) - _SLOTS[which]
    tail[at : at + _SLOT_BYTES] = slot


def _slot_sum(words: bytes, token: int) -> bytes:
    return _core.hash64(words, token ^ _SLOT_SEED).to_bytes(8, "little")
