"""The container in plain Python, written from docs/format.md alone: a decoder and an encoder.

Slow and literal on purpose: it shares nothing with the C core but the page. XXH3 and zstd come from
the packages ``xxhash`` and ``zstandard``.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import xxhash
import zstandard

HEAD_MAGIC = bytes.fromhex("894347430d0a1a0a")
END_MAGIC = bytes.fromhex("4347431a")
FOOTER_SEED = 0x9C6E6877736C46E3
INDEX_SEED = 0x1D8E4E27C47D124F
CHUNK_SEED = 0x9E3779B97F4A7C15
SLOT_SEED = 0xEB44ACCAB455D165
U64 = 2**64 - 1
NEVER = 2**48 - 1
MIB = 2**20

ARRAY, BLOB, FRAME, ENTRY, DOC = 0x10, 0x18, 0x20, 0x30, 0xF0
STORED, ZSTD = 0, 1
PLAIN, SHUFFLE, BITSHUFFLE = 0, 1, 2


class DamagedContainer(Exception):
    """The bytes break a rule."""


class ForeignContainer(Exception):
    """Another key, or a version that this decoder does not know."""


class UnsupportedPart(Exception):
    """A codec, filter or dictionary that this decoder does not know."""


@dataclass(frozen=True)
class Format:
    """One row of the format table."""

    codec: int = STORED
    filter: int = PLAIN
    element_size: int = 0
    align: int = 0
    chunk_size: int = 5 * MIB
    dictionary: int = 0

    @property
    def implied(self) -> bool:
        """Whether stored lengths are raw lengths and therefore not listed."""
        return self.codec == STORED and self.filter <= BITSHUFFLE

    @property
    def supported(self) -> bool:
        return self.codec <= ZSTD and self.filter <= BITSHUFFLE and self.dictionary == 0

    def pack(self) -> bytes:
        return struct.pack(
            "<BBBBII",
            self.codec,
            self.filter,
            self.element_size,
            self.align,
            self.chunk_size,
            self.dictionary,
        )


@dataclass(frozen=True)
class Slot:
    """One valid freshness slot; times in milliseconds."""

    seq: int = 1
    refreshed: int = 0
    ttl: int = NEVER
    stale: int = 0
    flags: int = 0

    def pack(self, token: int) -> bytes:
        body = struct.pack(
            "<QQQ", self.seq << 48 | self.refreshed, self.flags << 48 | self.ttl, self.stale
        )
        return body + struct.pack("<Q", xxh64(body, token ^ SLOT_SEED))

    @staticmethod
    def unpack(data: bytes, token: int) -> "Slot | None":
        first, second, third, check = struct.unpack("<QQQQ", data)
        if check != xxh64(data[:24], token ^ SLOT_SEED):
            return None
        return Slot(first >> 48, first & NEVER, second & NEVER, third & NEVER, second >> 48)


@dataclass
class Part:
    """One part as the index describes it; ``chunks`` are (first byte, stored length, number)."""

    number: int
    kind: int
    name: bytes
    format: Format
    raw_size: int
    chunks: list[tuple[int, int, int]]


@dataclass
class Container:
    """A decoded container."""

    image: bytes
    token: int
    minor: int
    index_codec: int
    key: bytes
    meta: bytes
    slots: tuple[Slot | None, Slot | None]
    parts: list[Part]
    extensions: list[tuple[int, bytes]]
    sums: list[int]

    @property
    def fresh(self) -> Slot | None:
        """The current slot."""
        a, b = self.slots
        if a is None or b is None:
            return a or b
        return b if 1 <= (b.seq - a.seq) % 2**16 <= 2**15 - 1 else a

    @property
    def metadata(self) -> dict[Any, Any]:
        return unpack_metadata(self.meta)

    def part(self, kind: int, name: bytes) -> Part:
        (found,) = [part for part in self.parts if (part.kind, part.name) == (kind, name)]
        return found

    def read(self, part: Part) -> bytes:
        """Every chunk checked, expanded, unfiltered."""
        if not part.format.supported:
            raise UnsupportedPart(f"codec {part.format.codec}, filter {part.format.filter}")
        out, left = [], part.raw_size
        for offset, size, number in part.chunks:
            stored = self.image[offset : offset + size]
            if xxh64(stored, chunk_seed(self.token, number)) != self.sums[number]:
                raise DamagedContainer(f"checksum of chunk {number}")
            raw = min(left, part.format.chunk_size)
            left -= raw
            data = expand(stored, raw) if part.format.codec == ZSTD else stored
            out.append(undo_filter(part.format, data))
        return b"".join(out)


def xxh64(data: bytes, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


def chunk_seed(token: int, number: int) -> int:
    return (token + (number + 1) * CHUNK_SEED) & U64


# --- codecs and filters --------------------------------------------------------------------------


def expand(frame: bytes, raw: int) -> bytes:
    """One frame of exactly ``raw`` bytes, of the plain sort that the format allows."""
    if frame[:4] != bytes.fromhex("28b52ffd") or frame[4] & 0x0F:
        raise DamagedContainer("not a plain zstd frame")
    if zstandard.frame_content_size(frame) != raw:
        raise DamagedContainer("content size")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    try:
        data = decoder.decompress(frame)
    except zstandard.ZstdError as error:
        raise DamagedContainer(str(error)) from error
    if not decoder.eof or decoder.unused_data or len(data) != raw:
        raise DamagedContainer("not exactly one frame")
    return data


def apply_filter(form: Format, data: bytes) -> bytes:
    if form.filter == PLAIN:
        return data
    e, n = form.element_size, len(data) // form.element_size
    out = bytearray()
    for j in range(e):
        plane = data[j : n * e : e]
        if form.filter == BITSHUFFLE:
            for bit in range(8):
                for byte in range(n // 8):
                    eight = plane[8 * byte : 8 * byte + 8]
                    out.append(sum((value >> bit & 1) << i for i, value in enumerate(eight)))
            plane = plane[n // 8 * 8 :]
        out += plane
    return bytes(out + data[n * e :])


def undo_filter(form: Format, data: bytes) -> bytes:
    if form.filter == PLAIN:
        return data
    e, n = form.element_size, len(data) // form.element_size
    out = bytearray(data)
    for j in range(e):
        plane = data[j * n : (j + 1) * n]
        if form.filter == BITSHUFFLE:
            width, joined = n // 8, bytearray(n // 8 * 8)
            for bit in range(8):
                for i in range(8 * width):
                    joined[i] |= (plane[bit * width + i // 8] >> i % 8 & 1) << bit
            plane = bytes(joined) + plane[8 * width :]
        out[j : n * e : e] = plane
    return bytes(out)


# --- decoding ------------------------------------------------------------------------------------


def decode(image: bytes, key: bytes | None = None) -> Container:
    """Check and parse a whole container, in the order of the page."""
    need(len(image) >= 48 and image[-12:-8] == END_MAGIC, "end magic")
    footer = image[-48:]
    token, length, stored, raw, index_sum = struct.unpack("<QQIIQ", footer[:32])
    major, minor, index_codec, features = footer[32:36]
    need(struct.unpack("<Q", footer[40:])[0] == xxh64(footer[:40], FOOTER_SEED), "footer checksum")
    if major != 1 or features or index_codec > ZSTD:
        raise ForeignContainer(f"major {major}, features {features}, index codec {index_codec}")
    need(length == len(image), "length")
    need(stored <= 64 * MIB and raw <= 64 * MIB and stored + 144 <= length, "index length")
    start = length - 112 - stored
    index = image[start : start + stored]
    need(xxh64(index, token ^ INDEX_SEED) == index_sum, "index checksum")
    if index_codec == ZSTD:
        index = expand(index, raw)
    need(len(index) == raw, "index length")
    container = Container(image, token, minor, index_codec, b"", b"", (None, None), [], [], [])
    container.slots = (
        Slot.unpack(image[-112:-80], token),
        Slot.unpack(image[-80:-48], token),
    )
    parse_index(container, index, start, key)
    digest = xxhash.xxh3_128_digest(container.key)
    need(image[:32] == HEAD_MAGIC + struct.pack("<Q", token) + digest, "head")
    return container


def need(held: bool, what: str) -> None:
    if not held:
        raise DamagedContainer(what)


def planes(data: bytes, width: int) -> list[int]:
    count = len(data) // width if width else 0
    return [
        sum(data[plane * count + i] << (8 * plane) for plane in range(width)) for i in range(count)
    ]


class Cursor:
    """Takes bytes from the front, never more than there are."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        need(self.at + size <= len(self.data), "columns over the end")
        self.at += size
        return self.data[self.at - size : self.at]


def parse_index(container: Container, index: bytes, data_end: int, key: bytes | None) -> None:
    at = Cursor(index)
    counts = struct.unpack("<6I4B", at.take(28))
    key_len, meta_len, n_parts, n_chunks, names_len, n_stored = counts[:6]
    n_formats, w_raw, w_stored, w_order = counts[6:]
    need(key_len <= 65536 and meta_len <= MIB and n_parts <= 2**20, "limits")
    need(n_chunks <= 2**22 and n_stored <= n_chunks and n_formats <= 64, "limits")
    need(w_raw <= 8 and w_stored <= 4 and w_order <= 4, "limits")
    need(n_parts > 0 or w_raw == w_order == 0, "width of nothing")
    need(n_stored > 0 or w_stored == 0, "width of nothing")
    container.key, container.meta = at.take(key_len), at.take(meta_len)
    formats = [Format(*struct.unpack("<BBBBII", at.take(12))) for _ in range(n_formats)]
    of_format, kinds, shared, suffix = (at.take(n_parts) for _ in range(4))
    names = Cursor(at.take(names_len))
    raw = planes(at.take(w_raw * n_parts), w_raw) or [0] * n_parts
    listed = planes(at.take(w_stored * n_stored), w_stored) or [0] * n_stored
    order = planes(at.take(w_order * n_parts), w_order) or list(range(n_parts))
    container.sums = list(struct.unpack(f"<{n_chunks}Q", at.take(8 * n_chunks)))
    if key is not None and key != container.key:
        raise ForeignContainer("another key")
    parse_extensions(container, at)

    for form in formats:
        need(1 <= form.chunk_size <= 64 * MIB and form.align <= 16, "format")
        need(form.filter not in (SHUFFLE, BITSHUFFLE) or form.element_size > 0, "format")
    need(sum(suffix) == names_len and sum(shared) + sum(suffix) <= 32 * MIB, "names")
    offset, chunk, name = 32, 0, b""
    lengths = iter(listed)
    for i in range(n_parts):
        need(of_format[i] < n_formats, "format number")
        form = formats[of_format[i]]
        padded = -(-offset // 2**form.align) * 2**form.align
        need(padded <= data_end and not any(container.image[offset:padded]), "padding")
        offset = padded
        need(shared[i] <= len(name) and shared[i] + suffix[i] <= 255, "name")
        name = name[: shared[i]] + names.take(suffix[i])
        need(kinds[i] != DOC or (not name and i == n_parts - 1), "document")
        part = Part(i, kinds[i], name, form, raw[i], [])
        container.parts.append(part)
        left = raw[i]
        while left:
            now = min(left, form.chunk_size)
            left -= now
            size = now if form.implied else next(lengths, -1)
            need(size >= 0 and chunk < n_chunks and offset + size <= data_end, "tiling")
            part.chunks.append((offset, size, chunk))
            offset, chunk = offset + size, chunk + 1
    need(offset == data_end and chunk == n_chunks and next(lengths, None) is None, "tiling")
    need(all(number < n_parts for number in order), "order")
    ranks = [(p.kind, len(p.name), p.name) for p in (container.parts[n] for n in order)]
    need(all(a < b for a, b in pairwise(ranks)), "order")


def parse_extensions(container: Container, at: Cursor) -> None:
    while at.at < len(at.data):
        ident, size = struct.unpack("<HI", at.take(6))
        body = at.take(size)
        if ident & 0x8000:
            raise ForeignContainer(f"critical extension {ident:#x}")
        container.extensions.append((ident, body))


# --- encoding ------------------------------------------------------------------------------------


@dataclass
class Draft:
    """What to put into one part: raw bytes, or with ``stored`` ready-made chunks of any codec."""

    kind: int
    name: bytes
    data: bytes
    format: Format = field(default_factory=Format)
    stored: Sequence[bytes] | None = None

    def pieces(self) -> list[bytes]:
        if self.stored is not None:
            return list(self.stored)
        size = self.format.chunk_size
        cut = [self.data[i : i + size] for i in range(0, len(self.data), size)]
        cut = [apply_filter(self.format, chunk) for chunk in cut]
        if self.format.codec == ZSTD:
            return [compress(chunk) for chunk in cut]
        return cut


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(
        level=1, write_content_size=True, write_checksum=False, write_dict_id=False
    ).compress(data)


def to_planes(values: Sequence[int], least: int) -> tuple[int, bytes]:
    width = max(least if values else 0, (max(values, default=0).bit_length() + 7) // 8)
    return width, bytes(value >> (8 * j) & 255 for j in range(width) for value in values)


def encode(
    key: bytes,
    parts: Sequence[Draft],
    *,
    meta: bytes = b"",
    token: int = 0x1122334455667788,
    slots: tuple[Slot | None, Slot | None] = (Slot(), None),
    index_codec: int = STORED,
    extensions: Sequence[tuple[int, bytes]] = (),
    version: tuple[int, int] = (1, 0),
    features: int = 0,
    widths: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """Write a container. Nothing is checked, so that tests can make what a writer would not.

    ``widths`` = the least widths of raw lengths, stored lengths and lookup order.
    """
    out = bytearray(HEAD_MAGIC + struct.pack("<Q", token) + xxhash.xxh3_128_digest(key))
    formats: list[Format] = []
    sums: list[int] = []
    listed: list[int] = []
    for draft in parts:
        if draft.format not in formats:
            formats.append(draft.format)
        out += bytes(-len(out) % 2**draft.format.align)
        for piece in draft.pieces():
            sums.append(xxh64(piece, chunk_seed(token, len(sums))))
            if not draft.format.implied:
                listed.append(len(piece))
            out += piece
    index = encode_index(key, parts, meta, formats, sums, listed, extensions, widths)
    stored = index
    if index_codec == ZSTD:
        stored = zstandard.ZstdCompressor(level=3).compress(index)
    out += stored
    out += b"".join(bytes(32) if slot is None else slot.pack(token) for slot in slots)
    footer = struct.pack(
        "<QQIIQBBBB4s",
        token,
        len(out) + 48,
        len(stored),
        len(index),
        xxh64(stored, token ^ INDEX_SEED),
        *version,
        index_codec,
        features,
        END_MAGIC,
    )
    return bytes(out) + footer + struct.pack("<Q", xxh64(footer, FOOTER_SEED))


def encode_index(
    key: bytes,
    parts: Sequence[Draft],
    meta: bytes,
    formats: Sequence[Format],
    sums: Sequence[int],
    listed: Sequence[int],
    extensions: Sequence[tuple[int, bytes]],
    widths: tuple[int, int, int],
) -> bytes:
    shared, names, before = [], [], b""
    for draft in parts:
        same = 0
        while same < min(len(before), len(draft.name)) and before[same] == draft.name[same]:
            same += 1
        shared.append(same)
        names.append(draft.name[same:])
        before = draft.name
    ranks = [(draft.kind, len(draft.name), draft.name) for draft in parts]
    order = sorted(range(len(parts)), key=lambda number: ranks[number])
    w_order, order_planes = (0, b"")
    if order != sorted(order) or widths[2]:
        w_order, order_planes = to_planes(order, widths[2])
    w_raw, raw_planes = to_planes([len(draft.data) for draft in parts], widths[0])
    w_stored, listed_planes = to_planes(listed, widths[1])
    suffixes = b"".join(names)
    return b"".join(
        (
            struct.pack(
                "<6I4B",
                len(key),
                len(meta),
                len(parts),
                len(sums),
                len(suffixes),
                len(listed),
                len(formats),
                w_raw,
                w_stored,
                w_order,
            ),
            key,
            meta,
            *(form.pack() for form in formats),
            bytes(formats.index(draft.format) for draft in parts),
            bytes(draft.kind for draft in parts),
            bytes(shared),
            bytes(len(name) for name in names),
            suffixes,
            raw_planes,
            listed_planes,
            order_planes,
            struct.pack(f"<{len(sums)}Q", *sums),
            *(struct.pack("<HI", ident, len(body)) + body for ident, body in extensions),
        )
    )


def reseal(image: bytes) -> bytes:
    """Compute the checksums of index and footer anew, as somebody with bad intent would."""
    token, _, stored = struct.unpack("<QQI", image[-48:-28])
    index = image[-112 - stored : -112] if stored else b""
    footer = image[-48:-24] + struct.pack("<Q", xxh64(index, token ^ INDEX_SEED)) + image[-16:-8]
    return image[:-48] + footer + struct.pack("<Q", xxh64(footer, FOOTER_SEED))


def refreshed(image: bytes, slot: Slot) -> bytes:
    """The image after a refresh: the slot that is not current is overwritten, with the next seq."""
    container = decode(image)
    now = container.fresh
    slot = replace(slot, seq=(now.seq + 1) % 2**16 if now else 1)
    at = len(image) - (80 if now is not None and now == container.slots[0] else 112)
    return image[:at] + slot.pack(container.token) + image[at + 32 :]


# --- metadata ------------------------------------------------------------------------------------


def unpack_metadata(data: bytes) -> dict[Any, Any]:
    """A MessagePack map at most 16 deep."""
    at = Cursor(data)
    value = unpack_value(at, 16) if data else {}
    need(isinstance(value, dict) and at.at == len(data), "metadata")
    return dict(value)


def unpack_value(at: Cursor, depth: int) -> Any:
    lead = at.take(1)[0]
    if lead < 0x80 or lead >= 0xE0:
        return lead if lead < 0x80 else lead - 256
    if lead in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[lead]
    if lead in (0xCA, 0xCB):
        return struct.unpack(">f" if lead == 0xCA else ">d", at.take(4 if lead == 0xCA else 8))[0]
    if 0xCC <= lead <= 0xD3:
        return int.from_bytes(at.take(1 << (lead & 3)), "big", signed=lead >= 0xD0)
    if 0xD4 <= lead <= 0xD8:
        return at.take(1)[0], at.take(1 << (lead - 0xD4))
    widths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
    widths |= {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    if lead >= 0xC0:
        need(lead in widths, "byte c1")
        size = int.from_bytes(at.take(widths[lead]), "big")
    else:
        size = lead & (0x1F if lead >= 0xA0 else 0x0F)
    if 0xA0 <= lead < 0xC0 or 0xD9 <= lead <= 0xDB:
        return at.take(size).decode("utf-8", "surrogateescape")
    if 0xC4 <= lead <= 0xC6:
        return at.take(size)
    if 0xC7 <= lead <= 0xC9:
        return at.take(1)[0], at.take(size)
    need(depth > 0 and size <= len(at.data) - at.at, "depth or count")
    if 0x90 <= lead < 0xA0 or lead in (0xDC, 0xDD):
        return [unpack_value(at, depth - 1) for _ in range(size)]
    pairs = [(unpack_value(at, depth - 1), unpack_value(at, depth - 1)) for _ in range(size)]
    need(len({str(key) for key, _ in pairs}) == len(pairs), "a key twice")
    return dict(pairs)
