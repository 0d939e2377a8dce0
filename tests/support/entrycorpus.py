"""Seeds of the fuzz targets ``entry`` and ``meta``, made from the golden containers.

``python tests/support/entrycorpus.py`` writes them into ``tests/data/corpus``. Inputs that a fuzzer
found are added to the same folders by hand.
"""

import struct
import sys
from pathlib import Path

import xxhash

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import entrydata, entrydecoder

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
LARGEST = 4096


def write(target: str, data: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / xxhash.xxh3_64_hexdigest(data)).write_bytes(data)


def main() -> None:
    for name in entrydata.CASES:
        image = (entrydata.DATA / f"{name}.bin").read_bytes()
        if len(image) > LARGEST:
            continue
        stored, raw = struct.unpack("<II", image[-32:-24])
        index = image[-112 - stored : -112]
        write("entry", b"\0" + image)
        write("entry", b"\1" + image)
        if image[-14] == entrydecoder.ZSTD:
            write("entry", b"\3" + struct.pack("<I", raw) + index)
        else:
            write("entry", b"\2" + index)
        write("meta", image[-112:-48])
        if image[-16] == 1 and image[-13] == 0 and "critical" not in name and "codec-2" not in name:
            write("meta", entrydecoder.decode(image).meta)
    for sample in (
        "8301cf0000019aa4b64500039192a3616263cf0006440f5d1f300007aa7472616e736372697074",
        "de0001a3616263dd00000002c0c2",
        "9ad40501d50602c70307616263c403616263d903616263ca3f800000cb3ff0000000000000d0ffd1ffffd2ffffffffd3ffffffffffffffff",
        "9191919191919191919191919191919191c0",
    ):
        write("meta", bytes.fromhex(sample))


if __name__ == "__main__":
    main()
