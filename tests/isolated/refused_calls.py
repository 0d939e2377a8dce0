"""Use a cache in a process whose kernel refuses the calls that only Linux has.

Arguments: directory, name of the errno that they are refused with.
"""

import asyncio
import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys
from typing import Any

# Numbers of calls by machine; those from 424 on are the same everywhere.
CALLS = {
    "x86_64": {"fcntl": 72, "eventfd2": 290, "renameat2": 316, "getrandom": 318,
               "memfd_create": 319, "copy_file_range": 326, "preadv2": 327, "pwritev2": 328},
    "aarch64": {"fcntl": 25, "eventfd2": 19, "renameat2": 276, "getrandom": 278,
                "memfd_create": 279, "copy_file_range": 285, "preadv2": 286, "pwritev2": 287},
}  # fmt: skip
EVERYWHERE = {"pidfd_open": 434, "close_range": 436, "openat2": 437, "faccessat2": 439}
OFD_COMMANDS = (36, 37, 38)  # F_OFD_GETLK and so on
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_calls(number: int) -> None:
    """From now on, in every thread and child: a seccomp filter as containers have it."""
    calls = {**CALLS[platform.machine()], **EVERYWHERE}
    plain = [calls[name] for name in calls if name != "fcntl"]
    steps = [(LOAD, 0, 0, 0)]  # the number of the call
    for at, call in enumerate(plain):
        steps.append((IF_EQUAL, len(plain) - at + 2 + len(OFD_COMMANDS), 0, call))
    steps.append((IF_EQUAL, 0, 1 + len(OFD_COMMANDS), calls["fcntl"]))
    steps.append((LOAD, 0, 0, 24))  # the lower half of its second argument
    for at, command in enumerate(OFD_COMMANDS):
        steps.append((IF_EQUAL, len(OFD_COMMANDS) - at, 0, command))
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE | number)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(steps), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    nil, one, two = map(ctypes.c_ulong, (0, 1, 2))
    if libc.prctl(38, one, nil, nil, nil) or libc.prctl(22, two, ctypes.byref(program), nil, nil):
        raise OSError(ctypes.get_errno(), "no seccomp filters here")


def is_refused(number: int) -> bool:
    """Whether the filter does what it should, and to nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    answers = []
    for call in (EVERYWHERE["openat2"], CALLS[platform.machine()]["renameat2"]):
        answers.append((libc.syscall(call, -1, 0, -1, 0, 0), ctypes.get_errno()))
    with open(__file__, "rb") as file:
        try:
            fcntl.fcntl(file, OFD_COMMANDS[0], struct.pack("hhqqi", 0, 0, 0, 0, 0) + bytes(8))
            answers.append((0, 0))
        except OSError as error:
            answers.append((-1, error.errno or 0))
        fcntl.fcntl(file, fcntl.F_GETFD)
    return answers == [(-1, number)] * 3


async def use(place: str) -> None:
    import numpy as np

    from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, PipelineArtifactCache

    config = FilesystemCacheConfig(place, max_size_mb=100, touch_seconds=0)
    manager = CacheManager(CacheConfig([config]))
    cache = PipelineArtifactCache(manager)
    array = np.arange(3_000_000, dtype=np.float32)
    values: dict[str, Any] = {f"key:{n}": os.urandom(50_000) for n in range(60)}
    results = await asyncio.gather(*(manager.set(key, value) for key, value in values.items()))
    assert all(results)
    assert await manager.set("array", array)
    for _ in range(3):
        assert await manager.get_many(values) == values
        got = await manager.get("array")
        got += 1
        assert np.array_equal(await manager.get("array"), array)
    assert await manager.set("array", array[:1000]) and len(await manager.get("array")) == 1000
    frames = [b"\xff\xd8\xff" + os.urandom(20_000) for _ in range(100)]
    metadata = {"keyframes": [{"frame_id": n} for n in range(100)]}
    assert await cache.set_keyframes(__file__, metadata, frames)
    _, loaded = await cache.get_keyframes(__file__, load_images=True)
    assert [loaded.encoded(n) for n in range(100)] == frames
    assert await cache.get_or_compute_transcript(__file__, lambda: {"segments": []}) is not None
    assert await manager.touch("array")
    assert len(await manager.list_keys("key:*")) == 60
    large = os.urandom(12_000_000)
    for number in range(10):  # more than there is room for
        assert await manager.set(f"large:{number}", large)
    stats = (await manager.get_stats())["backends"]["FilesystemCacheBackend"]
    assert stats["evictions"] > 0 and stats["used_bytes"] <= 100_000_000, stats
    assert stats["errors"] == stats["damaged"] == 0, stats
    assert await cache.invalidate_video(__file__) in (0, 1, 2)
    assert await cache.get_transcript(__file__) is None
    assert await manager.clear() > 0
    await manager.set("left", "for the next process")
    await manager.aclose()


def in_a_child(place: str) -> None:
    child = os.fork()
    if child == 0:
        from cogcache import PipelineArtifactCache

        cache = PipelineArtifactCache.open(place)
        found = cache.cache.sync.get("left")
        stored = cache.cache.sync.set("right", 1)
        os._exit(0 if found == "for the next process" and stored else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    refused_with = getattr(errno, sys.argv[2])
    try:
        refuse_calls(refused_with)
    except OSError as failed:
        print(failed.strerror)
        sys.exit(77)
    assert is_refused(refused_with)
    asyncio.run(use(sys.argv[1]))
    in_a_child(sys.argv[1])
    print("done")
