"""``doctor``: whether everything that the cache needs is there, and what to do where it is not.

Nothing is written and no directory is made.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import platform
import re
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import click

from cogcache import __version__, _core
from cogcache._installed import is_installed
from cogcache._system import SYSTEM
from cogcache.backends.base import CacheBackend
from cogcache.backends.registry import CacheBackendRegistry
from cogcache.cli.clocks import clock_of
from cogcache.cli.common import (
    CacheChoice,
    cache_options,
    is_there,
    json_option,
    looking,
    run_async,
)
from cogcache.cli.findings import FAIL, NOTE, OK, WARN, Finding
from cogcache.cli.output import clean, print_json, size, when
from cogcache.config import FilesystemCacheConfig, MemoryCacheConfig
from cogcache.exceptions import CogcacheError

__all__ = ["doctor_command"]

_COLOURS: Final = {OK: "green", NOTE: None, WARN: "yellow", FAIL: "red"}
_FEW_FILES: Final = 1024
_ANSWER_SECONDS: Final = 10.0
_AHEAD_SECONDS: Final = 60.0
_EXTRAS: Final = {
    "boto3": "s3",
    "redis": "redis",
    "PIL": "images",
    "rich": "cli",
}


@click.command(
    "doctor",
    short_help="Check the machine and every tier.",
    epilog="Example: cogcache doctor",
)
@json_option
@cache_options
def doctor_command(as_json: bool, cache: CacheChoice) -> None:
    """Check the machine and every tier, and say what to do where something is wrong.

    Exits with 1 when something does not work. Writes nothing.
    """
    findings: list[Finding] = []

    async def work() -> None:
        async for finding in _examine(cache):
            findings.append(finding)
            if not as_json:
                _print(finding)

    run_async(work)
    if as_json:
        print_json(findings=[dataclasses.asdict(one) for one in findings])
    if any(one.state == FAIL for one in findings):
        raise click.exceptions.Exit(1)


def _print(one: Finding) -> None:
    state = click.style(f"{one.state:5}", fg=_COLOURS[one.state])
    click.echo(f"{state} {clean(one.about)}: {clean(one.found)}")
    if one.remedy:
        click.echo(f"      -> {clean(one.remedy)}")


async def _examine(cache: CacheChoice) -> AsyncIterator[Finding]:
    for finding in (*_of_installation(), *_of_system()):
        yield finding
    settings = cache.settings()
    source = settings.file or "no file found"
    places = ("tiers[0].base_path", "tiers[0].bucket", "tiers[0].url")
    origin = next((row.origin for row in settings.effective if row.name in places), "default")
    yield Finding(OK, "settings", f"{source}; the first tier: {origin}")
    for number, config in enumerate(settings.cache.backends):
        about = f"tier {number}"
        if isinstance(config, MemoryCacheConfig):
            yield Finding(OK, about, "memory of each process")
        elif isinstance(config, FilesystemCacheConfig):
            async for finding in _of_directory(config, about):
                yield finding
        else:
            async for finding in _of_tier(config, about):
                yield finding


# --- the installation and the machine -------------------------------------------------------------


def _of_installation() -> Iterator[Finding]:
    yield Finding(
        OK,
        "cogcache",
        f"{__version__}, {platform.python_implementation()} {platform.python_version()}, "
        f"{os.path.dirname(_core.__file__ or '')}",
    )
    others = sorted(_distributions() - {"cogcache_video"})
    if others:
        yield Finding(
            FAIL,
            "packages",
            f"{', '.join(others)} also installs itself as 'cogcache'",
            f"pip uninstall {' '.join(others)}, then install cogcache-video again",
        )
    for module, extra in _EXTRAS.items():
        if is_installed(module):
            yield Finding(OK, module, "installed")
        else:
            remedy = f"if it is needed: pip install 'cogcache-video[{extra}]'"
            yield Finding(NOTE, module, "not installed", remedy)


def _distributions() -> set[str]:
    """Installed distributions whose name begins as ours: one of them would lie over our files."""
    found = set()
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            match = re.fullmatch(r"(cogcache[A-Za-z0-9_.]*)-[^-]*\.dist-info", name)
            if match:
                found.add(match[1].replace(".", "_"))
    return {name for name in found if name in ("cogcache", "cogcache_video")}


def _of_system() -> Iterator[Finding]:
    yield Finding(OK, "system", f"{platform.system()} {platform.release()} {platform.machine()}")
    if sys.platform == "linux":
        missing = [
            name
            for name, there in (
                ("OFD locks", hasattr(fcntl, "F_OFD_SETLK")),
                ("/proc/self/fd", os.path.isdir("/proc/self/fd")),
                ("the table of mounts", SYSTEM.mounts() is not None),
                ("O_TMPFILE", hasattr(os, "O_TMPFILE")),
            )
            if not there
        ]
        if missing:
            yield Finding(WARN, "features", f"missing: {', '.join(missing)}", "mount /proc")
        else:
            yield Finding(OK, "features", "OFD locks, O_TMPFILE, /proc and mounts are there")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < _FEW_FILES:
        yield Finding(WARN, "open files", f"at most {files}", f"ulimit -n {_FEW_FILES * 4}")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest >= 0:
        yield Finding(WARN, "file size", f"at most {size(largest)}", "ulimit -f unlimited")
    if time.time() < 1_750_000_000:
        yield Finding(FAIL, "clock", f"says {when(time.time())}", "set it: lives depend on it")


# --- a directory ----------------------------------------------------------------------------------


async def _of_directory(config: FilesystemCacheConfig, about: str) -> AsyncIterator[Finding]:
    try:
        path = os.path.abspath(config.expanded_path)
    except CogcacheError as error:
        yield Finding(FAIL, about, str(error))
        return
    about = f"{about}, {path}"
    for finding in (*_rights(config, path, about), *_room(config, path, about)):
        yield finding
    if not is_there(config):
        return
    others = sorted(
        name for name in os.listdir(path) if re.fullmatch(r"v\d+", name) and name != "v1"
    )
    if others:
        yield Finding(
            NOTE,
            about,
            f"other versions of cogcache keep theirs in {', '.join(others)}",
            "they count in the limit; delete them when no program uses that version",
        )
    async for finding in _of_tier(config, about):
        yield finding


def _rights(config: FilesystemCacheConfig, path: str, about: str) -> Iterator[Finding]:
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    wanted = os.R_OK | os.X_OK | (0 if config.read_only is True else os.W_OK)
    if not os.path.isdir(there):
        yield Finding(FAIL, about, f"{there} is no directory", "choose another one")
        return
    if not os.access(there, wanted, effective_ids=os.access in os.supports_effective_ids):
        remedy = f"chown or chmod {there}, or choose another directory"
        state = WARN if config.read_only == "auto" else FAIL
        yield Finding(state, about, f"{there} may not be written by uid {os.geteuid()}", remedy)
        return
    if not is_there(config):
        yield Finding(NOTE, about, "no cache yet; the first write makes one")
        return
    status = os.stat(os.path.join(path, "v1"))
    mode = status.st_mode & 0o7777
    group = config.shared == "group"
    yield Finding(OK, about, f"owner {status.st_uid}, mode {mode:04o}, may be used")
    if status.st_uid not in (os.geteuid(), 0) and not group:
        yield Finding(
            WARN,
            about,
            f"belongs to uid {status.st_uid}, and you are {os.geteuid()}",
            'entries of other users are trusted only with shared="group"',
        )
    if group and not mode & 0o020:
        yield Finding(FAIL, about, "is not writable by its group", f"chmod 2770 {path}/v1")


def _room(config: FilesystemCacheConfig, path: str, about: str) -> Iterator[Finding]:
    there = path
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    kind, device = _mounted(there)
    remote = SYSTEM.is_remote(os.fsencode(os.path.realpath(there)))
    yield Finding(
        NOTE if remote else OK,
        about,
        f"file system {kind} of {device}",
        "shared by hosts: the size limit is soft, values are read instead of mapped" * remote,
    )
    status = os.statvfs(there)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    keep = config.min_free_mb
    keep_bytes = min(total * 0.05, 2 << 30) if keep is None else keep * 1e6
    found = f"{size(free)} free of {size(total)}, {size(keep_bytes)} are left alone"
    if free <= keep_bytes:
        remedy = "free some space, or lower min_free_mb: nothing new is stored until then"
        yield Finding(FAIL, about, found, remedy)
    elif (config.limit_bytes or 0) > total:
        yield Finding(WARN, about, found, "max_size_mb is larger than the file system")
    else:
        yield Finding(OK, about, found)
    if status.f_files and status.f_favail < 10_000:
        remedy = "each entry is a file: make inodes, or lower max_files"
        yield Finding(WARN, about, f"only {status.f_favail:,} inodes are free", remedy)


def _mounted(path: str) -> tuple[str, str]:
    """Kind of file system and device that a path lies on, as far as the system tells."""
    table = SYSTEM.read_mounts()
    real = os.path.realpath(path)
    best, answer = -1, ("unknown", "unknown")
    for line in (table or b"").decode("utf-8", "replace").splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split(" ")[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            kind, device = after.split(" ")[:2]
            best, answer = len(point), (kind, device)
    return answer


# --- any tier -------------------------------------------------------------------------------------


async def _of_tier(config: Any, about: str) -> AsyncIterator[Finding]:
    try:
        tier = CacheBackendRegistry.create(looking(config))
    except (CogcacheError, OSError) as error:
        yield Finding(FAIL, about, str(error))
        return
    if tier.is_remote:
        about = f"{about}, {tier.name}"
    try:
        async for finding in _asked(tier, about):
            yield finding
    except Exception as error:
        text = str(error) or type(error).__name__
        yield Finding(FAIL, about, text, "the tier is skipped until it answers")
    finally:
        await tier.aclose()
    if tier.is_remote:
        fresh = CacheBackendRegistry.create(looking(config))  # that no refusal keeps from asking
        try:
            clock = await clock_of(fresh, about, _ANSWER_SECONDS)
        finally:
            await fresh.aclose()
        if clock is not None:
            yield clock


async def _asked(tier: CacheBackend, about: str) -> AsyncIterator[Finding]:
    began = time.monotonic()
    async with asyncio.timeout(_ANSWER_SECONDS):
        await tier.read(_core.raw_key("cogcache doctor"))  # a key that nobody has
    took = (time.monotonic() - began) * 1000
    yield Finding(OK, about, f"answers, in {took:.1f} ms")
    if tier.is_remote:
        return
    usage = await tier.usage()
    if usage.get("table_less"):
        remedy = "a file system with locks on one host makes the limit hard; see docs/store.md"
        yield Finding(NOTE, about, "works without tables", remedy)
    if usage.get("quarantine_files"):
        remedy = "the disk or its memory damages data: check both (SMART, memtest)"
        found = f"damaged entries in quarantine: {usage['quarantine_files']}"
        yield Finding(WARN, about, found, remedy)
    newest, count, stored = 0.0, 0, 0
    async for entry in tier.scan():
        newest = max(newest, entry.created_ms / 1000)
        count += 1
        stored += entry.length
    yield Finding(OK, about, f"{count:,} entries, {size(stored)}")
    if newest > time.time() + _AHEAD_SECONDS:
        remedy = "set the clocks of all hosts by NTP: lives and tags depend on them"
        yield Finding(WARN, about, f"an entry is from the future: {when(newest)}", remedy)
