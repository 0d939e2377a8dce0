"""The artifacts and what is in their keys: one table, read by every method, by ``docs/keys.md`` and
by the tests.

A parameter is encoded *always* (its default too, so that leaving it out and naming it are one key)
or *when set*: only when it differs from its neutral default, so that a parameter added by a later
release changes no key of an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final, Literal

from cogcache._checks import nearest
from cogcache.exceptions import KeyTypeError, shown
from cogcache.images import JPEG, ImageCodec
from cogcache.keys import Key, Keyframes


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"


Framed = Literal["keyframes", "segment_frames"]
FRAMED: Final[tuple[Framed, ...]] = ("keyframes", "segment_frames")
"""Artifacts of metadata and pictures; all others are documents and arrays."""

PART: Final = ".part"
"""What the name of an artifact ends with in the key of a batch of it."""

REQUIRED: Final = _Required()
"""In a parameter table: the caller must name it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument that changes what an artifact is.

    Attributes:
        argument: Its name in Python.
        printed: Its name in keys.
        default: Its default, or ``REQUIRED``.
        when_set: Encoded only when it differs from the default.
    """

    argument: str
    printed: str
    default: Any = REQUIRED
    when_set: bool = False


_REVISION = Parameter("revision", "revision", None, when_set=True)
_PARAMS = Parameter("params", "params", None, when_set=True)
_IMAGE_CODEC = Parameter("image_codec", "image_codec", "jpeg:95", when_set=True)
_FREE = (_REVISION, _PARAMS)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A kind of result.

    Attributes:
        name: As in keys.
        parameters: What its key depends on beside the source.
        failed: Whether a value is the trace of a failure, which is never kept.
        own: Registered by a user.
    """

    name: str
    parameters: tuple[Parameter, ...]
    failed: Callable[[Any], bool] = field(default=lambda value: False)
    own: bool = False

    def arguments(self) -> dict[str, Parameter]:
        """Its parameters by argument name."""
        return {parameter.argument: parameter for parameter in self.parameters}


def has_error(value: Any) -> bool:
    """A result that carries its own failure: a mapping whose ``error`` is set."""
    return isinstance(value, Mapping) and bool(value.get("error"))


def _failed_descriptions(value: Any) -> bool:
    # A batch that failed as a whole leaves no text although it was asked for some. A video without
    # keyframes looks the same: asking again costs nothing there.
    return has_error(value) or (
        isinstance(value, Mapping) and "descriptions" in value and not value["descriptions"]
    )


ARTIFACTS: Final[Mapping[str, Artifact]] = {
    artifact.name: artifact
    for artifact in (
        Artifact(
            "keyframes",
            (
                Parameter("strategy", "strategy", "similarity"),
                Parameter("threshold", "threshold", None),
                Parameter("fps", "fps", None),
                Parameter("max_frames", "max_frames", 3000),
                _IMAGE_CODEC,
                *_FREE,
            ),
            has_error,
        ),
        Artifact(
            "transcript",
            (Parameter("model_size", "model", "base"), Parameter("language", "lang", None), *_FREE),
            has_error,
        ),
        Artifact(
            "descriptions",
            (
                Parameter("model_name", "model"),
                Parameter("batch_size", "batch_size", 500),
                Parameter("keyframes", "keyframes", None),
                Parameter("prompt", "prompt", None, when_set=True),
                *_FREE,
            ),
            _failed_descriptions,
        ),
        Artifact(
            "embeddings",
            (
                Parameter("model_name", "model"),
                Parameter("keyframes", "keyframes", None),
                Parameter("inputs", "inputs", None, when_set=True),
                *_FREE,
            ),
            has_error,
        ),
        Artifact(
            "segment_frames",
            (
                Parameter("segment_id", "segment_id"),
                Parameter("start_time", "start_time"),
                Parameter("end_time", "end_time"),
                Parameter("sampling_fps", "sampling_fps", 2.0),
                Parameter("max_frames", "max_frames", 12),
                _IMAGE_CODEC,
                *_FREE,
            ),
            has_error,
        ),
        Artifact(
            "segmentation",
            (
                Parameter("strategy", "strategy"),
                Parameter("segment_seconds", "seg"),
                Parameter("overlap_seconds", "overlap"),
                Parameter("fps", "fps"),
                Parameter("max_frames", "max_frames"),
                Parameter("transcript", "transcript", None),
                *_FREE,
            ),
            has_error,
        ),
    )
}


def artifact_of(name: str, known: Mapping[str, Artifact] = ARTIFACTS) -> Artifact:
    """The artifact called ``name`` among those that are ``known``.

    Raises:
        ValueError: There is none; names the nearest.
    """
    try:
        return known[name]
    except (KeyError, TypeError):
        raise ValueError(f"unknown artifact {shown(name)}{nearest(name, known)}") from None


def new_artifact(name: str, params: Mapping[str, Any], reserved: Collection[str]) -> Artifact:
    """An artifact of somebody's own; see ``PipelineArtifactCache.register_artifact``.

    Args:
        name: As in keys.
        params: Names of its arguments and their defaults.
        reserved: Names that an argument cannot have.

    Raises:
        ValueError: A name that cannot be.
        TypeError: Something else than texts and a mapping; a default that keys cannot hold.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an artifact must be a string, not {type(name).__name__}")
    if name.endswith(PART):
        raise ValueError(f"artifact {name!r}: names that end with {PART!r} are those of batches")
    if name in ARTIFACTS:
        raise ValueError(f"artifact {name!r} is one of cogcache's own; take another name")
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{name}: params must map names of arguments to their defaults, or to REQUIRED, not "
            f"{type(params).__name__}"
        )
    for argument, default in params.items():
        if not isinstance(argument, str) or not argument.isidentifier():
            raise ValueError(f"{name}: {shown(argument)} is no name of an argument")
        if argument in reserved or argument in ("revision", "params"):
            raise ValueError(
                f"{name}: {argument!r} means something else in every call; take another name"
            )
        if default is not REQUIRED and not isinstance(default, Keyframes):
            Key(None, bytes(16), "defaults", {argument: default})
    Key(None, bytes(16), name)
    own = tuple(Parameter(argument, argument, default) for argument, default in params.items())
    return Artifact(name, (*own, *_FREE), has_error, own=True)


def key_params(
    artifact: Artifact, named: Mapping[str, Any], parent: Callable[[Mapping[str, Any]], Key]
) -> dict[str, Any]:
    """What the key of an artifact holds, from the arguments of a call.

    Args:
        artifact: Which.
        named: The arguments by their Python names; those left out have their defaults.
        parent: Gives the key of the keyframes with the given arguments, of the same source and
            profile.

    Raises:
        TypeError: An argument that the artifact does not have (the nearest is named), a missing
            one, a wrong type.
        ValueError: Arguments that contradict each other.
    """
    name, known = artifact.name, artifact.arguments()
    for argument in named:
        if argument not in known:
            raise TypeError(f"{name}: unknown argument {shown(argument)}{nearest(argument, known)}")
    values = {
        argument: named.get(argument, parameter.default) for argument, parameter in known.items()
    }
    missing = [argument for argument, value in values.items() if value is REQUIRED]
    if missing:
        raise TypeError(f"{name}: missing argument {missing[0]!r}")
    if artifact.own:
        for argument in values:
            values[argument] = _digest_of_input(values[argument], parent)
    else:
        _settle(name, known, values, parent)
    if values["params"] is not None and not isinstance(values["params"], Mapping):
        raise KeyTypeError(
            f"{name}: params must be a mapping of names to values, "
            f"not {type(values['params']).__name__}",
            "$.params",
        )
    return {
        parameter.printed: values[argument]
        for argument, parameter in known.items()
        if argument in values
        and not (parameter.when_set and _is_neutral(values[argument], parameter.default))
    }


def _settle(
    name: str,
    known: Mapping[str, Parameter],
    values: dict[str, Any],
    parent: Callable[[Mapping[str, Any]], Key],
) -> None:
    """Check the arguments of one of ours, and bring each into the one form that keys hold."""
    if name == "transcript" and values["language"] is None:
        values["language"] = "auto"
    _check_names(name, values)
    if "image_codec" in values:
        values["image_codec"] = _one_spelling(values["image_codec"])
    if "keyframes" in values:
        values["keyframes"] = _keyframes_digest(name, values["keyframes"], parent)
    if name == "keyframes":
        _settle_strategy(values)
    if values.get("inputs") is not None:
        values["inputs"] = _input_digests(name, values["inputs"])
    # A str is a fingerprint of the caller's own.
    if "transcript" in values and not isinstance(values["transcript"], str):
        values["transcript"] = _digest_or_none(name, "transcript", values["transcript"])
    _check_numbers(name, known, values)
    if name == "segment_frames" and values["end_time"] < values["start_time"]:
        raise ValueError(
            f"{name}: end_time {shown(values['end_time'])} is before "
            f"start_time {shown(values['start_time'])}"
        )


def _digest_of_input(value: Any, parent: Callable[[Mapping[str, Any]], Key]) -> Any:
    """What stands in a key for another artifact that this one is made from."""
    if isinstance(value, Keyframes):
        return parent(value.arguments()).digest.hex()
    return value.digest.hex() if isinstance(value, Key) else value


def arguments_of(key: Key) -> dict[str, Any]:
    """What a key was made with, under the names of the arguments and those that keys print, the
    caller's own ``params`` among them. Values are as keys hold them.
    """
    held = key.params
    own = held.get("params")
    named = {**own, **held} if isinstance(own, Mapping) else held
    artifact = ARTIFACTS.get(key.artifact)
    for parameter in artifact.parameters if artifact is not None else ():
        if parameter.printed in held:
            named[parameter.argument] = held[parameter.printed]
        elif parameter.when_set:
            named.setdefault(parameter.argument, parameter.default)
    return named


_AT_LEAST = {
    "threshold": None,
    "fps": 0,
    "sampling_fps": 0,
    "max_frames": 1,
    "batch_size": 1,
    "segment_id": None,
    "start_time": 0,
    "end_time": 0,
    "segment_seconds": 0,
    "overlap_seconds": 0,
}
_WHOLE = ("max_frames", "batch_size")


_NAMES = ("model_size", "model_name", "strategy", "language")


def _check_names(name: str, values: Mapping[str, Any]) -> None:
    """Refuse what names nothing: two results "without a model" would be taken for each other."""
    for argument in _NAMES:
        if argument not in values:
            continue
        value = values[argument]
        if not isinstance(value, str):
            raise KeyTypeError(
                f"{name}: {argument} must be a string, not {type(value).__name__}", f"$.{argument}"
            )
        if not value:
            raise ValueError(f"{name}: {argument} must not be empty")


def _one_spelling(image_codec: Any) -> str:
    """``jpeg`` is ``jpeg:95``, and what is no codec is found at a look-up too."""
    if isinstance(image_codec, str) and image_codec == "jpeg:95":
        return image_codec
    codec = ImageCodec.parse(image_codec)
    return f"{codec.format}:{codec.quality}" if codec.format == JPEG else codec.format


def _check_numbers(name: str, known: Mapping[str, Parameter], values: Mapping[str, Any]) -> None:
    """Refuse what is no sensible number, so that a mix-up is not a silent miss for ever."""
    for argument, least in _AT_LEAST.items():
        if argument not in values or (
            argument == "segment_id" and isinstance(values[argument], str)
        ):
            continue
        if values[argument] is None and known[argument].default is None:
            continue
        value = values[argument]
        if isinstance(value, bool) or not _is_number(value):
            raise KeyTypeError(
                f"{name}: {argument} must be a number, not {type(value).__name__}", f"$.{argument}"
            )
        if not _is_finite(value) or (least is not None and value < least):
            bound = "" if least is None else f" of at least {least}"
            raise ValueError(f"{name}: {argument} must be a number{bound}, not {shown(value)}")
        if argument in _WHOLE and value != int(value):
            raise ValueError(f"{name}: {argument} must be a whole number, not {shown(value)}")


def _is_number(value: Any) -> bool:
    if isinstance(value, Real):
        return True
    return getattr(value, "shape", None) == () and getattr(value, "dtype", None) is not None


def _is_finite(value: Any) -> bool:
    return bool(value == value and value not in (math.inf, -math.inf))


def _settle_strategy(values: dict[str, Any]) -> None:
    strategy, threshold, fps = values["strategy"], values["threshold"], values["fps"]
    if strategy == "similarity":
        if fps is not None:
            raise ValueError(
                "keyframes: fps belongs to strategy='fps'; strategy='similarity' takes threshold"
            )
        values["threshold"] = 0.999 if threshold is None else threshold
        del values["fps"]
    elif strategy == "fps":
        if threshold is not None:
            raise ValueError(
                "keyframes: threshold belongs to strategy='similarity'; strategy='fps' takes fps"
            )
        values["fps"] = 1.0 if fps is None else fps
        del values["threshold"]
    else:
        if threshold is not None or fps is not None:
            raise ValueError(
                f"keyframes: put the settings of strategy={shown(strategy)} into params={{...}}"
            )
        del values["threshold"], values["fps"]


def _keyframes_digest(name: str, value: Any, parent: Callable[[Mapping[str, Any]], Key]) -> str:
    if value is None:
        return parent({}).digest.hex()
    if isinstance(value, Keyframes):
        return parent(value.arguments()).digest.hex()
    digest = _digest_or_none(name, "keyframes", value)
    assert digest is not None
    return digest


def _digest_or_none(name: str, argument: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, Key):
        return value.digest.hex()
    raise KeyTypeError(
        f"{name}: {argument} must be a Key, not {type(value).__name__}", f"$.{argument}"
    )


def _input_digests(name: str, inputs: Any) -> dict[str, str]:
    if not isinstance(inputs, Mapping):
        raise KeyTypeError(
            f"{name}: inputs must map names to Keys, not {type(inputs).__name__}", "$.inputs"
        )
    digests = {}
    for label, key in inputs.items():
        if not isinstance(key, Key):
            raise KeyTypeError(
                f"{name}: inputs[{label!r}] must be a Key, not {type(key).__name__}",
                f"$.inputs.{label}",
            )
        digests[label] = key.digest.hex()
    return digests


def _is_neutral(value: Any, default: Any) -> bool:
    if default is None and isinstance(value, Mapping):
        return not value
    return value is default or (type(value) is type(default) and value == default)
