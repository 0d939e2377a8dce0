"""What ``CacheManager.verify`` says: how far it is, and what it has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cogcache.faces import Face, Shown, Table, seconds_text, size_text
from cogcache.keys import Key

__all__ = ["Damage", "DamagedEntry", "TierCheck", "VerifyProgress", "VerifyReport"]

SHOWN: Final = 50  # damaged entries that are printed


@dataclass(frozen=True, slots=True)
class Damage:
    """One place inside an entry whose bytes are not those that were written.

    Attributes:
        part: Number of the part; ``None`` outside of all parts.
        kind: Of the part: ``"frame"``, ``"array"``, ``"blob"``, ``"doc"`` ...; ``""`` outside.
        name: Of the part, such as the id of a frame; may be empty.
        chunk: Number of the chunk within the part; ``None`` where that cannot be said.
    """

    part: int | None
    kind: str = ""
    name: str = ""
    chunk: int | None = None

    def __str__(self) -> str:
        if self.part is None:
            return "outside of its parts"
        name = f" {self.name}" if self.name else ""
        return f"part {self.part} ({self.kind}{name}), chunk {self.chunk}"


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """An entry that is not as it was written, or could not be read.

    Attributes:
        key: Its key; ``None`` where the entry does not tell it any more.
        tier: Name of the tier.
        place: What it is called there: a file under ``<base_path>/v1``, an object, a Redis key.
        damage: Where it is damaged, as far as that has a place; 1,024 of them at most for each 8
            MiB.
        error: What else is wrong, in words; ``""`` if nothing.
        stored_bytes: Its size as stored; 0 where that is not known.
        removed: Whether ``fix`` took it away.
    """

    key: Key | None
    tier: str
    place: str
    damage: tuple[Damage, ...] = ()
    error: str = ""
    stored_bytes: int = 0
    removed: bool = False

    @property
    def what(self) -> str:
        """What is wrong, in words."""
        words = [*map(str, self.damage[:3]), *([self.error] if self.error else [])]
        more = f" and {len(self.damage) - 3:,} more" if len(self.damage) > 3 else ""
        return f"{'; '.join(words)}{more}"

    def __str__(self) -> str:
        name = self.place if self.key is None else f"{self.key} ({self.place})"
        return f"{self.tier}: {name}: {self.what}{'; removed' if self.removed else ''}"


@dataclass(frozen=True, slots=True)
class TierCheck:
    """What was found in one tier.

    Attributes:
        tier: Its name.
        entries: Entries that were read.
        bytes_read: As stored.
        damaged: How many of them are damaged.
        removed: How many of those were taken away.
        unreadable: How many could not be read for another reason, so that nothing is known.
        error: Why the tier could not be looked through to its end; ``""`` if it was.
    """

    tier: str
    entries: int
    bytes_read: int
    damaged: int
    removed: int
    unreadable: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport(Shown):
    """What ``verify`` found.

    Attributes:
        tiers: Tier by tier, in order of priority.
        damaged: The damaged entries, the first 10,000 of each tier.
        unreadable: Entries of which nothing is known since they could not be read; as many.
        entries: Entries that were read.
        bytes_read: As stored.
        seconds: How long it took.
        fix: Whether damaged entries were to be taken away.
    """

    tiers: tuple[TierCheck, ...]
    damaged: tuple[DamagedEntry, ...]
    unreadable: tuple[DamagedEntry, ...]
    entries: int
    bytes_read: int
    seconds: float
    fix: bool

    @property
    def ok(self) -> bool:
        """Whether everything was read and is as it was written."""
        return not any(tier.damaged or tier.unreadable or tier.error for tier in self.tiers)

    def __bool__(self) -> bool:
        return self.ok

    def face(self) -> Face:
        """Good or bad news, tier by tier, and what is damaged."""
        damaged = sum(tier.damaged for tier in self.tiers)
        unreadable = sum(tier.unreadable for tier in self.tiers)
        if self.ok:
            title = f"{self.entries:,} entries are as they were written"
        elif damaged:
            title = f"{damaged:,} of {self.entries:,} entries are damaged"
        else:
            title = "not everything could be read"
        rate = f" ({size_text(self.bytes_read / self.seconds)}/s)" if self.seconds else ""
        columns = ("tier", "entries>", "read>", "damaged>", "removed>", "unreadable>", "error")
        where = ("key", "tier", "place", "what", "removed")
        return Face(
            title=title,
            is_bad=not self.ok,
            facts=(
                ("read", size_text(self.bytes_read)),
                ("in", f"{seconds_text(self.seconds)}{rate}"),
                ("unreadable", f"{unreadable:,}"),
            ),
            tables=(
                Table("tiers", columns, tuple(map(_tier_row, self.tiers))),
                Table("damaged", where, tuple(map(_entry_row, self.damaged[:SHOWN]))),
                Table("could not be read", where, tuple(map(_entry_row, self.unreadable[:SHOWN]))),
            ),
            notes=() if self.fix or not damaged else ("nothing was changed: verify(fix=True)",),
        )


def _tier_row(tier: TierCheck) -> tuple[str, ...]:
    return (
        tier.tier,
        f"{tier.entries:,}",
        size_text(tier.bytes_read),
        f"{tier.damaged:,}",
        f"{tier.removed:,}",
        f"{tier.unreadable:,}",
        tier.error,
    )


def _entry_row(one: DamagedEntry) -> tuple[str, ...]:
    name = "(it does not tell)" if one.key is None else str(one.key)
    return name, one.tier, one.place, one.what, "yes" if one.removed else "no"


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far ``verify`` is.

    Attributes:
        tier: The tier that is being read.
        entries: Read so far, in all tiers.
        bytes_read: As stored.
        damaged: Found so far.
    """

    tier: str
    entries: int
    bytes_read: int
    damaged: int
