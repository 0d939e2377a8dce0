"""The forms of an artifact's value: as a caller gives it, as it is stored, as it is handed out.

They differ for keyframes and segment frames, which are given as ``(metadata, images)`` and stored
as bundles of encoded pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cogcache._arguments import checked_frame_ids, flag, load_options
from cogcache._inline import is_inline
from cogcache.artifacts import FRAMED, Artifact, artifact_of
from cogcache.exceptions import shown
from cogcache.frames import Bundle, check_metadata, make_bundle

__all__ = [
    "LOAD_OPTIONS",
    "NOTHING",
    "as_stored",
    "decoding",
    "handed_out",
    "metadata_of",
    "taken_load_options",
]

# Arguments that say how to load a value, not what it is, and the artifacts that have them.
LOAD_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "load_images": FRAMED,
    "frames": FRAMED,
    "mode": ("embeddings",),
    "names": ("embeddings",),
}
NOTHING: Final = object()


def taken_load_options(
    artifact: str, named: dict[str, Any], artifacts: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Take what says how to load out of ``named``; only what this artifact has."""
    load = {name: named.pop(name) for name in LOAD_OPTIONS if name in named}
    if not load:
        return load
    artifact_of(artifact, artifacts)
    for name in load:
        if artifact not in LOAD_OPTIONS[name]:
            raise TypeError(f"{artifact}: {name} is for {' and '.join(LOAD_OPTIONS[name])} only")
    if load.get("frames") is not None:
        load["frames"] = checked_frame_ids(load["frames"])
    if load.get("names") is not None:
        if isinstance(load["names"], str | bytes) or not isinstance(load["names"], Iterable):
            raise TypeError(f"names must be several names of arrays, not {shown(load['names'])}")
        load["names"] = list(load["names"])
    if "mode" in load:
        load_options(load["mode"], True)
    if "load_images" in load:
        flag(load["load_images"], "load_images")
    return load


def decoding(artifact: str, load: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """What the decoder is told, and how its answer becomes what the method gives: ``NOTHING`` where
    that is not in it.
    """
    if artifact in FRAMED:
        if not load.get("load_images", artifact == "segment_frames"):
            return {"frames": False}, _as_it_is
        wanted = load.get("frames")

        def pick(value: Any) -> Any:
            if not (isinstance(value, tuple) and len(value) == 2):
                return NOTHING  # stored without images
            if wanted is not None and any(one not in value[1] for one in wanted):
                return NOTHING  # stored without this one
            return value if artifact == "keyframes" else (value[0], list(value[1].values()))

        return {"frames": True if wanted is None else wanted}, pick
    if not load:
        return {}, _as_it_is
    mode = {"mode": load["mode"]} if "mode" in load else {}
    return mode, lambda value: _named(value, load.get("names"))


def _as_it_is(value: Any) -> Any:
    return value


def _named(value: Any, names: list[Any] | None) -> Any:
    """Of a mapping of arrays those with these names; a miss when one of them is not there."""
    if names is None or not isinstance(value, Mapping):
        return value
    return {name: value[name] for name in names} if all(n in value for n in names) else NOTHING


async def as_stored(artifact: str, params: Mapping[str, Any], value: Any, channels: str) -> Any:
    """Frames in the form in which they are stored; other values as they are. Reads and encodes
    off the loop.
    """
    if artifact not in FRAMED:
        return value
    check_metadata(artifact, metadata_of(artifact, value))
    if not (isinstance(value, tuple) and len(value) == 2):
        return value
    metadata, images = value
    if images is None:
        return metadata
    codec = params.get("image_codec", "jpeg:95")
    if is_inline():
        return make_bundle(metadata, images, image_codec=codec, channels=channels)
    return await asyncio.to_thread(
        make_bundle, metadata, images, image_codec=codec, channels=channels
    )


def handed_out(artifact: str, value: Any, load: Mapping[str, Any]) -> Any:
    """What the computing caller gets: for frames the decoded stored form, as every later caller."""
    if artifact not in FRAMED:
        named = _named(value, load.get("names"))
        return value if named is NOTHING else named
    images = bool(load.get("load_images", artifact == "segment_frames"))
    if not isinstance(value, Bundle):  # nothing to load, or it could not be brought into form
        return value if images else metadata_of(artifact, value)
    decoded = value.decoded(images, load.get("frames"))
    if images and artifact == "segment_frames":
        metadata, frames = decoded
        return metadata, list(frames.values())
    return decoded


def metadata_of(artifact: str, value: Any) -> Any:
    """What is said of frames, without them; other values as they are."""
    if artifact in FRAMED and isinstance(value, tuple) and len(value) == 2:
        return value[0]
    return value
