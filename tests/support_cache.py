"""What tests of the manager and of artifacts share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cogcache import _core
from cogcache.backends.base import CacheBackend
from cogcache.config import BackendConfig, CacheConfig, FilesystemCacheConfig, PolicyOptions
from cogcache.manager import CacheManager
from cogcache.pipeline import PipelineArtifactCache


@dataclass(frozen=True)
class DictConfig(BackendConfig):
    backend_type: str = "dict"
    priority: int = 0


class DictTier(CacheBackend):
    """A third party's tier: entries in a dict."""

    CONFIG_CLASS: ClassVar[type[Any] | None] = DictConfig

    def __init__(self, config: DictConfig | None = None) -> None:
        super().__init__(config or DictConfig())
        self.images: dict[bytes, bytes] = {}
        self.calls: list[str] = []

    async def read(self, key: bytes) -> _core.Entry | None:
        self.calls.append("read")
        data = self.images.get(key)
        return None if data is None else _core.Entry.from_bytes(data, key)

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        self.calls.append("write")
        image = what.compose() if isinstance(what, _core.Draft) else what
        self.images[image.key] = image.tobytes()
        return None

    async def discard(self, key: bytes) -> bool:
        return self.images.pop(key, None) is not None

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        for key, data in list(self.images.items()):
            yield _core.Entry.from_bytes(data, key)


class BrokenTier(DictTier):
    """A tier whose every call fails."""

    async def read(self, key: bytes) -> _core.Entry | None:
        raise ConnectionError("no route")

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        raise ConnectionError("no route")

    async def discard(self, key: bytes) -> bool:
        raise ConnectionError("no route")

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        raise ConnectionError("no route")
        yield  # makes this a generator


def manager_over(*tiers: CacheBackend, **options: Any) -> CacheManager:
    """A manager over tiers that a test has made itself."""
    manager = CacheManager(CacheConfig([{"backend_type": "memory"}], **options))
    manager._use(list(tiers))
    return manager


def filesystem_manager(path: Path, **options: Any) -> CacheManager:
    """A manager over one filesystem tier."""
    return CacheManager(
        CacheConfig(
            [FilesystemCacheConfig(base_path=path, touch_seconds=0, cleanup_on_startup=False)],
            **options,
        )
    )


def filesystem_cache(path: Path, **options: Any) -> PipelineArtifactCache:
    """An artifact cache over one filesystem tier."""
    return PipelineArtifactCache(filesystem_manager(path), **options)


def a_video(path: Path, content: bytes = b"not really a video") -> Path:
    """A file that stands for a video, old enough not to be watched for another change."""
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    return path


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(DictConfig, PolicyOptions):
    """Of a tier of tests, with the policy fields that every tier of ours has."""

    backend_type: str = "policy"


class HeldTier(DictTier):
    """A tier whose writes wait until they are let go, or fail with a word.

    Attributes:
        word: What ``write`` answers instead of writing.
        held: Writes wait for ``let_go`` while it is set.
        written: Keys in the order in which they were written.
    """

    is_remote: ClassVar[bool] = True

    def __init__(self, name: str = "held", **policy: Any) -> None:
        super().__init__(PolicyConfig(**policy))  # type: ignore[arg-type]
        self.name = name
        self.word: str | None = None
        self.held = False
        self.written: list[bytes] = []
        self.begun = threading.Semaphore(0)
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Let every write go on, from now on."""
        self.held = False
        self._gate.set()

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        self.begun.release()
        if self.held:
            await asyncio.to_thread(self._gate.wait, 60)
        if self.word is not None:
            return self.word
        self.written.append(what.key)
        return await super().write(what, source=source, kind=kind)
