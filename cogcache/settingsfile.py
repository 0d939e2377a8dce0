"""Finding and reading a file of settings: ``cogcache.toml``, the table ``[tool.cogcache]`` of a
``pyproject.toml``, or JSON, with the line of every name.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cogcache.exceptions import ConfigError, shown, warn

__all__ = ["SettingsFile", "find_settings", "read_settings"]

_NAME: Final = "cogcache.toml"
_PROJECT: Final = "pyproject.toml"
_MOST_BYTES: Final = 1 << 20
_MENTIONS: Final = re.compile(r"""tool['"\s]*\.['"\s]*cogcache""")
_AT: Final = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)
_PART: Final = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_KEY: Final = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")
_TABLE: Final = re.compile(rf"\s*(\[\[?)\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]\]?\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file of settings as it was read.

    Attributes:
        path: Where it is, absolute.
        values: What it says; of a ``pyproject.toml`` only the table ``[tool.cogcache]``.
        lines: The line of each name by its path inside ``values``; names in odd layouts may lack.
    """

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str | int, ...], int]

    def origin(self, *path: str | int) -> str:
        """``file:line`` of a name, or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{self.path}:{line}"
        return str(self.path)


def find_settings(start: Path) -> SettingsFile | None:
    """The first ``cogcache.toml``, or ``pyproject.toml`` that has a table ``[tool.cogcache]``, in
    ``start`` or a directory above it.

    One that a stranger may have laid there, in a directory that all may write to, is passed over
    with a warning.

    Raises:
        ConfigError: What was found cannot be read.
    """
    for directory in (start, *start.parents):
        for name in (_NAME, _PROJECT):
            path = directory / name
            try:
                status = path.stat()
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if name == _PROJECT and not _mentions_us(path):
                continue
            if _may_be_a_strangers(status, directory):
                warn(
                    f"{path} is passed over: everybody may write to {directory}, and the file is "
                    f"not yours; name it (COGCACHE_CONFIG={path}) if it is meant"
                )
                continue
            found = read_settings(path)
            if name == _NAME or found.values:
                return found
    return None


def read_settings(path: str | os.PathLike[str]) -> SettingsFile:
    """Read a file of settings.

    Args:
        path: TOML, or JSON if its name ends with ``.json``.

    Raises:
        ConfigError: It cannot be read; says the line and column where its text is broken.
    """
    import tomllib  # here, since most processes read no file

    where = Path(os.path.abspath(os.path.expanduser(path)))
    text = _text_of(where)
    lines: Mapping[tuple[str | int, ...], int] = {}
    try:
        if where.suffix == ".json":
            values = json.loads(text)
        else:
            values, lines = tomllib.loads(text), _lines_of(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}:{error.lineno}:{error.colno}: {error.msg}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_toml_message(where, text, str(error))) from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read: {shown(str(error))}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must hold names and values, not {type(values).__name__}")
    if where.name == _PROJECT:
        tool = values.get("tool", {})
        values = tool.get("cogcache", {}) if isinstance(tool, dict) else {}
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: tool.cogcache must be a table")
        lines = {
            place[2:]: line for place, line in lines.items() if place[:2] == ("tool", "cogcache")
        }
    return SettingsFile(where, values, lines)


def _text_of(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or str(path) == os.devnull):  # reading might never end
            raise ConfigError(f"{path}: is {_kind_of(mode)}; settings are read from a regular file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: a file of settings has at most {_MOST_BYTES:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None


def _kind_of(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _mentions_us(path: Path) -> bool:
    """Whether a ``pyproject.toml`` may have our table; it is somebody else's file otherwise, and
    its faults are none of ours.
    """
    try:
        return _MENTIONS.search(_text_of(path)) is not None
    except ConfigError:
        return False


def _may_be_a_strangers(status: os.stat_result, directory: Path) -> bool:
    if status.st_uid in (os.geteuid(), 0):
        return False
    try:
        return bool((status.st_mode | directory.stat().st_mode) & stat.S_IWOTH)
    except OSError:
        return True


def _toml_message(path: Path, text: str, message: str) -> str:
    found = _AT.fullmatch(message)
    if found:
        return f"{path}:{found[2]}:{found[3]}: {found[1]}"
    last = text.split("\n")  # "at end of document"
    return f"{path}:{len(last)}:{len(last[-1]) + 1}: {message}"


def _lines_of(text: str) -> dict[tuple[str | int, ...], int]:
    """The lines of names in TOML that is known to be right. Names inside of values that go over
    several lines are left out.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    open_until = ""  # what ends the string or list that goes over lines
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        if open_until:
            open_until = "" if open_until in line else open_until
            continue
        if depth == 0:
            header = _TABLE.fullmatch(line.rstrip("\r"))
            if header is not None:
                table = _parts(header[2])
                if header[1] == "[[":
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                lines.setdefault(table, number)
                continue
            key = _KEY.match(line)
            if key is None:
                continue
            place = (*table, *_parts(key[1]))
            lines.setdefault(place, number)
            line = line[key.end() :]
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                open_until = quotes
        bare = re.sub(r""""(?:[^"\\]|\\.)*"|'[^']*'|#.*""", "", line)
        depth = max(0, depth + sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}"))
    return lines


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"' ") for part in re.findall(_PART, dotted))
