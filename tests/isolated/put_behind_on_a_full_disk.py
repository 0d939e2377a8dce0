"""Write-behind whose directory lies on a file system of 40 MB of its own that runs full.

Arguments: the directory, the options of the S3 tier as JSON. It says what it does in lines of JSON
and goes on with each line from its standard input; ``{"not run": why}`` where nothing can be
mounted.
"""

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, S3CacheConfig

PAGE = 4096
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
EARLY = 5


def mount_own(place: Path) -> str | None:
    """Mount a file system that only this process and its children see, or say why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNS) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            return f"this user may not mount: {os.strerror(ctypes.get_errno())}"
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    if (
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0
        or libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=40m") != 0
    ):
        return f"nothing can be mounted: {os.strerror(ctypes.get_errno())}"
    return None


def value_of(name: str) -> bytes:
    """Bytes that nothing makes smaller: 40 kB, or more than evicting all entries gives room for."""
    return random.Random(name).randbytes(3_000_000 if name == "full" else 40_000)


class Disk:
    """What fills the disk beside the cache."""

    def __init__(self, place: Path) -> None:
        self._fd = os.open(place / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def fill(self) -> None:
        for size in (1 << 20, PAGE):
            try:
                while True:
                    os.write(self._fd, bytes(size))
            except OSError:
                continue

    def leave(self, pages: int) -> None:
        """Full but for so many pages."""
        self.fill()
        os.truncate(self._fd, os.fstat(self._fd).st_size // PAGE * PAGE - pages * PAGE)

    def clear(self) -> None:
        os.truncate(self._fd, 0)


def manager_at(place: Path, options: dict[str, Any]) -> CacheManager:
    local = FilesystemCacheConfig(base_path=place / "cache", max_size_mb=1000, min_free_mb=0)
    return CacheManager(CacheConfig([local, S3CacheConfig(**options, write_mode="behind")]))


def tell(**what: Any) -> None:
    """Say where we are, and wait to be told to go on."""
    print(json.dumps(what), flush=True)
    sys.stdin.readline()


async def told(manager: CacheManager, name: str) -> dict[str, Any]:
    stored = await manager.store(name, value_of(name))
    return {
        "name": name,
        "stored": stored.stored,
        "tiers": stored.tiers,
        "later": stored.later,
        "reason": stored.reason,
    }


async def put_until_killed(place: Path, options: dict[str, Any]) -> None:
    """Puts while the store is down and the disk runs full."""
    disk = Disk(place)
    manager = manager_at(place, options)
    puts = [await told(manager, f"early-{n}") for n in range(EARLY)]
    for pages in range(40):
        disk.leave(pages)
        puts.append(await told(manager, f"left-{pages}"))
    disk.fill()
    print(json.dumps({"puts": puts}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


async def go_on(place: Path, options: dict[str, Any]) -> None:
    """The next process, on a disk that is still full."""
    disk = Disk(place)
    disk.fill()
    manager = manager_at(place, options)
    left = await manager.flush(300)
    tell(left=left)
    disk.fill()
    tell(full=await told(manager, "full"), again=await manager.get("full") == value_of("full"))
    disk.clear()
    room = await told(manager, "room")
    tell(room=room, left=await manager.flush(300))
    await manager.aclose()


def main() -> None:
    place, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    problem = mount_own(place)
    if problem is not None:
        print(json.dumps({"not run": problem}), flush=True)
        return
    child = os.fork()
    if child == 0:
        asyncio.run(put_until_killed(place, options))
    _, status = os.waitpid(child, 0)
    tell(killed=os.waitstatus_to_exitcode(status) == -signal.SIGKILL)
    asyncio.run(go_on(place, options))


if __name__ == "__main__":
    main()
