"""Choosing entries by what they are: a plan to look at, and then to carry out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

from cogcache._arguments import checked_tags
from cogcache._checks import nearest, whole
from cogcache._identity import KINDS_WITH_URI, URI_TAG
from cogcache._inline import SyncFacade, is_inline
from cogcache._keytext import print_value
from cogcache._types import Duration, duration_seconds
from cogcache.artifacts import arguments_of
from cogcache.backends.base import (
    META_SOURCE,
    META_SOURCE_URI,
    CacheBackend,
    KeyPattern,
    tags_of,
)
from cogcache.faces import Face, Picture, Shown, Table, moment_text, seconds_text, size_text
from cogcache.generations import Generations
from cogcache.keys import Key
from cogcache.sources import (
    Source,
    SourceRef,
    SourceUnavailableError,
    capture,
    capture_async,
    unreadable,
)

if TYPE_CHECKING:
    from cogcache import _core

__all__ = ["Filters", "Plan", "SelectedEntry", "Selection", "meant_by", "select_from"]

_SHOWN = 20  # entries of a plan that are printed


@dataclass(frozen=True, slots=True)
class SelectedEntry:
    """An entry as a plan has it.

    Attributes:
        key: Its key.
        stored_bytes: What it takes as stored, in all tiers together.
        raw_bytes: What the value takes by itself, before compression.
        created_at: Unix seconds.
        expires_at: Unix seconds; ``None`` for an entry that never expires.
        cost_seconds: What computing it took, as far as anybody said.
        tags: Its own; not those that the cache gives every artifact.
        source_uri: What it was made from; ``""`` for keys of your own.
        tiers: The names of those that have it, in order of priority.
        frames: How many pictures it has as frames.
    """

    key: Key
    stored_bytes: int
    raw_bytes: int
    created_at: float
    expires_at: float | None
    cost_seconds: float
    tags: tuple[str, ...]
    source_uri: str
    tiers: tuple[str, ...]
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Plan(Shown):
    """Entries that were selected, and what deleting them does. Nothing has happened yet.

    A plan is what the tiers had when it was made. ``delete`` removes exactly the generations that
    it shows: one that was replaced meanwhile stays.

    Attributes:
        entries: The selected entries, the largest first.
        count: How many.
        stored_bytes: What they take as stored, in all tiers together.
        unavailable: Names of the tiers that could not be asked; their entries are not in the plan.
    """

    entries: tuple[SelectedEntry, ...]
    count: int
    stored_bytes: int
    unavailable: tuple[str, ...]
    _carry_out: Callable[[Collection[bytes]], Awaitable[int]] = field(repr=False, compare=False)
    _runs_inline: Callable[[], bool] = field(repr=False, compare=False)

    @property
    def sync(self) -> Any:
        """The same, blocking."""
        return SyncFacade(self, self._runs_inline)

    async def delete(self) -> int:
        """Delete what the plan shows.

        Returns:
            How many of its entries were deleted. Fewer than ``count`` if some were gone or replaced
            meanwhile, or a tier was down.
        """
        return await self._carry_out({one.key.encoded for one in self.entries})

    def only(self, test: Callable[[SelectedEntry], object]) -> Plan:
        """The part of the plan whose entries pass ``test``; this one stays as it is."""
        kept = tuple(one for one in self.entries if test(one))
        stored = sum(one.stored_bytes for one in kept)
        return replace(self, entries=kept, count=len(kept), stored_bytes=stored)

    def face(self) -> Face:
        """What would be deleted, the largest first."""
        entries = "1 entry" if self.count == 1 else f"{self.count:,} entries"
        more = (f"and {self.count - _SHOWN:,} more",) if self.count > _SHOWN else ()
        gone = (f"not asked, since not available: {', '.join(self.unavailable)}",)
        costs = sum(one.cost_seconds for one in self.entries)
        return Face(
            title=f"{entries}, {self.stored_bytes:,} bytes stored",
            is_bad=bool(self.unavailable),
            facts=(
                ("raw", size_text(sum(one.raw_bytes for one in self.entries))),
                ("took to compute", seconds_text(costs)),
            )
            if self.count
            else (),
            tables=(entries_table("entries", self.entries[:_SHOWN]),),
            notes=(*more, *(gone if self.unavailable else ())),
        )


def entries_table(
    title: str, entries: Sequence[SelectedEntry], pictures: Mapping[Key, Picture] | None = None
) -> Table:
    """Entries as rows, with a column of pictures if there are any."""
    columns = ("key", "stored>", "raw>", "created (UTC)", "expires (UTC)", "cost>", "tags", "tiers")
    rows: list[tuple[str | Picture, ...]] = []
    for one in entries:
        row = (
            str(one.key),
            size_text(one.stored_bytes),
            size_text(one.raw_bytes),
            moment_text(one.created_at),
            moment_text(one.expires_at),
            seconds_text(one.cost_seconds) if one.cost_seconds else "-",
            ", ".join(one.tags),
            ", ".join(one.tiers),
        )
        rows.append((pictures.get(one.key, ""), *row) if pictures else row)
    return Table(title, ("frame", *columns) if pictures else columns, tuple(rows))


class Filters(TypedDict, total=False):
    """The arguments of ``CacheManager.select``."""

    pattern: str | None
    profile: str | None
    artifact: str | None
    source: Source | None
    params: Mapping[str, Any] | None
    tags: Iterable[str]
    older_than: Duration | None
    min_bytes: int


class Selection:
    """Which entries are meant; see ``CacheManager.select``.

    Attributes:
        everything: No filter was given.
    """

    def __init__(
        self,
        *,
        pattern: str | None = None,
        profile: str | None = None,
        artifact: str | None = None,
        source: SourceRef | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        older_than: Duration | None = None,
        min_bytes: int = 0,
    ) -> None:
        self._source = source
        self._pattern = KeyPattern(pattern)
        self._profile = _text(profile, "profile")
        self._artifact = _text(artifact, "artifact")
        # As a key holds them, so that 30 and 30.0 are one, and long texts compare by their digest.
        wanted = Key(None, bytes(16), "any", params).params
        self._params = {name: print_value(value) for name, value in wanted.items()}
        self._tags = set(checked_tags(tags))
        self._older_ms = (
            None if older_than is None else duration_seconds(older_than, "older_than") * 1000
        )
        whole(min_bytes, "min_bytes", most=1 << 50)
        self._min_bytes = min_bytes or 0
        limits = (self._profile, self._artifact, source, self._older_ms)
        self.everything = (
            self._pattern.everything
            and all(limit is None for limit in limits)
            and not (self._params or self._tags or self._min_bytes)
        )

    def means(self, entry: _core.Entry, key: Key, now_ms: int) -> bool:
        """Whether a live entry is meant."""
        if entry.length < self._min_bytes:
            return False
        if self._older_ms is not None and now_ms - entry.created_ms < self._older_ms:
            return False
        if self._profile is not None and key.profile != self._profile:
            return False
        if self._artifact is not None and key.artifact != self._artifact:
            return False
        if self._source is not None and not self._is_of(self._source, entry, key):
            return False
        if self._tags and not self._tags <= set(tags_of(entry)):
            return False
        if self._params and not self._has_params(key):
            return False
        return self._pattern.everything or self._pattern.matches(str(key))

    @property
    def source_hash(self) -> int:
        """What the tiers' indexes find entries of the source by; 0 is all."""
        source = self._source
        by_place = source is not None and source.kind in (*KINDS_WITH_URI, "unreadable")
        return source.uri_hash if source is not None and by_place else 0

    @staticmethod
    def _is_of(source: SourceRef, entry: _core.Entry, key: Key) -> bool:
        return key.source == source.fingerprint or source.uri in _uris_of(entry)

    def _has_params(self, key: Key) -> bool:
        held = arguments_of(key)
        return all(
            name in held and print_value(held[name]) == value
            for name, value in self._params.items()
        )


async def meant_by(filters: Filters) -> Selection:
    """What these filters mean, as they were given to a method of the cache.

    Raises:
        TypeError: One that there is not.
        ValueError: One that cannot be.
    """
    for name in filters:
        if name not in Filters.__annotations__:
            raise TypeError(f"unknown filter {name!r}{nearest(name, Filters.__annotations__)}")
    given: dict[str, Any] = dict(filters)
    source = given.pop("source", None)
    return Selection(source=None if source is None else await _place_of(source), **given)


async def _place_of(source: Source) -> SourceRef:
    """A source that is asked for by where it is: what is there now does not matter."""
    try:
        return capture(source) if is_inline() else await capture_async(source)
    except SourceUnavailableError:
        return unreadable(cast("str", source))


async def select_from(
    tiers: Sequence[CacheBackend],
    meant: Selection,
    forgetting: Callable[
        [Callable[[bytes], bool], Iterable[bytes]], AbstractAsyncContextManager[None]
    ],
    runs_inline: Callable[[], bool],
    *,
    superseded: bool = False,
) -> Plan:
    """Look through the tiers for what is meant.

    Args:
        tiers: In order of priority.
        meant: What to look for.
        forgetting: ``async with forgetting(test, keys)``: nothing that waits to be written under
            keys that ``test`` says brings them back.
        runs_inline: Whether the tiers answer in the calling thread, for ``Plan.sync``.
        superseded: Only what ``Generations`` names, without what is pinned.
    """
    generations = Generations() if superseded else None
    pinned: set[bytes] = set()
    found: dict[bytes, SelectedEntry] = {}
    writes: list[dict[bytes, int]] = []  # of each tier: which write of which key
    unavailable: list[str] = []
    for tier in tiers:
        tokens: dict[bytes, int] = {}
        writes.append(tokens)
        try:
            uses: Mapping[bytes, int] = {}
            if generations is not None:
                pinned.update(await tier.pinned())
                uses = await tier.last_uses(meant.source_hash)
            async for entry in tier.scan(meant.source_hash):
                key = Key.from_encoded(entry.key)
                if tier._why_dead(entry) is not None:
                    continue
                if generations is not None:
                    generations.add(entry, key, used_ms=uses.get(key.digest, 0))
                if meant.means(entry, key, tier.now_ms()):
                    tokens[entry.key] = entry.token
                    known = found.get(entry.key)
                    found[entry.key] = _described(entry, key, tier.name, known)
        except Exception as error:
            tier.note_fault("list", error)
            unavailable.append(tier.name)
    if generations is not None:
        outdated = await generations.superseded() - pinned
        found = {key: one for key, one in found.items() if key in outdated}

    async def carry_out(chosen: Collection[bytes]) -> int:
        gone: set[bytes] = set()
        async with forgetting(chosen.__contains__, chosen):
            for tier, tokens in zip(tiers, writes, strict=True):
                try:
                    for key, token in tokens.items():
                        if key in chosen and await tier.discard_write(key, token):
                            gone.add(key)
                            tier.counters["deletes"] += 1
                except Exception as error:
                    tier.note_fault("delete", error)
        return len(gone)

    entries = sorted(found.values(), key=lambda one: (-one.stored_bytes, str(one.key)))
    stored = sum(one.stored_bytes for one in entries)
    return Plan(tuple(entries), len(entries), stored, tuple(unavailable), carry_out, runs_inline)


def _described(
    entry: _core.Entry, key: Key, tier: str, known: SelectedEntry | None
) -> SelectedEntry:
    if known is not None:
        return replace(
            known,
            stored_bytes=known.stored_bytes + entry.length,
            tiers=(*known.tiers, tier),
        )
    parts = entry.parts()
    return SelectedEntry(
        key=key,
        stored_bytes=entry.length,
        raw_bytes=sum(part.raw_size for part in parts),
        created_at=entry.created_ms / 1000,
        expires_at=None if entry.expires_ms is None else entry.expires_ms / 1000,
        cost_seconds=entry.cost_ms / 1000,
        tags=tuple(tag for tag in tags_of(entry) if not tag.startswith(URI_TAG)),
        source_uri=next(iter(_uris_of(entry)), ""),
        tiers=(tier,),
        frames=sum(part.kind == "frame" for part in parts),
    )


def _uris_of(entry: _core.Entry) -> list[str]:
    """What an entry says of where its source was."""
    identity = entry.meta.get(META_SOURCE) or [""]
    named = [entry.meta[META_SOURCE_URI]] if META_SOURCE_URI in entry.meta else []
    return [*named, *identity[1:2]] if identity[0] in KINDS_WITH_URI else named


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a string or None, not {type(value).__name__}")
    return value
