"""Writing the pictures of an entry into a directory, for programs that want files."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cogcache.exceptions import shown
from cogcache.frames import Frames, frame_ids

__all__ = ["PATTERN", "export_frames"]

PATTERN: Final = "{frame_id}{suffix}"
_SUFFIXES: Final = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}
_SPEC: Final = re.compile(r"[^{}]?[<>=^]?0?(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])?[ds]?")
_DIRECTORY: Final = "keyframes_dir"  # of the metadata: where all of them lie


def export_frames(
    metadata: Any,
    frames: Frames,
    directory: str | os.PathLike[str],
    pattern: str,
    beat: Callable[[], None],
) -> Any:
    """Write every frame, and return the metadata with the paths where they are now. Blocks.

    Args:
        metadata: Of the frames; is changed, and returned.
        frames: All that there are.
        directory: Is made if it is not there. Files in it that have one of the names are replaced.
        pattern: Of the names, with ``{frame_id}`` and ``{suffix}`` (such as ``.jpg``, by what a
            frame is stored as).
        beat: Called after each file.

    Raises:
        OSError: As the system has it.
        ValueError: A pattern or an id that makes no name of a file, or the same for two frames;
            a frame that is not stored as a picture.
    """
    folder = Path(os.path.abspath(directory))
    names = _names(frames, pattern)
    folder.mkdir(parents=True, exist_ok=True)
    for frame_id, name in names.items():
        _write(folder / name, frames.encoded(frame_id))
        beat()
    paths = {frame_id: str(folder / name) for frame_id, name in names.items()}
    return _repointed(metadata, paths, str(folder))


def _names(frames: Frames, pattern: str) -> dict[str, str]:
    _check_pattern(pattern)
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for frame_id in frames:
        suffix = _SUFFIXES.get(frames.content_type(frame_id))
        if suffix is None:
            raise ValueError(
                f"frame {frame_id!r} is stored as {frames.content_type(frame_id)}, which is no "
                f"picture file: take frames.decode() instead"
            )
        name = pattern.format(frame_id=_Id(frame_id), suffix=suffix)
        if name in ("", ".", "..") or any(c in name for c in ("/", "\0", os.sep)):
            raise ValueError(f"frame {frame_id!r}: {name!r} is no name of a file; change pattern")
        if name in taken:
            raise ValueError(
                f"frames {taken[name]!r} and {frame_id!r} are both named {name!r}: pattern needs "
                f"{{frame_id}}"
            )
        taken[name] = frame_id
        names[frame_id] = name
    return names


class _Id(str):
    """A frame id in a pattern: ``{frame_id:06}`` works for those that are numbers."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        number = spec and self.removeprefix("-").isdecimal()
        return format(int(self), spec) if number else str.__format__(str(self), spec)


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a string, not {type(pattern).__name__}")
    try:
        fields = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"pattern {shown(pattern)}: {error}; write it like {PATTERN!r}") from None
    for _, field, spec, _ in fields:
        if field is None:
            continue
        if field not in ("frame_id", "suffix"):
            raise ValueError(f"pattern: {{{field}}} is unknown; {{frame_id}} and {{suffix}} are")
        if spec and not _SPEC.fullmatch(spec):
            raise ValueError(f"pattern: {{{field}:{spec}}} is no width of up to 255, as in :06")


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: somebody may be looking into the directory."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _repointed(metadata: Any, paths: Mapping[str, str], folder: str) -> Any:
    """The metadata with each frame's ``path`` where its file is now, in every copy of the list, and
    wherever else the old path stands; ``filename`` and ``keyframes_dir`` likewise.
    """
    listed = metadata.get("keyframes") if isinstance(metadata, Mapping) else metadata
    moved: dict[str, str] = {}
    for frame, frame_id in zip(listed or (), frame_ids(metadata) or (), strict=False):
        new = paths.get(str(frame_id))
        if isinstance(frame, dict) and new is not None:
            old = frame.get("path")
            if isinstance(old, str | os.PathLike):
                moved[os.fspath(old)] = new
            frame["path"] = new
    return _walked(metadata, paths, moved, folder)


def _walked(value: Any, paths: Mapping[str, str], moved: Mapping[str, str], folder: str) -> Any:
    if isinstance(value, list):
        value[:] = [_walked(item, paths, moved, folder) for item in value]
    elif isinstance(value, dict):
        own = _frame_path(value, paths)
        for name, item in value.items():
            value[name] = _walked(item, paths, moved, folder)
        if own is not None:
            value["path"] = own
            if "filename" in value:
                value["filename"] = os.path.basename(own)
        if isinstance(value.get(_DIRECTORY), str | os.PathLike):
            value[_DIRECTORY] = folder
    elif isinstance(value, str | os.PathLike):
        return moved.get(os.fspath(value), value)
    return value


def _frame_path(value: Mapping[Any, Any], paths: Mapping[str, str]) -> str | None:
    """The new path of a mapping that is about one frame and names its file."""
    if "path" not in value:
        return None
    for name in ("frame_id", "frame_number"):
        if value.get(name) is not None:
            return paths.get(str(value[name]))
    return None
