"""Why an artifact is, or is not, in the cache: what each tier says, and what the nearest entries
differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogcache import _core
from cogcache._identity import KINDS_WITH_URI
from cogcache.backends.base import META_ARTIFACT, CacheBackend
from cogcache.faces import Face, Shown, Table, moment_text, seconds_text, size_text
from cogcache.keys import Difference, Key
from cogcache.origins import source_of
from cogcache.sources import IDENTITIES, SourceRef

if TYPE_CHECKING:
    from cogcache.manager import CacheManager

NEAREST_SHOWN = 3
ENTRIES_COMPARED = 10_000  # of one source; beyond that "nearest" means nearest of these
_NEVER_LOOKED_AT = (
    "the source is never looked at: without etag= or source_id= a change of it is not seen before "
    "the entry expires"
)


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
class Explanation(Shown):
    """Why an artifact is or is not there. ``str()`` is one sentence, its face has the rest.

    Attributes:
        key: What was asked for; ``None`` when the source could not be looked at.
        artifact: Name of the artifact.
        source: URI of the source, without secrets.
        reason: ``hit``, or one word for the miss.
        tiers: Each tier's answer, in order of priority.
        nearest: The nearest entries of the same source and artifact, the nearest first.
        known: How many entries of the same source and artifact there are besides the one asked for.
        note: What else is to be known; empty if nothing.
    """

    key: Key | None
    artifact: str
    source: str
    reason: str
    tiers: tuple[TierAnswer, ...]
    nearest: tuple[NearEntry, ...]
    known: int = 0
    note: str = ""

    @property
    def hit(self) -> bool:
        """Whether any tier has it."""
        return self.reason == "hit"

    def __str__(self) -> str:
        if self.hit:
            answer = next(tier for tier in self.tiers if tier.present)
            text = f"{self.artifact}: in {answer.tier}, {answer.stored_bytes} bytes"
        else:
            text = f"{self.artifact}: {self.reason}"
            if self.reason == "source-missing":
                text += f", {self.known} {'entry' if self.known == 1 else 'entries'} known"
            if self.nearest:
                what = "; ".join(str(difference) for difference in self.nearest[0].differences)
                text += f"; the nearest entry differs in {what}"
        return f"{text}; {self.note}" if self.note else text

    def face(self) -> Face:
        """The sentence, each tier's answer, and the nearest entries."""
        columns = ("tier", "answer", "age>", "left>", "stored>", "cost>")
        near = tuple(
            (one.key, "; ".join(map(str, one.differences)), moment_text(one.created))
            for one in self.nearest
        )
        entries = "1 entry" if self.known == 1 else f"{self.known:,} entries"
        known = f"nearest of {entries} of the same source and artifact"
        return Face(
            title=str(self),
            is_bad=not self.hit,
            facts=(
                ("key", "unknown" if self.key is None else str(self.key)),
                ("source", self.source),
            ),
            tables=(
                Table("tiers", columns, tuple(map(_answer_row, self.tiers))),
                Table(known, ("key", "what differs", "created (UTC)"), near),
            ),
        )


def _answer_row(answer: TierAnswer) -> tuple[str, ...]:
    if not answer.present:
        return answer.tier, answer.reason, "-", "-", "-", "-"
    return (
        answer.tier,
        "has it",
        seconds_text(answer.age_seconds or 0),
        "for ever" if answer.ttl_seconds is None else seconds_text(answer.ttl_seconds),
        size_text(answer.stored_bytes),
        seconds_text(answer.cost_seconds) if answer.cost_seconds else "-",
    )


async def explain_miss(
    manager: CacheManager, key: Key, source: SourceRef, artifact: str
) -> Explanation:
    """Ask every tier about ``key`` and look for entries of the same source and artifact. Counts
    nothing.
    """
    answers = await ask_tiers(manager, key)
    note = _NEVER_LOOKED_AT if source.kind == "opaque" else ""
    if any(answer.present for answer in answers):
        return Explanation(key, artifact, source.uri, "hit", answers, (), note=note)
    near = await _near(manager, key, source, artifact)
    nearest = tuple(sorted(near, key=lambda one: (_distance(one), -one.created)))
    reasons = [answer.reason for answer in answers]
    reason = next((r for r in reasons if r != "absent"), "absent")
    if reason == "absent":
        if source.kind == "absent":
            reason = "source-missing"
            if near and not note:
                note = "video(..., missing='latest') takes the file as it was last"
        elif nearest and (other := _other_identity(nearest[0])):
            note = note or (
                f"it was stored under identity={other!r} and is asked for by {source.kind!r}"
            )
        elif nearest and any(_of_source(one) for one in nearest[0].differences):
            reason = "source-changed"
    nearest = nearest[:NEAREST_SHOWN]
    return Explanation(key, artifact, source.uri, reason, answers, nearest, len(near), note)


async def ask_tiers(manager: CacheManager, key: Key) -> tuple[TierAnswer, ...]:
    """What each tier knows of a key, in order of priority. Counts nothing."""
    return tuple([await _answer(manager, tier, key) for tier in manager.backends])


async def _answer(manager: CacheManager, tier: CacheBackend, key: Key) -> TierAnswer:
    # As a lookup asks: what one tier has may have been invalidated in another.
    found = await manager._tiers.fetch(tier, key.encoded, index_only=True)
    if isinstance(found, str):
        return TierAnswer(tier.name, False, found)
    now = tier.now_ms()
    left = None if found.expires_ms is None else max(0.0, (found.expires_ms - now) / 1000)
    age = max(0.0, (now - found.refreshed_ms) / 1000)
    return TierAnswer(tier.name, True, "hit", age, left, found.length, found.cost_ms / 1000)


async def _near(
    manager: CacheManager, key: Key, source: SourceRef, artifact: str
) -> Collection[NearEntry]:
    """The entries of the same source and artifact, and what is different about each."""
    near = await _compared(
        manager,
        key,
        source.uri_hash,
        lambda entry, other: entry.meta.get(META_ARTIFACT) == artifact and _is_of(entry, source),
    )
    if not near and source.kind not in KINDS_WITH_URI:
        # The same content may be known by another name: the index finds names, so look at all.
        near = await _compared(
            manager,
            key,
            0,
            lambda entry, other: other.artifact == artifact and other.source == key.source,
        )
    return near


async def _compared(
    manager: CacheManager,
    key: Key,
    uri_hash: int,
    meant: Callable[[_core.Entry, Key], bool],
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
                if other == key or not meant(entry, other) or tier._why_dead(entry) is not None:
                    continue
                differences = tuple(key.diff(_with_origin(other, entry)))
                if differences:
                    near[entry.key] = NearEntry(str(other), differences, entry.created_ms / 1000)
        except Exception:  # noqa: S112
            continue  # the tier's own answer says that it is unavailable
    return near.values()


def _with_origin(key: Key, entry: _core.Entry) -> Key:
    """The same key that knows the source which the entry was made from, where the entry tells."""
    origin = source_of(entry)
    if origin is None or origin.fingerprint != key.source:
        return key
    return Key(key.profile, origin, key.artifact, key.params)


def _of_source(difference: Difference) -> bool:
    return difference.part.partition(".")[0] == "source"


def _other_identity(near: NearEntry) -> str | None:
    """The ``identity=`` that an entry was stored under, if another one is asked for."""
    for one in near.differences:
        if one.part == "source.kind" and {one.mine, one.theirs} <= set(IDENTITIES):
            return one.theirs
    return None


def _distance(near: NearEntry) -> int:
    """In how many things an entry differs; the source is one, whatever is different about it."""
    of_source = sum(map(_of_source, near.differences))
    return len(near.differences) - of_source + bool(of_source)


def _is_of(entry: _core.Entry, source: SourceRef) -> bool:
    of = source_of(entry)
    return of is not None and of.uri == source.uri
