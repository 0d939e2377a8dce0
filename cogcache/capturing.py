"""Sources as they are now, and what is remembered of looking at them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from cogcache._inline import is_inline
from cogcache.manager import CacheManager
from cogcache.memo import DigestMemo
from cogcache.origins import source_of
from cogcache.sources import (
    Identity,
    Source,
    SourceRef,
    SourceUnavailableError,
    capture,
    capture_async,
    check_arguments,
    unreadable,
)

__all__ = ["Capturing"]

logger = logging.getLogger("cogcache")

NAMES_KEPT: Final = 4096


class Capturing:
    """What one cache captures.

    Args:
        manager: Under whose directory digests are remembered.
        identity: What a source is told by.
        memo: Whether digests of files are remembered.
    """

    def __init__(self, manager: CacheManager, identity: Identity, memo: bool) -> None:
        self._manager = manager
        self._identity: Identity = identity
        self._remembers = memo and identity != "stat"
        self._digests: DigestMemo | None = None
        self._unreadable: set[str] = set()

    async def source(
        self, video_path: Source, *, source_id: str | bytes | None = None, etag: str | None = None
    ) -> SourceRef:
        """A source as it is now; one that cannot be looked at is captured as that."""
        if isinstance(video_path, SourceRef):
            check_arguments(self._identity, source_id, etag, video_path)
            return video_path
        named: dict[str, Any] = {"source_id": source_id, "etag": etag, "memo": self._memo()}
        try:
            if is_inline():
                return capture(video_path, self._identity, **named)
            return await capture_async(video_path, self._identity, **named)
        except SourceUnavailableError as error:
            self._note_unreadable(video_path, error)
            return unreadable(video_path)

    def _memo(self) -> DigestMemo | None:
        if not self._remembers:
            return None
        if self._digests is None:
            roots = [
                root
                for tier in self._manager.backends
                if (root := getattr(tier.config, "expanded_path", None))
            ]
            self._digests = DigestMemo.for_root(roots[0] if roots else None)
        return self._digests

    async def latest_generation(self, source: SourceRef) -> SourceRef:
        """The newest identity of a URI that the cache has entries of; the given one if there are
        none.
        """
        best, newest = source, -1
        for tier in self._manager.backends:
            try:
                async for entry in tier.scan(source.uri_hash):
                    ref = source_of(entry)  # a tier may list more than was asked for
                    if ref is not None and ref.uri == source.uri and entry.created_ms > newest:
                        best, newest = ref, entry.created_ms
            except Exception as error:
                logger.warning("%s: cannot list the entries of a video: %s", tier.name, error)
        return best

    def _note_unreadable(self, video_path: Source, error: OSError) -> None:
        shown = (
            Path(os.fsdecode(os.fspath(video_path))).name
            if not isinstance(video_path, SourceRef)
            else ""
        )
        if shown not in self._unreadable and len(self._unreadable) < NAMES_KEPT:
            self._unreadable.add(shown)
            logger.warning(
                "source %r cannot be read, so nothing of it is cached: %s",
                shown,
                error.strerror or error,
            )
