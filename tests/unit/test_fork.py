"""A fork while other threads are anywhere inside leaves no lock behind that the child waits for."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, a_video, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    PipelineArtifactCache,
    _inline,
    _offload,
)

HANG = 200
LOCK = type(threading.Lock())


def locks_of_the_package() -> Iterator[tuple[str, Any]]:
    """Every lock that a module or a living object of the package has, by where it is."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "cogcache":
            for attribute, value in vars(module).items():
                if isinstance(value, LOCK):
                    yield f"{name}.{attribute}", value
    for thing in gc.get_objects():
        if isinstance(thing, _offload._Pool) and thing not in (_offload._pool, _offload._streams):
            continue  # after a fork: the parent's, in frames of threads that are not there
        kind = type(thing)
        module = str(kind.__module__)  # a property in the classes of some packages
        if module.split(".")[0] == "cogcache" and hasattr(thing, "__dict__"):
            for attribute, value in vars(thing).items():
                if isinstance(value, LOCK):
                    yield f"{module}.{kind.__qualname__}.{attribute}", value


def use_everything(cache: PipelineArtifactCache, waiting: CacheManager, video: Path) -> None:
    """What takes each of the locks."""
    assert cache.sync.get_transcript(video) is None  # the fence, the stamps, the memo
    assert cache.sync.set_transcript(video, {"text": "child"})
    assert cache.sync.get_or_compute_transcript(video, dict) == {"text": "child"}
    assert waiting.sync.get_or_compute("key", lambda: 5) == 5  # the background loop, the flights
    cache.sync.invalidate_video(video)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: fork beside threads
def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_held(tmp_path: Path) -> None:
    video = a_video(tmp_path / "video.mp4")
    tiers = [{"backend_type": "memory"}, FilesystemCacheConfig(tmp_path / "cache", priority=1)]
    cache = PipelineArtifactCache(CacheManager(CacheConfig(tiers)), identity="content")
    waiting = manager_over(DictTier())  # served by the background loop
    use_everything(cache, waiting, video)
    gc.collect()  # what is no longer used has no say
    waits = _inline._Caller()  # as in a computation that forks
    found = dict(locks_of_the_package())
    assert {name.rpartition(".")[0] for name in found} >= {
        "cogcache.fence.MissFence",
        "cogcache.memo.DigestMemo",
        "cogcache.backends.memory.MemoryCacheBackend",
        "cogcache._inline._Caller",
    }
    with contextlib.ExitStack() as inside:
        for lock in {id(lock): lock for lock in found.values()}.values():
            inside.enter_context(lock)  # as if a thread stood there at this very moment
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                faulthandler.dump_traceback_later(HANG, exit=True)
                held = [name for name, lock in locks_of_the_package() if lock.locked()]
                print("held in the child:", held, file=sys.stderr)
                use_everything(cache, waiting, video)
                code = 2 if held else 0
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    waits.leave()
    cache.sync.aclose()
