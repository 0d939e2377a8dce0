"""Types of the C extension. Only this package imports it; users import ``cogcache``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Self, final

from _typeshed import structseq
from typing_extensions import Buffer

# --- keys (py_hash.c, py_key.c) -------------------------------------------------------------------

KEY_VERSION: Final[int]

def encode_key(
    profile: str,
    source: bytes,
    artifact: str,
    params: Mapping[str, Any],
    folded: dict[tuple[str | int, ...], bytes] | None = None,
    /,
) -> bytes:
    """The canonical encoding; ``folded`` receives the full encodings of values over 64 bytes by
    their path.
    """

def raw_key(text: str, /) -> bytes: ...
def encode_key_value(value: Any, /) -> bytes: ...
def hash128(data: Buffer, /) -> bytes: ...
def hash64(data: Buffer, seed: int = 0) -> int: ...

class KeyBase:
    """The fields of a ``cogcache.keys.Key``; see there."""

    @property
    def profile(self) -> str: ...
    @property
    def source(self) -> bytes: ...
    @property
    def artifact(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def encoded(self) -> bytes: ...
    @property
    def origin(self) -> Any: ...
    @property
    def _folded(self) -> dict[tuple[str | int, ...], bytes]: ...
    def __new__(
        cls,
        profile: str | None,
        source: Any,
        artifact: str,
        params: Mapping[str, Any] | None = None,
    ) -> Self: ...
    @classmethod
    def _of(
        cls,
        profile: str,
        source: bytes,
        artifact: str,
        text: str | None,
        encoded: bytes,
        origin: Any,
        folded: dict[tuple[str | int, ...], bytes],
        /,
    ) -> Self:
        """A key of fields that are known to fit each other."""
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Hasher128:
    def __new__(cls) -> Hasher128: ...
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...

# --- plain msgpack documents (py_value.c): metadata and the like, no parts ------------------------

def pack(value: Any, /) -> bytes: ...
def unpack(data: Buffer, /) -> Any: ...

# --- values and containers (py_value.c, py_entry.c) -----------------------------------------------

class DamagedError(Exception):
    """The bytes fail a checksum or a rule of the format."""

class ForeignError(Exception):
    """Another key or another major version: a plain miss."""

class UnsupportedError(Exception):
    """The value or part needs something that this build or process does not know; args[0] is the
    reason word.
    """

class PartInfo(NamedTuple):
    number: int
    kind: str  # "array", "blob", "frame", "entry", "doc" or "0x85"
    name: str
    raw_size: int
    stored_size: int
    codec: int
    filter: int
    chunk_size: int
    chunk_count: int

@final
class Memory:
    """Bytes behind an array or a view; only a buffer."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Draft:
    """A value on its way into an entry: walked and borrowed, not yet hashed, compressed or laid
    out.

    The walk happens here, under the GIL, and raises ``ValueTypeError`` with the path of what cannot
    be stored. Composing (checksums, compression) happens in ``compose`` or inside a put, without
    the GIL. Buffers over 4 KiB are borrowed until then: they must not change before the put has
    ended.

    ``compress`` is for documents and bytes, each from ``compress_from`` bytes up;
    ``compress_arrays`` packs arrays too (bit-shuffle and zstd), which then are no longer mapped.
    ``level`` is that of zstd, 1 to 19.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def raw_bytes(self) -> int: ...  # bytes of all parts before compression
    @property
    def stored_bytes(self) -> int: ...  # 0 until it was composed, then the container's length
    def __new__(
        cls,
        value: Any,
        key: Buffer,
        *,
        meta: Mapping[int | str, Any],
        refreshed_ms: int,
        ttl_ms: int | None,  # None = never expires
        stale_ms: int | None = 0,
        compress: bool = True,
        compress_arrays: bool = False,
        level: int = 3,
        token: int = 0,
        compress_from: int = 0,
    ) -> Draft: ...
    def compose(self) -> Image: ...
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` (compose) in the thread pool."""

@final
class Image:
    """A finished container in memory, in pieces; immutable."""

    @property
    def key(self) -> bytes: ...
    @property
    def token(self) -> int: ...
    @property
    def raw_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def tobytes(self) -> bytes: ...
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` (tobytes) in the thread pool."""
    def pieces(self) -> list[memoryview]: ...

@final
class EntryWriter:
    """A value that arrives as a stream of bytes, to the bytes of its container, strictly forward.

    The entry is the one that the same value as ``bytes`` makes, so that ``Entry.value()`` is
    ``bytes``. Held between two calls: less than one chunk, and 8 to 12 bytes for each chunk before.
    Every byte that ``feed`` and ``finish`` return belongs to the container, in this order; a call
    that failed or was cancelled has lost some: then every later one is a ``ValueError``.

    ``length`` announces how many bytes will come: fewer or more are a ``ValueError``, and
    ``chunk_size`` (4 KiB to 64 MiB, 5 MiB by default) grows so that ``max_chunks`` are enough.
    Without it, bytes beyond ``max_chunks`` chunks are a ``ValueError``. One thread at a time:
    another call meanwhile is a ``RuntimeError``. A forked child cannot use its parent's.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def token(self) -> int: ...
    @property
    def raw_bytes(self) -> int: ...  # fed so far
    @property
    def length(self) -> int: ...  # of the container, handed out so far
    @property
    def chunk_size(self) -> int: ...  # as chosen
    @property
    def digest(self) -> bytes: ...  # XXH3-128 of what was fed so far: metadata 8
    @property
    def finished(self) -> bool: ...
    def __new__(
        cls,
        key: Buffer,
        *,
        meta: Mapping[int | str, Any],
        refreshed_ms: int,
        ttl_ms: int | None,  # None = never expires
        stale_ms: int | None = 0,
        compress: bool = True,
        level: int = 3,
        token: int = 0,
        length: int | None = None,
        chunk_size: int = 5242880,
        max_chunks: int = 4194303,
    ) -> EntryWriter: ...
    def feed(self, data: Buffer, /) -> bytes:
        """Take bytes of the value; the bytes of the container that follow from them, often none.

        Runs without the GIL where it takes long. ``data`` must not change meanwhile.
        """
    def finish(self, meta: Mapping[int | str, Any] | None = None) -> bytes:
        """The value is complete: the last bytes of the container. ``meta`` replaces the metadata
        given before.
        """
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` (feed, finish) in the thread pool."""

@final
class Entry:
    """One generation of one entry, opened for reading: from memory, from the store, or through a
    read function.

    Everything returned has passed its checksum. ``DamagedError`` may come from any read of a part.

    ``value(mode="cow")`` of a mapped entry gives its private map away, so that arrays are writable
    without a copy: from then on ``value``, ``verify``, ``tobytes``, ``to_image`` and reads of its
    arrays are a ``ValueError``; get the entry again. An entry of which an ``Image`` or a view was
    taken first, or that is not mapped, gives copies instead.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def token(self) -> int: ...
    @property
    def length(self) -> int: ...  # bytes of the container
    @property
    def disk_bytes(self) -> int: ...  # blocks on disk; = length in memory
    @property
    def meta(self) -> dict[int | str, Any]: ...  # decoded on first use, the same dict each time
    @property
    def created_ms(self) -> int: ...
    @property
    def cost_ms(self) -> int: ...
    @property
    def refreshed_ms(self) -> int: ...
    @property
    def ttl_ms(self) -> int | None: ...
    @property
    def stale_ms(self) -> int | None: ...
    @property
    def expires_ms(self) -> int | None: ...
    @property
    def miss(self) -> str | None: ...  # with ANY_AGE: why it would have been a miss
    @property
    def flaw(self) -> Literal["life", "metadata"] | None:
        """Why nobody can use it although its checksums hold: neither slot tells its life, or its
        metadata breaks a rule.
        """
    @property
    def mapped(self) -> bool: ...
    @property
    def in_memory(self) -> bool: ...  # False: parts are read through a function
    @classmethod
    def from_bytes(cls, data: Buffer, key: Buffer | None = None, /) -> Entry: ...
    @classmethod
    def from_reader(
        cls,
        size: int,
        read: Callable[[int, int], Buffer],
        key: Buffer | None = None,
        tail: bytes | None = None,  # the end of the container, where it is at hand
        /,
    ) -> Entry: ...
    def parts(self) -> list[PartInfo]: ...
    def find(self, kind: str, name: str, /) -> PartInfo | None: ...
    def read(self, number: int, /, start: int = 0, stop: int | None = None) -> bytes: ...
    def check(self, numbers: Sequence[int], /) -> None: ...
    def fetch(self, numbers: Sequence[int], /) -> list[bytes]: ...
    def value_now(
        self,
        slow: Any,
        /,
        *,
        mode: Literal["cow", "view", "copy"] = "cow",
        max_bytes: int = 0,
        frames: bool | Sequence[Any] = True,
    ) -> Any:
        """``value`` without waiting; ``slow`` where it takes over about 50 us or might block."""
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` (value, read, read_container, verify, damage) in the
        pool.
        """
    def value(
        self,
        *,
        mode: Literal["cow", "view", "copy"] = "cow",
        max_bytes: int = 1073741824,  # of the document; the parts are bounded by the entry
        frames: bool | Sequence[Any] = True,
    ) -> Any: ...
    def value_type(self) -> str: ...
    def is_expired(self, now_ms: int, /) -> bool: ...
    def verify(self) -> None: ...
    def damage(
        self, first: int = 0, stop: int | None = None
    ) -> list[tuple[int | None, int | None]]:
        """What does not hold of chunks [first, stop), counted over the whole container: (part,
        chunk of that part), 1,024 at most; with the first chunks also (None, None) for what lies
        outside of them all. Unlike ``verify`` it goes on behind damage, and nothing is set aside.
        """
    def renewed(self, refreshed_ms: int, ttl_ms: int | None, /) -> Entry:
        """The same bytes with another life, not copied; of an entry made from bytes."""
    def tobytes(self) -> bytes: ...
    def read_container(self, offset: int, size: int, /) -> bytes:
        """So many bytes of the container as they are stored, fewer at its end, without the rest of
        it in memory: what an upload in parts sends.

        Like every read, of the one generation that was opened, whatever happened to its name. Not
        verified: whoever reads the copy verifies. The freshness slots (64 of the last 112 bytes)
        are those of now.
        """
    def to_image(self) -> Image: ...
    def readdressed(self, key: Buffer, meta: Buffer, /) -> tuple[bytes, int, bytes]:
        """The same parts under another key and with other metadata, which is packed: the first 32
        bytes of that container, where its parts end (they are those of this one, from byte 32), and
        what comes behind them. Version, life and checksums stay.
        """

# --- the filesystem store (py_store.c) ------------------------------------------------------------

GET_NO_TOUCH: Final[int]  # do not record a use
GET_INDEX_ONLY: Final[int]  # open and parse, do not bring the value's bytes along
GET_ANY_AGE: Final[int]  # hand out what is expired or tag-invalidated too; see Entry.miss
GET_LEAVE: Final[int]  # leave a damaged entry where it is
GET_NO_MAP: Final[int]  # read through a descriptor, so that no page of a map counts as memory

_Durability = Literal["none", "data", "full"]
_Access = Literal["rw", "ro", "auto"]

@final
class Listed(structseq[Any], tuple[bytes, int, int, int, int]):
    """One name of a shard."""

    __match_args__: Final = ("digest", "disk_bytes", "source", "mtime_ms", "used_ms")
    @property
    def digest(self) -> bytes: ...
    @property
    def disk_bytes(self) -> int: ...
    @property
    def source(self) -> int: ...  # 0 = unknown
    @property
    def mtime_ms(self) -> int: ...
    @property
    def used_ms(self) -> int: ...  # last recorded use; 0 = unknown

@final
class Store:
    """The filesystem tier of one root.

    Every method blocks, with the GIL released, except those that keep it and never block:
    ``get_value``, ``get_values``, ``get_frame`` and ``fetch_now``. ``submit`` is the loop's way.
    After ``close`` every method raises ``ClosedError``.
    """

    root: str
    closed: bool
    in_flight: int  # operations that have begun and whose results were not yet taken
    def __new__(
        cls,
        base_path: str | bytes,
        *,
        max_bytes: int = 0,
        min_free_bytes: int | None = None,
        max_files: int = 0,
        policy: str = "lru",
        durability: _Durability = "none",
        access: _Access = "rw",
        group_shared: bool = False,
        no_map: bool = False,
        table_less: bool = False,
        touch_seconds: int | None = None,
        plain_posix: bool = False,
        keep_bounds: bool = False,
    ) -> Store: ...
    def get_value(self, key: bytes, miss: Any, slow: Any, /) -> Any:
        """The inline hit: the decoded value, ``miss``, or ``slow`` where answering might block."""
    def get_values(
        self, keys: Sequence[bytes], miss: Any, slow: Any, start: int = 0, /
    ) -> list[Any]:
        """``get_value`` of the first keys from ``start`` on, as many as about 200 us allow, at
        least one.
        """
    def get_frame(self, key: bytes, token: int, name: str, slow: Any, /) -> Any:
        """The bytes of one frame of the write with this token; ``None`` where the key has another
        live write by now, ``slow`` where only ``fetch`` can tell.
        """
    def fetch_now(self, key: bytes, flags: int = 0, /) -> Entry | str | None:
        """``fetch`` without waiting; ``None`` where answering might block."""
    def fetch(self, key: bytes, /, flags: int = 0) -> Entry | str:
        """The live entry of a key, or one word for why there is none."""
    def fetch_many(self, keys: Sequence[bytes], /, flags: int = 0) -> list[Entry | str]:
        """``fetch`` of each, in one go."""
    def fetch_digests(self, digests: Sequence[bytes], /, flags: int = 0) -> list[Entry | str]:
        """``fetch`` by digest, whatever key the entries have, for a few at once."""
    def put(self, what: Draft | Image, /, *, source: int = 0, kind: int = 0) -> str | None:
        """``None`` when stored, else the reason word ("no-space", "too-large", "busy", ...)."""
    def put_many(self, whats: Sequence[Draft | Image], /) -> list[str | None]: ...
    def incoming(
        self, key: bytes, /, *, length: int | None = None, source: int = 0, kind: int = 0
    ) -> Incoming | str:
        """Begin a put of a container that arrives in pieces, or the reason word for why not.

        ``length``: bytes of the container where they are known; they are reserved at once.
        """
    def spool_link(self, entry: Entry, label: str, /) -> str | None:
        """Keep exactly this generation as ``<root>/spool/<32 hex of the digest>-<label>``, whatever
        becomes of the entry: a hard link, or a copy. ``None`` also when it is there already, else
        the reason word ("absent": the entry is another or none by now).

        Counted in the limit for each of its two names until ``spool_remove``; nothing evicts it, so
        whoever adds bounds it. Durable on return. List and read the directory as files. A label is
        1 to 64 of a-z, 0-9, ".", "_", "-" (``ValueError``); put the token into it.
        """
    def spool_write(self, digest: bytes, label: str, data: Buffer, /) -> str | None:
        """A small file of that name beside it, atomically and durably; replaces one of its name."""
    def spool_remove(self, name: str, /) -> bool:
        """Remove a file of the spool, by its name in the directory; whether it was there."""
    def delete(self, key: bytes, /) -> bool: ...
    def delete_entries(self, entries: Sequence[Entry], /) -> int:
        """Forget exactly these generations; how many were still there."""
    def refresh(self, key: bytes, ttl_ms: int | None, /) -> bool: ...
    def invalidate_tags(self, tags: Sequence[str], /, above: int = 0) -> None:
        """Make entries captured before now, or up to the version ``above``, with one of these tags
        a miss.
        """
    def tag_version(self, tag: str, /) -> int: ...
    def list_shard(self, shard: int, /, source: int = 0) -> list[Listed]: ...
    def names(self, shard: int, enough: int, /, source: int = 0) -> tuple[int, bytes]:
        """Names of entries from ``shard`` on, at least ``enough``: where to go on (256: there are
        no more), and digests back to back. Of ``source`` at least all.
        """
    def sift(self, names: bytes, most: int, /) -> tuple[int, int, int, list[bytes]]:
        """Read entries in their order until ``most`` bytes were read: how many of ``names`` were
        looked at, how many of them are as they were written, their bytes, and the digests of those
        that must be looked at closer: not whole, not readable, or longer than ``most``.
        """
    def remove_damaged(self, digest: bytes, /) -> bool:
        """Read an entry once more and set it aside if it is not as it was written; whether it
        was.

        Raises:
            OSError: It cannot be read or removed.
        """
    def sweep(self, force: bool = False) -> int | None:
        """Entries reclaimed; ``None``: another process is at it, or nothing may be written."""
    def stats(self) -> dict[str, Any]: ...
    def now_ms(self) -> int: ...
    def set_clock_offset(self, offset_ms: int, /) -> None: ...
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` in the thread pool; its outcome goes to ``future``
        through ``channel``. Both ``None``: nobody waits.
        """
    def close(self) -> None:
        """Refuse new operations; those under way end well, sweeps soon. May be called twice."""
    def wait(self, seconds: float, /) -> bool:
        """Wait until no thread of the pool is or will be busy with this store, at most so long;
        whether that is so.
        """

@final
class Incoming:
    """A container that arrives in pieces, of any size and order and from several threads at once,
    on its way into a ``Store``; made by ``Store.incoming``.

    Every byte is counted in the limit before it is written, and nobody sees any of it before
    ``commit`` has found it whole. Every method blocks, with the GIL released, and can be submitted
    to the pool. What has neither been committed nor aborted goes with the object, with the process
    or, after a kill, with the next writer's reaping. Methods answer ``None`` or a reason word
    ("no-space", "too-large", "busy", "io-error" ...); after the end, or when the store was closed,
    they raise ``ClosedError``. In a forked child they are a ``ValueError``.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def length(self) -> int | None: ...  # as announced
    @property
    def written(self) -> list[tuple[int, int]]:
        """What has been written: ranges (start, stop), in order, apart from each other."""
    @property
    def ended(self) -> bool: ...  # committed or aborted
    def write_at(self, offset: int, data: Buffer, /) -> str | None:
        """Bytes at their place. A range may be written again, and the last one counts; one that
        failed is not written. ``ValueError``: beyond the length.
        """
    def append(self, data: Buffer, /) -> str | None:
        """Bytes behind the highest that was written so far."""
    def commit(self, verified: bool = False) -> str | None:
        """Publish, if all bytes are there and are a whole container of the key.

        The end of the container is read back and parsed, and every chunk verified unless the caller
        has done so (``verified``): "damaged" or "foreign" otherwise. ``ValueError``: bytes are
        missing or still being written; then nothing has happened. Any other answer ends it.
        """
    def abort(self) -> None:
        """Give everything back; nothing if it has ended already. Writes under way end well."""
    def submit(
        self,
        channel: Channel | None,
        future: Any,
        operation: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Run the method named ``operation`` (write_at, append, commit, abort) in the pool."""

# --- the thread pool (py_channel.c) ---------------------------------------------------------------

@final
class Channel:
    """Where finished jobs arrive for one event loop: a descriptor to watch and a function that
    delivers what is there.
    """

    pending: int  # submitted and not yet delivered
    closed: bool  # nothing arrives any more: closed, or made before a fork
    def __new__(cls) -> Channel: ...
    def fileno(self) -> int: ...
    def drain(self) -> int:
        """Hand finished jobs to their futures, for about 2 ms at most; how many."""
    def cancel(self, future: Any, /) -> bool:
        """Nobody waits for this future any more: a job that has not begun never will, a put that
        runs publishes nothing unless it already has. Whether it was pending.
        """
    def close(self) -> None: ...

def drain_pool(seconds: float, /) -> bool:
    """Wait until no read or write is under way, at most so long; whether that is so."""

def pool_stats() -> dict[str, int]:
    """``threads``, ``waiting`` and ``running`` now; ``started``, ``jobs`` and ``wakeups`` ever."""
