"""cogcache and its peers, each behind the same three verbs, each in its best natural form.

Every contender stores a Python value and gives the same value back:

=============  ============================  =======================================  ============
contender      documents                     keyframes                                arrays
=============  ============================  =======================================  ============
plain files    ``json`` text in a file       metadata as JSON, one file a picture     ``numpy.save``
aiofiles       the same, awaited             the same, 64 files at a time             header, buffer
diskcache      ``cache[key] = value``        one value                                one value
joblib         ``dump`` and ``load``         one value                                one value
cashews        ``await cache.set(...)``      one value                                one value
=============  ============================  =======================================  ============

The peers are spared what cogcache does: plain files, aiofiles and joblib write straight to the
final name (a crash leaves half a file), none but cogcache checks a byte of what it reads or keeps a
size limit (that of diskcache, which cashews stores with, is raised out of the way). cogcache is
called as a pipeline calls it, ``video = await cache.video(path)`` once and then artifact by
artifact: the key is made on every call, while the peers are handed a short ready-made name.

It takes part in both of its forms: awaited, where no disk ever holds up the event loop, and
blocking, through ``video.sync``. Peers are called in the one form that they have: aiofiles and
cashews are awaited, all others block whoever calls them.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiofiles
import cashews
import diskcache
import joblib
import numpy as np

from benchmarks.corpus import Kind
from cogcache import FilesystemCacheConfig, PipelineArtifactCache, VideoCache
from cogcache.config import Compression


class Contender(Protocol):
    """What the benchmark asks of each."""

    name: str
    blocking: bool  # whether the event loop stands still until a call ends

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        """Store ``value`` under a name that is new."""

    async def get(self, kind: Kind, key: str) -> Any:
        """Return the value."""

    async def close(self) -> None:
        """Let go of files and threads."""


class Cogcache:
    """The artifact cache, through its public calls on a video that was looked at once."""

    name = "cogcache"
    blocking = False
    compression: Compression = "auto"

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._path = root / "video.mp4"
        self._path.write_bytes(b"a video" * 1000)
        self._cache = PipelineArtifactCache.open(
            FilesystemCacheConfig(base_path=root / "cache", enable_compression=self.compression)
        )
        self._bound: VideoCache | None = None

    async def _video(self) -> VideoCache:
        if self._bound is None:
            self._bound = await self._cache.video(self._path)
        return self._bound

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        video = await self._video()
        if kind == "document":
            stored = await video.set_transcript(value, model_size=key)
        elif kind == "frames":
            metadata, pictures = value
            stored = await video.set_keyframes(metadata, pictures, params={"name": key})
        else:
            stored = await video.set_embeddings(value, model_name=key)
        if not stored:
            raise RuntimeError(f"cogcache did not store {key}: {self._cache.get_cache_stats()}")

    async def get(self, kind: Kind, key: str) -> Any:
        video = await self._video()
        if kind == "document":
            return await video.get_transcript(model_size=key)
        if kind == "frames":
            found = await video.get_keyframes(load_images=True, params={"name": key})
            if found is None:
                return None
            metadata, frames = found
            return metadata, dict(frames)  # every picture as bytes of its own, as the peers give
        return await video.get_embeddings(model_name=key)

    async def close(self) -> None:
        await self._cache.aclose()


class CogcacheSync(Cogcache):
    """The same, through its blocking face."""

    name = "cogcache, sync"
    blocking = True

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        video = (await self._video()).sync
        if kind == "document":
            stored = video.set_transcript(value, model_size=key)
        elif kind == "frames":
            metadata, pictures = value
            stored = video.set_keyframes(metadata, pictures, params={"name": key})
        else:
            stored = video.set_embeddings(value, model_name=key)
        if not stored:
            raise RuntimeError(f"cogcache did not store {key}: {self._cache.get_cache_stats()}")

    async def get(self, kind: Kind, key: str) -> Any:
        video = (await self._video()).sync
        if kind == "document":
            return video.get_transcript(model_size=key)
        if kind == "frames":
            found = video.get_keyframes(load_images=True, params={"name": key})
            return None if found is None else (found[0], dict(found[1]))
        return video.get_embeddings(model_name=key)


class Compressed(Cogcache):
    """The same, told to compress whatever gains by it, as where bytes travel."""

    name = "compressed"
    compression = True


class PlainFiles:
    """``open``, ``read``, ``write``: what a script does without any library."""

    name = "plain files"
    blocking = True

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        path = self._root / key
        if kind == "document":
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(value, separators=(",", ":")))
        elif kind == "frames":
            metadata, pictures = value
            path.mkdir()
            with open(path / "metadata.json", "w", encoding="utf-8") as file:
                file.write(json.dumps(metadata, separators=(",", ":")))
            for number, picture in pictures.items():
                with open(f"{path}/{number}.jpg", "wb", buffering=0) as file:
                    file.write(picture)
        else:
            np.save(path.with_suffix(".npy"), value)

    async def get(self, kind: Kind, key: str) -> Any:
        path = self._root / key
        if kind == "document":
            with open(path, encoding="utf-8") as file:
                return json.loads(file.read())
        if kind == "frames":
            with open(path / "metadata.json", encoding="utf-8") as file:
                metadata = json.loads(file.read())
            pictures = {}
            for frame in metadata["keyframes"]:
                number = str(frame["frame_id"])
                with open(f"{path}/{number}.jpg", "rb", buffering=0) as file:
                    pictures[number] = file.read()
            return metadata, pictures
        return np.load(path.with_suffix(".npy"))

    async def close(self) -> None:
        pass


class AioFiles:
    """Plain files without blocking the event loop."""

    name = "aiofiles"
    blocking = False

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root
        self._together = asyncio.Semaphore(64)

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        path = self._root / key
        if kind == "document":
            await self._write(path, json.dumps(value, separators=(",", ":")).encode())
        elif kind == "frames":
            metadata, pictures = value
            path.mkdir()
            data = json.dumps(metadata, separators=(",", ":")).encode()
            await self._write(path / "metadata.json", data)
            await self._all(
                [
                    lambda number=number, picture=picture: self._write(
                        path / f"{number}.jpg", picture
                    )
                    for number, picture in pictures.items()
                ]
            )
        else:
            header = io.BytesIO()
            described = np.lib.format.header_data_from_array_1_0(value)
            np.lib.format.write_array_header_1_0(header, described)
            async with aiofiles.open(path, "wb", buffering=0) as file:
                await file.write(header.getvalue())
                await file.write(memoryview(value).cast("B"))

    async def get(self, kind: Kind, key: str) -> Any:
        path = self._root / key
        if kind == "document":
            return json.loads(await self._read(path))
        if kind == "frames":
            metadata = json.loads(await self._read(path / "metadata.json"))
            numbers = [str(frame["frame_id"]) for frame in metadata["keyframes"]]
            pictures = await self._all(
                [lambda number=number: self._read(path / f"{number}.jpg") for number in numbers]
            )
            return metadata, dict(zip(numbers, pictures, strict=True))
        data = await self._read(path)
        start = io.BytesIO(data[:256])
        np.lib.format.read_magic(start)
        shape, _, dtype = np.lib.format.read_array_header_1_0(start)
        return np.frombuffer(data, dtype, offset=start.tell()).reshape(shape)

    async def _write(self, path: Path, data: bytes) -> None:
        async with aiofiles.open(path, "wb", buffering=0) as file:
            await file.write(data)

    async def _read(self, path: Path) -> bytes:
        async with aiofiles.open(path, "rb", buffering=0) as file:
            return await file.read()

    async def _all(self, calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
        async def one(call: Callable[[], Awaitable[Any]]) -> Any:
            async with self._together:
                return await call()

        return await asyncio.gather(*(one(call) for call in calls))

    async def close(self) -> None:
        pass


class DiskCache:
    """diskcache: SQLite and files, values pickled."""

    name = "diskcache"
    blocking = True

    def __init__(self, root: Path) -> None:
        self._cache = diskcache.Cache(str(root), size_limit=2**40)

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        self._cache[key] = value

    async def get(self, kind: Kind, key: str) -> Any:
        return self._cache[key]

    async def close(self) -> None:
        self._cache.close()


class Joblib:
    """joblib: the files that ``joblib.Memory`` is made of, without its hashing of arguments."""

    name = "joblib"
    blocking = True

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        joblib.dump(value, self._root / key)

    async def get(self, kind: Kind, key: str) -> Any:
        return joblib.load(self._root / key)

    async def close(self) -> None:
        pass


class Cashews:
    """cashews on its disk backend: diskcache behind an executor, so that it can be awaited."""

    name = "cashews"
    blocking = False

    def __init__(self, root: Path) -> None:
        self._cache = cashews.Cache()
        self._cache.setup("disk://", directory=str(root), size_limit=2**40)

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        if not await self._cache.set(key, value):
            raise RuntimeError(f"cashews did not store {key}")

    async def get(self, kind: Kind, key: str) -> Any:
        return await self._cache.get(key)

    async def close(self) -> None:
        await self._cache.close()


CONTENDERS: tuple[Callable[[Path], Contender], ...] = (
    Cogcache,
    AioFiles,
    Cashews,
    CogcacheSync,
    PlainFiles,
    DiskCache,
    Joblib,
    Compressed,
)
