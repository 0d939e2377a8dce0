"""A list of what is in the cache, with small pictures of what has pictures: ``CacheManager.ls``."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cogcache import _core
from cogcache._inline import is_inline
from cogcache._installed import is_installed
from cogcache.backends.base import CacheBackend
from cogcache.faces import Face, Picture, Shown, size_text
from cogcache.images import content_type_of, pillow
from cogcache.keys import Key
from cogcache.selection import Plan, SelectedEntry, entries_table

if TYPE_CHECKING:
    from cogcache.tiering import Tiers

__all__ = ["Listing", "list_entries"]

PICTURES: Final = 12
_FRAME_BYTES: Final = 16 << 20  # of a frame that is read for a picture
_PICTURE_BYTES: Final = 10_000
_SIDES: Final = (96, 72)
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class Listing(Shown):
    """What is in the cache, when the list was made.

    Attributes:
        entries: The largest first, as many as were asked for.
        count: How many there are.
        stored_bytes: What all of them take as stored, in all tiers together.
        pictures: Of the first frames of some, by key.
        unavailable: Names of the tiers that could not be asked.
    """

    entries: tuple[SelectedEntry, ...]
    count: int
    stored_bytes: int
    pictures: Mapping[Key, Picture]
    unavailable: tuple[str, ...]

    def face(self) -> Face:
        """The entries, with the pictures that were read when the list was made."""
        entries = "1 entry" if self.count == 1 else f"{self.count:,} entries"
        left = self.count - len(self.entries)
        notes = [f"and {left:,} more"] if left else []
        if self.unavailable:
            notes.append(f"not asked, since not available: {', '.join(self.unavailable)}")
        return Face(
            title=f"{entries}, {size_text(self.stored_bytes)} stored",
            is_bad=bool(self.unavailable),
            tables=(entries_table("", self.entries, self.pictures),),
            notes=tuple(notes),
        )


async def list_entries(tiers: Tiers, plan: Plan, limit: int | None, pictures: int) -> Listing:
    """See ``CacheManager.ls``."""
    entries = plan.entries[:limit]
    found: dict[Key, Picture] = {}
    for one in entries:
        if len(found) >= pictures:
            break
        picture = await _picture_of(tiers, one)
        if picture is not None:
            found[one.key] = picture
    return Listing(entries, plan.count, plan.stored_bytes, found, plan.unavailable)


async def _picture_of(tiers: Tiers, one: SelectedEntry) -> Picture | None:
    """A small picture of the first frame of an entry, if it has one that can be shown."""
    if not one.frames:
        return None
    for tier in tiers.backends:
        if tier.name not in one.tiers:
            continue
        entry = await tiers.fetch(tier, one.key.encoded, parts=True)
        if not isinstance(entry, str):
            try:
                return await _small(tier, entry)
            except (OSError, _core.DamagedError, _core.UnsupportedError):
                return None  # the entry is in the list without it
    return None


async def _small(tier: CacheBackend, entry: _core.Entry) -> Picture | None:
    frame = next((part for part in entry.parts() if part.kind == "frame"), None)
    if frame is None or frame.raw_size > _FRAME_BYTES:
        return None
    data = await tier.read_part(entry, frame.number, 0, frame.raw_size)
    kind = content_type_of(data)
    if not kind.startswith("image/"):
        return None
    text = f"frame {frame.name}"
    if is_installed("PIL"):
        small = _shrunk(data) if is_inline() else await asyncio.to_thread(_shrunk, data)
        return None if small is None else Picture(small, "image/jpeg", text)
    return Picture(data, kind, text) if len(data) <= _PICTURE_BYTES else None


def _shrunk(data: bytes) -> bytes | None:
    """A JPEG of at most 96 by 72 pixels and 10 kB; ``None`` of what is no picture."""
    try:
        with pillow("pictures of a list").open(io.BytesIO(data), formats=_FORMATS) as image:
            image.draft("RGB", _SIDES)
            image.thumbnail(_SIDES)
            small = image.convert("RGB")
    except Exception:  # whatever a decoder makes of foreign bytes
        return None
    for quality in (80, 50, 20):
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= _PICTURE_BYTES:
            return out.getvalue()
    return None
