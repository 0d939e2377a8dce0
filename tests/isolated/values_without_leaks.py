"""Encode, decode, refuse and be lied to, over and over, and count what is left. Argument:
directory."""

import contextlib
import ctypes
import gc
import io
import os
import random
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from support.valuedata import KEY, VALUES, draft

from cogcache import _core
from cogcache.codecs import stored_form
from cogcache.exceptions import ValueTypeError
from cogcache.frames import make_bundle

VARIANTS = 10  # rounds that differ in what is damaged and how
HEAP_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")


class Heap(ctypes.Structure):
    """What mallinfo2() of glibc returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*HEAP_FIELDS, "uordblks", "fordblks", "keep")]


def heap_bytes() -> int:
    """Bytes that C code has allocated and not freed; 0 where the C library does not tell."""
    counted = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if counted is None:
        return 0
    counted.restype = Heap
    heap = counted()
    return int(heap.uordblks + heap.hblkhd)


def failing(offset: int, size: int) -> bytes:
    raise ConnectionError


def values() -> dict[str, Any]:
    pixels = np.arange(4800, dtype="u1").reshape(40, 40, 3)
    image = Image.fromarray(pixels)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG")
    return {
        **{name: make() for name, make in VALUES.items()},
        "pictures": [image, image.convert("P")],
        "bundle": make_bundle({"a": [1]}, [jpeg.getvalue(), pixels, image.convert("RGBA")]),
    }


def attempt(work: Callable[..., Any], *arguments: Any) -> None:
    """Whatever becomes of it."""
    with contextlib.suppress(
        *(_core.DamagedError, _core.UnsupportedError, _core.ForeignError),
        *(ValueTypeError, ValueError, ConnectionError, KeyError),
    ):
        work(*arguments)


def damaged(data: bytes, chance: random.Random) -> bytes:
    hurt = bytearray(data)
    hurt[chance.randrange(len(hurt))] = chance.randrange(256)
    return bytes(hurt)


def read_in_every_way(entry: _core.Entry) -> None:
    for mode in ("copy", "view", "cow"):
        entry.value(mode=mode)
    assert entry.key == KEY and entry.meta == {} and len(entry.digest) == 16 and entry.value_type()
    entry.fetch([part.number for part in entry.parts()])
    entry.to_image().tobytes()
    entry.verify()


def open_behind(image: bytes) -> _core.Entry:
    return _core.Entry.from_reader(len(image), lambda at, size: image[at : at + size], KEY)


def one_round(store: _core.Store, kept: dict[str, Any], chance: random.Random) -> None:
    for name, value in kept.items():
        made = draft(value, compress=chance.random() < 0.5, compress_arrays=chance.random() < 0.5)
        image = made.compose()
        whole = image.tobytes()
        assert len(image.pieces()) > 0
        entry = _core.Entry.from_bytes(whole, KEY)
        read_in_every_way(entry)
        read_in_every_way(open_behind(whole))
        assert store.put(made) is None
        found = store.fetch(KEY)
        assert isinstance(found, _core.Entry)
        found.value()
        if name == "bundle":
            entry.value()[1].decode_here(threads=1)
            attempt(entry.value()[1].encoded, "no such")
        else:
            stored_form(value)
        attempt(draft, [made, value, object()])  # refused in the middle
        attempt(lambda data: _core.Entry.from_bytes(data, KEY).value(), damaged(whole, chance))
        attempt(_core.unpack, damaged(entry.read(len(entry.parts()) - 1), chance))
        attempt(_core.Entry.from_reader, len(whole), failing)


def measure() -> tuple[int, int, int, int]:
    gc.collect()
    blocks = sys.getallocatedblocks()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return blocks, heap_bytes(), len(os.listdir("/proc/self/fd")), kilobytes


def main() -> None:
    warnings.simplefilter("ignore")
    store = _core.Store(sys.argv[1], max_bytes=100_000_000)
    kept = values()
    own = [value for value in kept.values() if value is not None and type(value) is not bool]
    counts = [sys.getrefcount(value) for value in own]
    for number in range(8 * VARIANTS):  # caches fill up: of keys, zones, numpy's blocks
        one_round(store, kept, random.Random(number % VARIANTS))
    before = measure()
    for number in range(12 * VARIANTS):
        one_round(store, kept, random.Random(number % VARIANTS))
    after = measure()
    assert counts == [sys.getrefcount(value) for value in own]
    print(*(now - then for then, now in zip(before, after, strict=True)))


main()
