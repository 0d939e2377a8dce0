"""Arguments that several methods take, checked before anything is done with them."""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from cogcache._types import Duration, duration_ms
from cogcache.exceptions import shown, warn
from cogcache.keys import Key

_MODES = ("cow", "view", "copy")


# What is read from a pipeline configuration, whatever else it holds.
_PIPELINE_NAMES = (
    "extract_keyframes",
    "transcribe_audio",
    "generate_descriptions",
    "generate_embeddings",
    "keyframe_strategy",
    "keyframe_threshold",
    "keyframe_fps",
    "max_frames_per_video",
    "whisper_model",
    "whisper_language",
    "language",
    "vlm_model",
    "vlm_batch_size",
    "embedding_model",
)
_A_SLIP = (
    0.88  # how alike: `extract_frames` is one of ours, `embedding_model_path` a name of its own
)


def warn_of_slips(config: Mapping[str, Any]) -> None:
    """Warn of names in a pipeline configuration that are nearly one of ours, which is not there: a
    misspelt flag would switch its artifact off without a word.
    """
    for name in config.keys() - _PIPELINE_NAMES:
        meant = _meant(name) if isinstance(name, str) else None
        if meant is not None and meant not in config:
            warn(f"pipeline configuration: {shown(name)} is not read; did you mean {meant!r}?")


@functools.lru_cache(1024)
def _meant(name: str) -> str | None:
    plain = name.casefold().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(plain, _PIPELINE_NAMES, n=1, cutoff=_A_SLIP)
    return close[0] if close else None


def load_options(mode: object, frames: object) -> dict[str, Any]:
    """What the decoder is told; checked here, so that a slip is never taken for damage."""
    options: dict[str, Any] = {}
    if not isinstance(mode, str) or mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {shown(mode)}")
    if mode != "cow":
        options["mode"] = mode
    if frames is not True:
        if frames is not False:
            frames = checked_frame_ids(frames)
        options["frames"] = frames
    return options


def checked_frame_ids(frames: Any) -> list[int | str]:
    """The ids of the frames that a caller wants, as a list.

    Raises:
        TypeError: It is not several ids, each an int or a string.
    """
    if isinstance(frames, str | bytes | Mapping) or not isinstance(frames, Iterable):
        raise TypeError(f"frames must be several frame ids, not {shown(frames)}")
    return [_frame_id(one) for one in frames]


def _frame_id(value: Any) -> int | str:
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # numpy's integers too
    except TypeError:
        pass
    raise TypeError(f"frames: a frame id is an int or a string, not {shown(value)}")


def check_kept(ttl: Duration | None, cost_seconds: float | None) -> None:
    """Find a mistake before anything is computed."""
    duration_ms(ttl, None)
    if cost_seconds is not None:
        milliseconds(cost_seconds)


def flag(value: object, name: str) -> None:
    """Raise ``TypeError`` unless it is True or False: ``"no"`` would mean yes."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")


def checked_times(timestamps: Any) -> list[float]:
    """Times in seconds, as a list.

    Raises:
        TypeError: It is not several numbers.
    """
    if isinstance(timestamps, str | bytes | Mapping | Set) or not isinstance(timestamps, Iterable):
        raise TypeError(
            f"timestamps must be several numbers of seconds, not {type(timestamps).__name__}"
        )
    times = list(timestamps)
    for time in times:
        if isinstance(time, bool) or not hasattr(time, "__float__"):
            raise TypeError(f"timestamps must be numbers of seconds, not {shown(time)}")
    return times


def checked_tags(tags: Iterable[str]) -> list[str]:
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise TypeError(
            f"tags must be several strings, not one {type(tags).__name__}; write [{shown(tags)}]"
        )
    names = list(tags)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a tag must be a non-empty string, not {shown(name)}")
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"a tag must be text without lone surrogates, not {shown(name)}"
            ) from None
        if size > 512:
            raise ValueError(f"a tag may have at most 512 UTF-8 bytes; {name[:40]!r}... has more")
    return list(dict.fromkeys(names))


def checked_content_type(content_type: Any) -> str:
    """A type such as ``video/mp4``; it may become a header of HTTP.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, over 255 characters, or holds others than printable ASCII.
    """
    if not isinstance(content_type, str):
        raise TypeError(f"content_type must be a string, not {type(content_type).__name__}")
    if not (0 < len(content_type) < 256 and content_type.isascii() and content_type.isprintable()):
        raise ValueError(
            f"content_type must be 1 to 255 printable ASCII characters such as 'video/mp4', "
            f"not {content_type[:40]!r}"
        )
    return content_type


def checked_keys(keys: Any, *, once: bool = True) -> list[Any]:
    """Several keys in their order, each once or as often as it comes. What each is worth is checked
    where it is used.
    """
    if isinstance(keys, str | bytes | Key) or not isinstance(keys, Iterable):
        raise TypeError(f"keys must be several keys, not one {type(keys).__name__}")
    wanted = list(keys)
    for key in wanted:
        if not isinstance(key, str | Key):
            raise TypeError(f"keys: a key is a str or a Key, not {type(key).__name__}")
    return list(dict.fromkeys(wanted)) if once else wanted


def milliseconds(seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError(
            f"cost_seconds must be a number of seconds from 0 to 1e9, not {shown(seconds)}"
        )
    return round(seconds * 1000)
