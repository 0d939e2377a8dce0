"""Frames with their metadata: one entry for all pictures of a video, each of them a part.

``make_bundle`` brings pictures into their stored form, ``Frames`` is what comes out: a mapping
whose pictures are decoded when they are asked for. Metadata alone never touches a picture.
"""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any, TypeVar

from cogcache import images as pictures
from cogcache._arguments import checked_frame_ids
from cogcache._core import Entry
from cogcache.codecs import FramePart, FrameRef, stored_form
from cogcache.exceptions import ValueTypeError, shown
from cogcache.images import EncodedImage, ImageCodec

__all__ = [
    "Bundle",
    "FrameId",
    "Frames",
    "check_channels",
    "check_metadata",
    "frame_ids",
    "make_bundle",
]

FrameId = int | str
T = TypeVar("T")
R = TypeVar("R")

NAME_LIMIT = 255  # bytes of a frame id as text
THREADS = min(8, os.cpu_count() or 1)


@dataclass(slots=True, eq=False)  # not frozen: there are thousands, and that doubles their cost
class _Frame:
    """One frame: what it was and where its bytes are. Never changed."""

    id: FrameId
    image: EncodedImage | None  # None: stored as bytes
    data: bytes | FrameRef  # in hand, or a part of the entry


# --- on the way out -------------------------------------------------------------------------------


class Frames(Mapping[str, Any]):
    """Pictures by frame id, decoded when they are asked for.

    ``frames[id]`` is what was stored: the same bytes for bytes and files, an array for an array, a
    PIL image for a PIL image; each time a fresh one. Ids are text; an int is accepted on look-up.
    Nothing here waits for a disk or a network: the bytes are verified and at hand. Decoding takes
    milliseconds a picture; ``await frames.decode()`` decodes many beside the event loop.
    """

    __slots__ = ("_entry", "_frames")

    def __init__(
        self, frames: Mapping[str, _Frame] | None = None, entry: Entry | None = None
    ) -> None:
        self._frames = {} if frames is None else frames
        self._entry = entry

    def __getitem__(self, frame_id: FrameId) -> Any:
        frame = self._find(frame_id)
        return self._bytes(frame) if frame.image is None else self._picture(frame, "bgr")

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, frame_id: object) -> bool:
        return _as_name(frame_id) in self._frames

    def __repr__(self) -> str:
        return f"<Frames: {len(self)} frames>"

    def __reduce__(self) -> Any:
        frames = [_Frame(f.id, f.image, self._bytes(f)) for f in self._frames.values()]
        return _restored, ([(f.id, _plain(f.image), f.data) for f in frames],)

    def encoded(self, frame_id: FrameId) -> bytes:
        """The stored bytes of a frame, exactly."""
        return self._bytes(self._find(frame_id))

    def content_type(self, frame_id: FrameId) -> str:
        """MIME type of ``encoded(frame_id)``."""
        frame = self._find(frame_id)
        if frame.image is not None:
            return frame.image.content_type
        return pictures.content_type_of(self._bytes(frame))

    async def decode(
        self,
        ids: Iterable[FrameId] | None = None,
        threads: int | None = None,
        *,
        channels: str = "bgr",
    ) -> dict[str, Any]:
        """Pictures ready for use, decoded in threads beside the event loop.

        Args:
            ids: Which; default all.
            threads: At most so many at once; default as many as there are processors, up to 8.
            channels: Order of the three in arrays decoded from stored bytes: ``"bgr"`` as OpenCV
                has it, or ``"rgb"``. A frame stored as an array has the order that it had.

        Returns:
            By id: arrays for frames stored as bytes, files or arrays, PIL images for PIL images.

        Raises:
            KeyError: No such frame.
            MissingExtraError: Pillow is not installed.
            ValueError: Stored bytes that are no picture.
        """
        return await asyncio.to_thread(self.decode_here, ids, threads, channels=channels)

    def decode_here(
        self,
        ids: Iterable[FrameId] | None = None,
        threads: int | None = None,
        *,
        channels: str = "bgr",
    ) -> dict[str, Any]:
        """The same as ``decode``, for programs without an event loop: waits for the result."""
        check_channels(channels)
        frames = [self._find(one) for one in (self if ids is None else checked_frame_ids(ids))]
        found = _in_threads(lambda frame: self._picture(frame, channels), frames, threads)
        return {str(frame.id): picture for frame, picture in zip(frames, found, strict=True)}

    def _picture(self, frame: _Frame, channels: str) -> Any:
        data = self._bytes(frame)
        try:
            if frame.image is None:
                return pictures.decode_bytes(data, channels)
            return frame.image.with_data(data).decode()
        except ValueError as error:
            raise ValueError(f"frame {frame.id!r}: {error}") from error

    def _find(self, frame_id: FrameId) -> _Frame:
        name = frame_id if type(frame_id) is str else _as_name(frame_id)
        frame = self._frames.get(name)
        if frame is None:
            raise KeyError(frame_id)
        return frame

    def _bytes(self, frame: _Frame) -> bytes:
        if isinstance(frame.data, bytes):
            return frame.data
        assert self._entry is not None
        return self._entry.read(frame.data)


def _restored(frames: Sequence[tuple[FrameId, Any, bytes]]) -> Frames:
    return Frames(
        _by_name(
            _Frame(frame_id, None if plain is None else EncodedImage.from_fields(plain), data)
            for frame_id, plain, data in frames
        )
    )


def _by_name(frames: Iterable[_Frame]) -> dict[str, _Frame]:
    return {str(frame.id): frame for frame in frames}


def _plain(image: EncodedImage | None) -> list[Any] | None:
    return None if image is None else image.fields(None)


def _as_name(frame_id: object) -> str:
    """The text that stands for an id; of anything that is none, one that no frame has."""
    if isinstance(frame_id, str):
        return frame_id
    try:
        return str(operator.index(frame_id))  # type: ignore[arg-type]
    except TypeError:
        return ""


def wanted_ids(wanted: Iterable[FrameId]) -> frozenset[FrameId]:
    """The ids that the wanted frames may be stored under, as text and as a number; ``_core`` calls
    it before it builds a document, to pass over all others.
    """
    names = {_as_name(frame_id) for frame_id in wanted}
    return frozenset(names).union(int(name) for name in names if _is_number(name))


def _is_number(name: str) -> bool:
    """Whether the text is that of an int that a document can hold."""
    digits = name.removeprefix("-")
    return len(digits) <= 20 and digits.isdecimal() and digits.isascii() and str(int(name)) == name


def from_document(
    entry: Entry, metadata: Any, items: Any, wanted: frozenset[FrameId] | None
) -> tuple[Any, Frames]:
    """Metadata and frames from a decoded document; ``_core`` calls it.

    Args:
        entry: Where the frames' bytes are.
        metadata: As decoded.
        items: The frames, without those that ``_core`` has passed over.
        wanted: From ``wanted_ids``; ``None`` is all.

    Raises:
        ValueError: The document is not that of a bundle.
    """
    if not isinstance(items, list):
        raise ValueError("frames that are no list")
    frames = _by_name(map(_frame_from, items))
    if len(frames) != len(items):
        raise ValueError("two frames of one id")
    if wanted is not None:
        frames = {name: frame for name, frame in frames.items() if name in wanted}
    numbers = [frame.data for frame in frames.values() if isinstance(frame.data, FrameRef)]
    if entry.in_memory:
        entry.check(numbers)
        return metadata, Frames(frames, entry)
    fetched = dict(zip(numbers, entry.fetch(numbers), strict=True))
    return metadata, Frames(
        {
            name: _Frame(f.id, f.image, fetched[f.data] if isinstance(f.data, FrameRef) else f.data)
            for name, f in frames.items()
        }
    )


def _frame_from(item: Any) -> _Frame:
    frame_id, stored = item
    if type(frame_id) not in (int, str):
        raise ValueError("a frame id that is none")
    image = stored if isinstance(stored, EncodedImage) else None
    data = stored if image is None else image.data
    if not isinstance(data, bytes | FrameRef):
        raise ValueError("a frame without bytes")
    return _Frame(frame_id, image, data)


# --- on the way in --------------------------------------------------------------------------------


class Bundle:
    """Metadata and pictures in their stored form, ready to be stored as one entry.

    Attributes:
        metadata: As given; encoded when the entry is made.
    """

    __slots__ = ("_frames", "metadata")

    def __init__(self, metadata: Any, frames: Iterable[_Frame]) -> None:
        self.metadata = metadata
        self._frames = list(frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __repr__(self) -> str:
        return f"<Bundle: {len(self)} frames>"

    def to_document(self) -> list[Any]:
        """What the walk writes: the metadata, and each frame with its part."""
        items: list[list[Any]] = []
        for frame in self._frames:
            assert isinstance(frame.data, bytes)
            raw = frame.image is not None and frame.image.format in (pictures.RAW, pictures.ARRAY)
            part = FramePart(str(frame.id), frame.data, compress=raw)
            items.append([frame.id, part if frame.image is None else _Stored(frame.image, part)])
        return [self.metadata, items]

    def decoded(self, load_images: bool = True, frames: Iterable[FrameId] | None = None) -> Any:
        """What a later hit will give, without reading it back: ``(metadata, Frames)``, or the
        metadata alone.
        """
        metadata = stored_form(self.metadata)
        if not load_images:
            return metadata
        names = None if frames is None else {_as_name(frame_id) for frame_id in frames}
        chosen = [f for f in self._frames if names is None or str(f.id) in names]
        return metadata, Frames(_by_name(chosen))


class _Stored:
    """An encoded picture on its way into a document, with its part."""

    __slots__ = ("image", "part")

    def __init__(self, image: EncodedImage, part: FramePart) -> None:
        self.image = image
        self.part = part

    def to_image(self) -> list[Any]:
        return self.image.fields(self.part)


_NO_METADATA = (str, bytes, bytearray, memoryview, Number, os.PathLike, Set)


def check_metadata(artifact: str, metadata: Any) -> None:
    """Raise ``ValueTypeError`` for what can only be a slip, such as a number or a picture: metadata
    is a mapping, a list, or of a registered type.
    """
    if isinstance(metadata, _NO_METADATA) or hasattr(metadata, "__array_interface__"):
        raise ValueTypeError(
            f"{artifact}: the metadata must be a mapping or a list, not {type(metadata).__name__}"
        )


def frame_ids(metadata: Any) -> list[FrameId] | None:
    """The ids that keyframe metadata gives its frames: frame_id, else frame_number, else the index.

    The metadata is that list of mappings, or has it as ``keyframes``; else ``None``.

    Raises:
        ValueError: An id that is neither int nor text, or two of one text.
    """
    listed = metadata.get("keyframes") if isinstance(metadata, Mapping) else metadata
    if not isinstance(listed, list | tuple):
        return None
    if listed is metadata and not all(isinstance(frame, Mapping) for frame in listed):
        return None  # no list of keyframes
    ids: list[FrameId] = []
    for index, frame in enumerate(listed):
        given = frame if isinstance(frame, Mapping) else {}
        found = given.get("frame_id")
        if found is None:
            found = given.get("frame_number")
        ids.append(index if found is None else _checked_id(found))
    _check_distinct(ids)
    return ids


def _checked_id(frame_id: Any) -> FrameId:
    if isinstance(frame_id, str):
        if not 1 <= len(frame_id.encode("utf-8", "surrogatepass")) <= NAME_LIMIT:
            raise ValueError(f"frame id {frame_id[:40]!r}: 1 to {NAME_LIMIT} bytes are possible")
        return str.__str__(frame_id)
    if not isinstance(frame_id, bool):
        try:
            return operator.index(frame_id)
        except TypeError:
            pass
    raise ValueError(f"frame id {shown(frame_id)}: an int or a text is needed")


def _check_distinct(ids: Iterable[FrameId]) -> None:
    seen: set[str] = set()
    for frame_id in ids:
        if str(frame_id) in seen:
            raise ValueError(f"frame id {frame_id!r} is there twice; 1 and '1' are the same")
        seen.add(str(frame_id))


def check_channels(channels: object) -> None:
    """Raise ``ValueError`` for an order of channels that is none."""
    if not isinstance(channels, str) or channels not in ("bgr", "rgb"):
        raise ValueError(f"channels: {shown(channels)}; 'bgr' and 'rgb' are")


def make_bundle(
    metadata: Any,
    images: Any,
    *,
    image_codec: str = "jpeg:95",
    channels: str = "bgr",
    threads: int | None = None,
) -> Bundle:
    """Bring frames into the form in which they are stored. Reads files, encodes: not for the loop.

    Args:
        metadata: Any value; where it is a list of keyframes, or has one as ``keyframes``, the
            images must match its ids.
        images: By id, or in the order of the metadata: bytes and paths are stored untouched,
            uint8 arrays of 1 or 3 channels and RGB or L PIL images by ``image_codec``, all others
            without loss. ``Frames`` are taken as they are stored.
        image_codec: ``"jpeg:<quality>"``, ``"png"`` or ``"raw"``.
        channels: Order of three-channel arrays: ``"bgr"`` as OpenCV has it, or ``"rgb"``.
        threads: For reading and encoding; default as many as there are processors, up to 8.

    Raises:
        FileNotFoundError: A path that is not there; names the frame.
        ValueError: Ids that are there twice, or others or more or fewer than the metadata has.
        ValueTypeError: Something that is no picture; has the path.
        MissingExtraError: An array or image needs Pillow and it is not installed.
    """
    codec = ImageCodec.parse(image_codec)
    check_channels(channels)
    if isinstance(images, Bundle):
        return Bundle(metadata, images._frames)
    given = _paired(frame_ids(metadata), images)
    if isinstance(images, Frames):
        stored = [images._find(name) for _, name in given]
        return Bundle(
            metadata,
            [
                _Frame(frame_id, frame.image, images._bytes(frame))
                for (frame_id, _), frame in zip(given, stored, strict=True)
            ],
        )

    def encode(pair: tuple[FrameId, Any]) -> _Frame:
        return _encoded(pair[0], pair[1], codec, channels)

    plain = all(isinstance(image, bytes) for _, image in given)
    return Bundle(metadata, _in_threads(encode, given, 1 if plain else threads))


def _paired(ids: list[FrameId] | None, images: Any) -> list[tuple[FrameId, Any]]:
    """Each image with its id, in the order of the metadata if it has one."""
    if isinstance(images, Mapping):
        own = {_checked_id(frame_id): image for frame_id, image in images.items()}
        _check_distinct(own)
        if isinstance(images, Frames):
            own = {frame_id: str(frame_id) for frame_id in own}
        if ids is None:
            return list(own.items())
        by_name = {str(frame_id): image for frame_id, image in own.items()}
        for frame_id in ids:
            if str(frame_id) not in by_name:
                raise ValueError(f"no image for frame {frame_id!r} of the metadata")
        for name in by_name.keys() - {str(frame_id) for frame_id in ids}:
            raise ValueError(f"an image for frame {name!r}, which the metadata does not have")
        return [(frame_id, by_name[str(frame_id)]) for frame_id in ids]
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable):
        raise ValueTypeError(f"images: a mapping or a list is needed, not {type(images).__name__}")
    listed = list(images)
    if ids is not None and len(ids) != len(listed):
        raise ValueError(f"{len(listed)} images for {len(ids)} keyframes of the metadata")
    return list(zip(range(len(listed)) if ids is None else ids, listed, strict=True))


def _encoded(frame_id: FrameId, image: Any, codec: ImageCodec, channels: str) -> _Frame:
    path = f"$.frames[{frame_id!r}]"
    if isinstance(image, str | os.PathLike):
        image = _file_bytes(frame_id, image)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        if not data:
            raise ValueError(f"frame {frame_id!r} has no bytes")
        return _Frame(frame_id, None, data)
    try:
        encoded = _encoded_picture(image, codec, channels)
    except ValueTypeError as error:
        raise ValueTypeError(f"{path}: {error}", path) from error
    if encoded is None:
        raise ValueTypeError(
            f"{path}: {type(image).__name__} is no picture; bytes, a path, an array or a PIL image",
            path,
        )
    return _Frame(frame_id, encoded, encoded.data)


def _encoded_picture(image: Any, codec: ImageCodec, channels: str) -> EncodedImage | None:
    if hasattr(image, "__array_interface__") and hasattr(image, "dtype"):
        import numpy as np

        if isinstance(image, np.ma.MaskedArray):
            raise ValueTypeError("a masked array; store image.filled()")
        return pictures.encode_array(np.asarray(image), codec, channels)
    if type(image).__module__.partition(".")[0] == "PIL" and pictures.is_image(image):
        return pictures.encode_pillow(image, codec)
    return None


def _file_bytes(frame_id: FrameId, path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        text = f"frame {frame_id!r}: no such file"
        raise FileNotFoundError(error.errno, text, os.fspath(path)) from error
    except OSError as error:  # a directory, no permission: the class follows from the number
        text = f"frame {frame_id!r}: {error.strerror}"
        raise OSError(error.errno, text, os.fspath(path)) from error
    except ValueError as error:
        raise ValueError(f"frame {frame_id!r}: {error}") from error


def _in_threads(work: Callable[[T], R], items: Sequence[T], threads: int | None) -> list[R]:
    """``work`` on each item, in order; Pillow and file reads release the GIL."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int)):
        raise TypeError(f"threads must be a whole number, not {shown(threads)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: {threads}; at least 1 is needed")
    count = min(threads or THREADS, len(items))
    if count <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(count, thread_name_prefix="cogcache-frames") as pool:
        return list(pool.map(work, items))
