"""The golden containers: how each was made, and what must be found in it.

``python tests/support/entrydata.py`` writes those that are missing. One that was released is never
written again: an entry that a reader could read once must be read for ever.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import entrydecoder as plain
from support.entrydecoder import (
    ARRAY,
    BITSHUFFLE,
    BLOB,
    DOC,
    ENTRY,
    FRAME,
    SHUFFLE,
    ZSTD,
    Draft,
    Format,
    Slot,
)

DATA = Path(__file__).parents[1] / "data" / "entries"
KEY = b"video:9b2cf535:transcript:model=base"
META = bytes.fromhex("8101cf0000019aa4b64500")
NOW = 1763700000000
WEEK = 604_800_000
DOCUMENT = b"\xa6abcdef"

GOLDEN_KEY = bytes.fromhex(
    "6c05000000730100000064690100000000000000730d000000657461673a39623263663533357301000000786d00000000"
)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def prose(size: int) -> bytes:
    words = (b"keyframe ", b"speech ", b"scene ", b"model ", b"vector ")
    choice = random.Random(7)
    return b"".join(choice.choice(words) for _ in range(size // 5 + 1))[:size]


def entry(*parts: Draft, **how: Any) -> Callable[[], bytes]:
    """A container of these parts and the short document."""
    how = {"meta": META, "slots": (Slot(1, NOW, WEEK), None)} | how
    return lambda: plain.encode(KEY, [*parts, Draft(DOC, b"", DOCUMENT)], **how)


def blob(data: bytes, **form: Any) -> Draft:
    return Draft(BLOB, b"0", data, Format(**form))


def torn() -> bytes:
    """A refresh of which only the first half arrived."""
    image = entry()()
    whole = plain.refreshed(image, Slot(0, NOW + 1000, WEEK))
    return image[:-80] + whole[-80:-64] + image[-64:]


CASES: dict[str, Callable[[], bytes]] = {
    "specification": lambda: plain.encode(
        GOLDEN_KEY, [Draft(DOC, b"", DOCUMENT)], meta=META, slots=(Slot(1, NOW, WEEK), None)
    ),
    "no-parts": lambda: plain.encode(KEY, []),
    "no-metadata": entry(meta=b""),
    "metadata-unknown-keys": entry(
        meta=bytes.fromhex("8501cf0000019aa4b6450007aa7472616e736372697074280a63a16ba178fd")
    ),
    # Codecs and filters.
    "codec-stored": entry(blob(noise(300), chunk_size=100)),
    "codec-zstd": entry(blob(prose(1000), codec=ZSTD, chunk_size=300)),
    "filter-shuffle-stored": entry(blob(noise(101), filter=SHUFFLE, element_size=4)),
    "filter-bitshuffle-stored": entry(blob(noise(101), filter=BITSHUFFLE, element_size=4)),
    "filter-shuffle-zstd": entry(
        blob(prose(1000), codec=ZSTD, filter=SHUFFLE, element_size=2, chunk_size=333)
    ),
    **{
        f"filter-bitshuffle-zstd-{size}": entry(
            blob(prose(1000), codec=ZSTD, filter=BITSHUFFLE, element_size=size, chunk_size=401)
        )
        for size in (1, 2, 3, 4, 8, 16, 255)
    },
    # Kinds, names, order, alignment.
    "kinds": entry(
        Draft(ARRAY, b"0", noise(96), Format(align=6)),
        Draft(BLOB, b"0", b"blob"),
        Draft(FRAME, b"105", b"\xff\xd8\xff\xe0 frame"),
        Draft(
            ENTRY, noise(16), plain.encode(b"inner", [Draft(DOC, b"", b"\x01")]), Format(align=6)
        ),
        Draft(0x42, b"unknown kind", b"?"),
        Draft(0x85, b"third party", b"!"),
    ),
    "names": entry(
        *(
            Draft(FRAME, name, bytes([i]) * (i + 1))
            for i, name in enumerate(
                (b"10", b"9", b"105", b"", b"\xff\xfe", b"n" * 255, b"n" * 254 + b"m", b"\0")
            )
        )
    ),
    "alignment": entry(
        Draft(BLOB, b"a", b"x", Format()),
        Draft(BLOB, b"b", b"y", Format(align=12)),
        Draft(BLOB, b"c", b"", Format(align=12)),
        Draft(BLOB, b"d", b"z", Format(align=3)),
    ),
    "empty-part": entry(blob(b"")),
    "exact-chunks": entry(blob(noise(200), chunk_size=100)),
    # Widths of the number columns.
    "width-raw-2": entry(blob(noise(300))),
    "width-raw-3": entry(blob(prose(70000), codec=ZSTD)),
    "width-raw-4": entry(blob(bytes(2**24), codec=ZSTD, chunk_size=2**24)),
    "width-stored-2": entry(blob(prose(4000), codec=ZSTD)),
    "width-stored-3": entry(blob(noise(66000), codec=ZSTD)),
    "widths-largest": entry(
        blob(prose(100), codec=ZSTD), Draft(ARRAY, b"0", b"abc"), widths=(8, 4, 4)
    ),
    "width-order-2": entry(
        *(Draft(FRAME, b"%d" % (15 * i), b"%d" % i) for i in reversed(range(300)))
    ),
    # Index codec.
    "index-zstd": entry(
        *(Draft(FRAME, b"%d" % (15 * i), b"%d" % i) for i in range(100)), index_codec=ZSTD
    ),
    # Slots.
    "slots-b-newer": lambda: plain.refreshed(entry()(), Slot(0, NOW + 1000, WEEK)),
    "slots-a-newer": entry(slots=(Slot(3, NOW + 2000, WEEK), Slot(2, NOW + 1000, WEEK))),
    "slots-wrapped": entry(slots=(Slot(65535, NOW, WEEK), Slot(0, NOW + 1000, WEEK))),
    "slots-equal": entry(slots=(Slot(5, NOW, WEEK), Slot(5, NOW + 1000, WEEK))),
    "slots-torn": torn,
    "slots-none": entry(slots=(None, None)),
    "slots-never": entry(slots=(Slot(1, NOW, plain.NEVER, plain.NEVER, 0x8001), None)),
    # Versions.
    "minor-7": entry(version=(1, 7)),
    "major-2": entry(version=(2, 0)),
    "features": entry(features=1),
    "index-codec-2": lambda: plain.reseal(entry()()[:-14] + b"\2" + entry()()[-13:]),
    "extension": entry(extensions=[(7, b"abc"), (8, b"")]),
    "extension-critical": entry(extensions=[(7, b"abc"), (0x8001, b"")]),
    "codec-9": entry(
        Draft(BLOB, b"0", b"abc", Format(codec=9, chunk_size=2), stored=[b"", b"whatever"]),
        Draft(BLOB, b"1", b"readable"),
    ),
    "filter-7": entry(Draft(BLOB, b"0", b"abc", Format(filter=7), stored=[b"xyz!"])),
    "dictionary": entry(Draft(BLOB, b"0", b"abc", Format(dictionary=1))),
}


def describe(image: bytes) -> dict[str, Any]:
    """What a reader must find, as JSON."""
    try:
        found = plain.decode(image)
    except plain.ForeignContainer:
        return {"verdict": "foreign"}
    fresh = found.fresh
    return {
        "verdict": "ok",
        "key": found.key.hex(),
        "token": found.token,
        "meta": found.meta.hex(),
        "fresh": fresh and [fresh.seq, fresh.flags, fresh.refreshed, fresh.ttl, fresh.stale],
        "parts": [
            {
                "kind": part.kind,
                "name": part.name.hex(),
                "codec": part.format.codec,
                "filter": part.format.filter,
                "chunk_size": part.format.chunk_size,
                "chunks": len(part.chunks),
                "raw_size": part.raw_size,
                "stored_size": sum(size for _, size, _ in part.chunks),
                "digest": xxhash.xxh3_128_hexdigest(found.read(part))
                if part.format.supported
                else None,
            }
            for part in found.parts
        ],
    }


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    listing = DATA / "entries.json"
    known = json.loads(listing.read_text()) if listing.exists() else {}
    for name, make in CASES.items():
        path = DATA / f"{name}.bin"
        if not path.exists():
            path.write_bytes(make())
        known.setdefault(name, describe(path.read_bytes()))
    listing.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
