"""``show``, ``get`` and ``put``: one entry."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import click

from cogcache import _core
from cogcache._types import StoreResult
from cogcache.backends.base import describe_entry
from cogcache.cli.asking import print_answers
from cogcache.cli.common import (
    CacheChoice,
    NotFoundExit,
    cache_options,
    json_option,
    opened,
    run_async,
)
from cogcache.cli.output import clean, duration, print_json, print_table, size, when
from cogcache.explain import TierAnswer, ask_tiers
from cogcache.keys import Key
from cogcache.manager import CacheManager

__all__ = ["get_command", "put_command", "show_command"]

_CODECS: Final = {0: "-", 1: "zstd"}
_FILTERS: Final = {0: "-", 1: "byte shuffle", 2: "bit shuffle"}


@click.command(
    "show",
    short_help="Show an entry, its parts and chunks.",
    epilog="Example: cogcache show audio:talk --chunks",
)
@click.argument("key")
@click.option("--chunks", is_flag=True, help="Also every chunk of every part.")
@json_option
@cache_options
def show_command(key: str, chunks: bool, as_json: bool, cache: CacheChoice) -> None:
    """Show what an entry is, of what parts and chunks it consists, and which tiers have it."""
    named = Key.parse(key)

    async def work() -> tuple[dict[str, Any], list[_core.PartInfo], tuple[TierAnswer, ...]]:
        async with opened(cache) as manager:
            found, reason = await manager._tiers.find(named.encoded)
            if found is None:
                raise NotFoundExit(f"{named}: {reason}")
            entry = found[0]
            return describe_entry(entry), entry.parts(), await ask_tiers(manager, named)

    entry, parts, answers = run_async(work)
    if as_json:
        manifest = [_part(part, chunks) for part in parts]
        tiers = [answer.tier for answer in answers if answer.present]
        print_json(**{**entry, "parts": manifest}, tiers=tiers)
        return
    for name, value in _lines(entry, named):
        click.echo(f"{name:14}{clean(value)}")
    click.echo()
    print_answers(answers)
    click.echo()
    print_table(
        ("PART", "KIND", "NAME", "RAW", "STORED", "CODEC", "FILTER", "CHUNKS", "CHUNK SIZE"),
        [
            (
                part.number,
                part.kind,
                part.name or "-",
                size(part.raw_size),
                size(part.stored_size),
                _CODECS.get(part.codec, part.codec),
                _FILTERS.get(part.filter, part.filter),
                part.chunk_count,
                size(part.chunk_size),
            )
            for part in parts
        ],
        right=("PART", "RAW", "STORED", "CHUNKS", "CHUNK SIZE"),
    )
    if chunks:
        click.echo()
        rows = [
            (part.number, number, start, stop)
            for part in parts
            for number, (start, stop) in enumerate(_chunks(part))
        ]
        print_table(
            ("PART", "CHUNK", "FROM BYTE", "TO"), rows, right=("PART", "CHUNK", "FROM BYTE", "TO")
        )


def _lines(entry: dict[str, Any], key: Key) -> Iterator[tuple[str, object]]:
    yield "key", entry["key"]
    yield "artifact", key.artifact or "- (a key of your own)"
    source = entry.get("source_uri") or (entry.get("source") or ["", ""])[1]
    if source:
        yield "source", source
    yield "created", when(entry["created_at"])
    yield "expires", when(entry["expires_at"])
    yield "size", f"{size(entry['size_bytes'])} stored, {size(entry['raw_bytes'])} raw"
    if "cost_ms" in entry:
        yield "computed in", duration(entry["cost_ms"] / 1000)
    for name in ("content_type", "producer", "tags", "user", "full_params"):
        if entry.get(name):
            value = entry[name]
            yield name.replace("_", " "), ", ".join(value) if name == "tags" else value


def _part(part: _core.PartInfo, with_chunks: bool) -> dict[str, Any]:
    described = part._asdict()
    if with_chunks:
        described["chunks"] = [{"start": start, "stop": stop} for start, stop in _chunks(part)]
    return described


def _chunks(part: _core.PartInfo) -> Iterator[tuple[int, int]]:
    """The raw bytes of each chunk, half open."""
    for start in range(0, part.raw_size, part.chunk_size or 1):
        yield start, min(start + part.chunk_size, part.raw_size)


@click.command(
    "get",
    short_help="Write the value of a key.",
    epilog="Example: cogcache get audio:talk -o talk.flac",
)
@click.argument("key")
@click.option("--part", help="Only this part, such as frame/17; see show.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to this file.")
@cache_options
def get_command(key: str, part: str | None, output: str | None, cache: CacheChoice) -> None:
    """Write the value of KEY: bytes and text as they are, all else as JSON, an array as .npy
    (-o).
    """
    with _target(output) as file:

        async def work() -> None:
            async with opened(cache) as manager:
                await _copy_value(manager, Key.parse(key), part, file, output)

        run_async(work)


async def _copy_value(
    manager: CacheManager, key: Key, part: str | None, file: BinaryIO, output: str | None
) -> None:
    try:
        async with manager.open(key, part) as reader:
            if reader is None:
                raise NotFoundExit(f"{key}: {(await manager.lookup(key)).reason}")
            if output is None and sys.stdout.isatty():
                raise click.UsageError(
                    f"{size(reader.size)} of bytes are not for a terminal: use -o FILE or a pipe"
                )
            async for piece in reader.stream():
                file.write(piece)
            return
    except ValueError as error:  # the value is not bytes
        if part is not None:
            raise
        reason = str(error)
    value = await manager.get(key)
    if isinstance(value, str):
        file.write(value.encode("utf-8", "surrogatepass"))
        return
    if type(value).__name__ == "ndarray" and output is not None:
        import numpy

        numpy.save(file, value)
        return
    try:
        file.write(json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")
    except (TypeError, ValueError) as error:
        place = _not_finite(value)
        if place is not None:
            raise click.UsageError(
                f"{key}: JSON has no number for {place}: read the value in Python, by get()"
            ) from None
        raise click.UsageError(f"{reason}; it is no JSON either ({error}): use --part") from None


def _not_finite(value: Any, at: str = "$") -> str | None:
    """The first number in a document that JSON cannot hold, and where it is: ``nan at $.a[3]``."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} at {at}"
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        inner = ((f"{at}.{name}", one) for name, one in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{at}[{number}]", one) for number, one in enumerate(value))
    places = (_not_finite(one, place) for place, one in inner)
    return next((place for place in places if place is not None), None)


def _text_value(file: BinaryIO, kind: str) -> Any:
    """What a file of text or JSON holds; ``file.name`` is not there for every input."""
    name = getattr(file, "name", "the input")
    try:
        text = file.read().decode()
        return json.loads(text) if kind == "json" else text
    except ValueError as error:  # of either
        raise click.UsageError(
            f"{name} is no {'JSON' if kind == 'json' else 'text'}: {error}"
        ) from None


@contextmanager
def _target(output: str | None) -> Iterator[BinaryIO]:
    """Where a value goes: a file appears when it is whole."""
    if output is None:
        yield sys.stdout.buffer
        return
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"-o {output}: there is no directory {folder}")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".cogcache-", delete=False) as file:
        try:
            yield file  # type: ignore[misc]
            file.flush()
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
            os.replace(file.name, output)
        except BaseException:
            os.unlink(file.name)
            raise


@click.command(
    "put",
    short_help="Store a file under a key.",
    epilog="Example: cogcache put audio:talk talk.flac --ttl 30d",
)
@click.argument("key")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--as",
    "kind",
    type=click.Choice(("bytes", "text", "json")),
    default="bytes",
    show_default=True,
    help="What the file holds.",
)
@click.option("--ttl", metavar="DURATION", help="Its life: 90s, 12h, 30d; 0 never ends.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--content-type", help="Such as image/jpeg; for servers.")
@click.option("--cost-seconds", type=float, help="What computing it took.")
@json_option
@cache_options
def put_command(
    key: str,
    file: BinaryIO,
    kind: str,
    ttl: str | None,
    tags: tuple[str, ...],
    content_type: str | None,
    cost_seconds: float | None,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """Store FILE, or standard input, under KEY."""
    more: dict[str, Any] = {"ttl": ttl, "tags": tags, "cost_seconds": cost_seconds}
    if kind != "bytes" and content_type is not None:
        raise click.UsageError("--content-type is for bytes")
    value = None if kind == "bytes" else _text_value(file, kind)

    async def work() -> StoreResult:
        async with opened(cache, "make") as manager:
            if kind == "bytes":
                # Without a buffer, whose lock a read that Ctrl-C leaves behind would keep.
                source = getattr(file, "raw", file)
                return await manager.put_stream(key, source, content_type=content_type, **more)
            return await manager.store(key, value, **more)

    stored = run_async(work)
    if as_json:
        print_json(
            key=str(Key.parse(key)),
            stored=stored.stored,
            reason=stored.reason,
            tiers=stored.tiers,
            later=stored.later,
            stored_bytes=stored.stored_bytes,
        )
    else:
        where = ", ".join((*stored.tiers, *stored.later))
        text = f"stored in {where}" if stored.stored else f"not stored: {stored.reason}"
        click.echo(f"cogcache: {clean(key)}: {text}", err=True)
    if not stored.stored:
        raise click.exceptions.Exit(1)
