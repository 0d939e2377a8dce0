"""Statistics that are dictionaries, as they always were, and can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cogcache.faces import Face, Shown, Table, seconds_text, share_text, size_text

__all__ = ["ArtifactStats", "Stats", "Usage"]

_TIER_COLUMNS: Final = (
    "tier", "state", "entries>", "stored>", "limit>", "hits>", "misses>", "sets>", "evicted>",
    "damaged>", "errors>", "look-up p50>", "p99>",
)  # fmt: skip
_ARTIFACT_COLUMNS: Final = (
    "artifact", "hits>", "misses>", "hit rate>", "read>", "saved>", "sets>", "written>",
    "refused>", "failed>",
)  # fmt: skip


class Stats(Shown, dict[str, Any]):
    """What ``CacheManager.get_stats`` answers: a plain dictionary with a face."""

    __slots__ = ()

    def face(self) -> Face:
        return Face(**_manager_face(self))


class ArtifactStats(Shown, dict[str, Any]):
    """What ``PipelineArtifactCache.get_cache_stats`` answers: a plain dictionary with a face."""

    __slots__ = ()

    def face(self) -> Face:
        """What artifacts saved, then what tiers did. Saved are the seconds that the values of all
        hits once took to compute.
        """
        artifacts: Mapping[str, Mapping[str, float]] = self.get("artifacts", {})
        shown = _manager_face(self.get("overall", {}))
        used = {name: one for name, one in artifacts.items() if any(one.values())}
        saved = sum(one["seconds_saved"] for one in used.values())
        shown["facts"] = (("time saved", seconds_text(saved)), *shown["facts"])
        table = Table("artifacts", _ARTIFACT_COLUMNS, tuple(map(_artifact_row, used.items())))
        shown["tables"] = (table, *shown["tables"])
        return Face(**shown)


class Usage(Shown, dict[str, Any]):
    """What ``CacheManager.usage`` answers: a plain dictionary with a face."""

    __slots__ = ()

    def face(self) -> Face:
        def table(title: str, *, in_order: bool = False) -> Table:
            groups = list(self.get(title, {}).items())
            if not in_order:
                groups.sort(key=lambda one: -int(one[1]["stored_bytes"]))
            rows = tuple((name or "(none)", *_usage_cells(counts)) for name, counts in groups)
            return Table(title, ("name", "entries>", "raw>", "stored>", "stored/raw>"), rows)

        entries, raw, stored, ratio = _usage_cells(self)
        return Face(
            title=f"{entries} entries, {stored} stored",
            facts=(("raw", raw), ("stored", stored), ("stored/raw", ratio)),
            tables=(
                *(table(title) for title in ("artifacts", "profiles", "tags")),
                table("ages", in_order=True),
            ),
        )


def _usage_cells(counts: Mapping[str, Any]) -> tuple[str, str, str, str]:
    raw, stored = counts.get("raw_bytes", 0), counts.get("stored_bytes", 0)
    return (
        f"{counts.get('entries', 0):,}", size_text(raw), size_text(stored), share_text(stored, raw)
    )  # fmt: skip


def _manager_face(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a ``Face``."""
    counts: Mapping[str, Any] = stats.get("manager", {})
    tiers: Mapping[str, Mapping[str, Any]] = stats.get("backends", {})
    if stats.get("enabled") is False:
        return {"title": "statistics are off (enable_stats=False)", "facts": (), "tables": ()}
    hits, misses = counts.get("hits", 0), counts.get("misses", 0)
    down = [name for name, one in tiers.items() if one.get("state", "works") != "works"]
    rate = share_text(hits, hits + misses)
    return {
        "title": f"{hits:,} hits of {hits + misses:,} look-ups ({rate})",
        "facts": (
            ("misses", f"{misses:,}"),
            ("sets", f"{counts.get('sets', 0):,}"),
            ("deletes", f"{counts.get('deletes', 0):,}"),
            ("entries", f"{counts.get('total_files', 0):,}"),
            ("stored", size_text(counts.get("size_bytes", 0))),
        ),
        "tables": (Table("tiers", _TIER_COLUMNS, tuple(map(_tier_row, tiers.items()))),),
        "is_bad": bool(down),
        "notes": tuple(f"{name}: {_fault_of(tiers[name])}" for name in down),
    }


def _fault_of(tier: Mapping[str, Any]) -> str:
    fault = tier.get("last_fault")
    return f"{tier['state']}; the last fault: {fault or 'unknown'}"


def _tier_row(item: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    name, one = item
    limit = one.get("limit_bytes") or 0
    reads = one.get("reads") or {}
    counts = ("hits", "misses", "sets", "evictions", "damaged", "errors")
    timed = bool(reads.get("count"))
    return (
        name,
        str(one.get("state", "works")),
        f"{one.get('total_files', 0):,}{'' if one.get('complete', True) else '+'}",
        size_text(one.get("size_bytes", 0)),
        size_text(limit) if limit else "-",
        *(f"{one.get(count, 0):,}" for count in counts),
        *(f"{reads[at]:.3g} ms" if timed else "-" for at in ("p50_ms", "p99_ms")),
    )


def _artifact_row(item: tuple[str, Mapping[str, float]]) -> tuple[str, ...]:
    name, one = item
    return (
        name,
        f"{one['hits']:,}",
        f"{one['misses']:,}",
        share_text(one["hits"], one["hits"] + one["misses"]),
        size_text(one["hit_bytes"]),
        seconds_text(one["seconds_saved"]),
        f"{one['sets']:,}",
        size_text(one["stored_bytes"]),
        f"{one['refused']:,}",
        f"{one['failed']:,}",
    )
