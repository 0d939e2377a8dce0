"""Why an artifact is, or is not, in the cache: what each tier says, and what the nearest entries
differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogcache import _core
from cogcache.backends.base import META_ARTIFACT, META_SOURCE, CacheBackend
from cogcache.keys import Difference, Key

if TYPE_CHECKING:
    from cogcache.manager import CacheManager
    from cogcache.sources import SourceRef

NEAREST_SHOWN = 3
ENTRIES_COMPARED = 10_000  # of one source; beyond that "nearest" means nearest of these
_KINDS_WITH_URI = ("stat", "absent", "etag", "opaque")  # others stand for content wherever it lies


@dataclass(frozen=True, slots=True)
class TierAnswer:
    """What one tier knows of a key.

    Attributes:
        tier: Its name.
        present: Whether it has a live entry.
        reason: One word for why not; ``hit`` otherwise.
        age_seconds: Since the life of the entry began.
        ttl_seconds: What is left of it; ``None`` for an entry that never expires, and on a miss.
        stored_bytes: Size as stored.
        cost_seconds: What computing it took.
    """

    tier: str
    present: bool
    reason: str
    age_seconds: float | None = None
    ttl_seconds: float | None = None
    stored_bytes: int = 0
    cost_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NearEntry:
    """An entry that is almost what was asked for.

    Attributes:
        key: Its printed key.
        differences: What is different about it.
        created: Unix seconds of its write.
    """

    key: str
    differences: tuple[Difference, ...]
    created: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an artifact is or is not there. ``str()`` is one sentence.

    Attributes:
        key: What was asked for; ``None`` when the source could not be looked at.
        artifact: Name of the artifact.
        source: URI of the source, without secrets.
        reason: ``hit``, or one word for the miss.
        tiers: Each tier's answer, in order of priority.
        nearest: The nearest entries of the same source and artifact, the nearest first.
    """

    key: Key | None
    artifact: str
    source: str
    reason: str
    tiers: tuple[TierAnswer, ...]
    nearest: tuple[NearEntry, ...]

    @property
    def hit(self) -> bool:
        """Whether any tier has it."""
        return self.reason == "hit"

    def __str__(self) -> str:
        if self.hit:
            answer = next(tier for tier in self.tiers if tier.present)
            return f"{self.artifact}: in {answer.tier}, {answer.stored_bytes} bytes"
        if not self.nearest:
            return f"{self.artifact}: {self.reason}"
        what = "; ".join(str(difference) for difference in self.nearest[0].differences)
        return f"{self.artifact}: {self.reason}; the nearest entry differs in {what}"


async def explain_miss(
    manager: CacheManager, key: Key, source: SourceRef, artifact: str
) -> Explanation:
    """Ask every tier about ``key`` and look for entries of the same source and artifact. Counts
    nothing.
    """
    answers = tuple([await _answer(tier, key) for tier in manager.backends])
    if any(answer.present for answer in answers):
        return Explanation(key, artifact, source.uri, "hit", answers, ())
    nearest = await _nearest(manager, key, source, artifact)
    reasons = [answer.reason for answer in answers]
    reason = next((r for r in reasons if r != "absent"), "absent")
    if reason == "absent":
        if source.kind == "absent":
            reason = "source-missing"
        elif nearest and any(difference.part == "source" for difference in nearest[0].differences):
            reason = "source-changed"
    return Explanation(key, artifact, source.uri, reason, answers, nearest)


async def _answer(tier: CacheBackend, key: Key) -> TierAnswer:
    try:
        found = await tier.fetch(key.encoded, index_only=True)
    except Exception as error:
        return TierAnswer(tier.name, False, f"unavailable ({type(error).__name__})")
    if isinstance(found, str):
        return TierAnswer(tier.name, False, found)
    now = tier.now_ms()
    left = None if found.expires_ms is None else max(0.0, (found.expires_ms - now) / 1000)
    age = max(0.0, (now - found.refreshed_ms) / 1000)
    return TierAnswer(tier.name, True, "hit", age, left, found.length, found.cost_ms / 1000)


async def _nearest(
    manager: CacheManager, key: Key, source: SourceRef, artifact: str
) -> tuple[NearEntry, ...]:
    near = await _compared(
        manager,
        key,
        source.uri_hash,
        lambda entry, other: entry.meta.get(META_ARTIFACT) == artifact and _is_of(entry, source),
    )
    if not near and source.kind not in _KINDS_WITH_URI:
        # The same content may be known by another name: the index finds names, so look at all.
        near = await _compared(
            manager,
            key,
            0,
            lambda entry, other: other.artifact == artifact and other.source == key.source,
        )
    ranked = sorted(near, key=lambda one: (len(one.differences), -one.created))
    return tuple(ranked[:NEAREST_SHOWN])


async def _compared(
    manager: CacheManager, key: Key, uri_hash: int, meant: Callable[[_core.Entry, Key], bool]
) -> Collection[NearEntry]:
    """What differs in the entries of a URI (0 = of all) that are ``meant``."""
    near: dict[bytes, NearEntry] = {}
    compared = 0
    for tier in manager.backends:
        try:
            async for entry in tier.scan(uri_hash):
                compared += 1
                if compared > ENTRIES_COMPARED:
                    break
                other = Key.from_encoded(entry.key)
                differences = tuple(key.diff(other)) if meant(entry, other) else ()
                if differences:
                    near[entry.key] = NearEntry(str(other), differences, entry.created_ms / 1000)
        except Exception:  # noqa: S112
            continue  # the tier's own answer says that it is unavailable
    return near.values()


def _is_of(entry: _core.Entry, source: SourceRef) -> bool:
    identity = entry.meta.get(META_SOURCE) or []
    return source.uri in identity or source.kind not in _KINDS_WITH_URI
