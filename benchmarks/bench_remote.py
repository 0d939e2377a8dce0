"""Remote tiers on real servers: cogcache beside boto3's ``download_file``, ``upload_fileobj`` and
``get_object``, and beside plain redis-py.

``python -m benchmarks.bench_remote``; ``--quick`` for a look, ``--only TEXT`` for some rows,
``--write`` to replace the table in ``docs/benchmarks.md``.

It starts SeaweedFS and redis-server itself. Both contenders are in this process and take turns in
short blocks, in another random order each time; **a ratio compares blocks of the same round**, and
the middle half of the ratios is given with its median. Bytes do not compress. The servers share the
machine, so the server's own time is part of every number, for both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_artifacts import ROOT, human_time, machine, replace_between
from benchmarks.floor import Floor
from cogcache import CacheManager, FilesystemCacheConfig, RedisCacheConfig, S3CacheConfig, _core
from cogcache.backends.s3.tier import S3Backend
from cogcache.frames import make_bundle
from cogcache.keys import key_bytes

sys.path.append(str(ROOT / "tests"))  # the servers are those of the tests

from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place, SeaweedServer

BEGIN, END = "<!-- remote benchmark: begin -->", "<!-- remote benchmark: end -->"
MIB, GIB = 1 << 20, 1 << 30
SMALL = 4096  # bytes of a small read
AT_ONCE = 8  # small reads under way
RANGE = 8 * MIB  # of one request of a download, and twice that of one of an upload
BARE = ", bare sockets"  # which show what the server takes by itself
BUSY = 16  # reads under way while the event loop is watched
QUICK_ROUNDS, QUICK_BYTES, QUICK_SHARE = 3, 64 * MIB, 4
DISK = 32e9  # bytes that the uploads of a full run take, until it ends
BOTH = ("ours", "peer")
Work = Callable[[int], Awaitable[None]]

# Why a goal is missed, for whom the table is not enough. Keyed by the first words of its row.
CAUSES = {
    "download of": (
        "the server takes its share of the processors, as *bare sockets* shows; of our own time "
        "two thirds are the kernel's copying out of the sockets and into the page cache, and ours "
        "also checks every chunk before the file has its name"
    ),
    "4 KiB ranges": (
        "the server itself takes most of the time: *bare sockets* are the same requests, signed "
        "beforehand and sent by threads that do nothing else, and no client is quicker than that"
    ),
    "upload of": (
        "the server takes most of the time, as *bare sockets* shows, which sends as many bytes and "
        "does nothing else; and over http the SHA-256 of the payload is part of the signature, "
        "which alone takes a processor for about a second a GiB, unless `sign_payloads=False`"
    ),
    "pause of the event loop": (
        "the threads of the readers and the server want the same processors"
    ),
    "a hit in Redis": (
        "a hit also asks for invalidated tags in the same round trip, checks the entry and makes "
        "the value; the peer takes bytes as they come"
    ),
    "with 2 % of reads": (
        "the other reads of this machine were so slow that 20 ms after the start says little"
    ),
    "a range of 1,000": "beside the plan, a call of Python for the bytes and their checksum",
    "first read of": "50 ms are the way; the rest is what server and machine had to do besides",
    "a miss in three": "one answer of S3 that it has nothing, and one PUT, are most of it",
    "after an outage": "the breaker asks again after 1, 2, 4 ... 30 s, not at once",
}


@dataclass(frozen=True)
class Row:
    """One thing that was measured; less is better.

    Attributes:
        name: What, in words.
        ours: Seconds (of time or of processor), one a block.
        peer: The same of the peer, of the same rounds; empty where there is none.
        against: Who that is.
        per: What a number is of, such as ``"a GiB"``.
        times: The goal: the peer's number is at least so many times ours.
        most: The goal: ours is at most this.
    """

    name: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    against: str = ""
    per: str = ""
    times: float | None = None
    most: float | None = None

    @property
    def ratios(self) -> tuple[float, float, float]:
        """The peer's number over ours: lower quartile, median, upper quartile."""
        ratios = [b / a for a, b in zip(self.ours, self.peer, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return low, middle, high

    @property
    def met(self) -> bool | None:
        """Whether its goal is met; ``None`` without one."""
        if self.times is not None:
            return self.ratios[1] >= self.times
        if self.most is not None:
            return statistics.median(self.ours) <= self.most
        return None

    @property
    def cause(self) -> str:
        """Why its goal may be missed."""
        return next((why for begin, why in CAUSES.items() if self.name.startswith(begin)), "")

    def cells(self) -> list[str]:
        """Its cells of the table."""
        goal = ""
        if self.times is not None:
            goal = f"{self.times:.3g}x"
        elif self.most is not None:
            goal = f"up to {human_time(self.most)}"
        peer = ratio = ""
        if self.peer:
            low, middle, high = self.ratios
            peer = f"{human_time(statistics.median(self.peer))} ({self.against})"
            ratio = f"{middle:.2g}x, {low:.2g}-{high:.2g}"
        met = {True: "met", False: "**missed**", None: ""}[self.met]
        ours = human_time(statistics.median(self.ours))
        return [f"{self.name}{', ' if self.per else ''}{self.per}", ours, peer, ratio, goal, met]


@dataclass(frozen=True)
class Block:
    """What one turn of a contender took.

    Attributes:
        seconds: Of the clock.
        processor: Of all threads of this process.
    """

    seconds: float
    processor: float


async def in_turns(rounds: int, **contenders: Work) -> dict[str, list[Block]]:
    """Each contender once a round, in another order each time, after one turn that is not timed."""
    taken: dict[str, list[Block]] = {name: [] for name in contenders}
    dice = random.Random(rounds)
    for round_ in range(-1, rounds):
        for name in dice.sample(list(contenders), len(contenders)):
            gc.collect()
            began, processor = time.perf_counter(), time.process_time()
            await contenders[name](round_)
            block = Block(time.perf_counter() - began, time.process_time() - processor)
            if round_ >= 0:
                taken[name].append(block)
    return taken


def clocks(blocks: Sequence[Block], operations: float = 1) -> tuple[float, ...]:
    return tuple(block.seconds / operations for block in blocks)


def processors(blocks: Sequence[Block], operations: float = 1) -> tuple[float, ...]:
    return tuple(block.processor / operations for block in blocks)


def s3_config(place: S3Place, **options: Any) -> S3CacheConfig:
    return S3CacheConfig(
        place.bucket,
        prefix=place.prefix,
        endpoint_url=place.endpoint_url,
        access_key=place.access_key,
        secret_key=place.secret_key,
        region=place.region,
        **options,
    )


def plain_boto3(place: S3Place, connections: int = 10, **options: Any) -> Any:
    """A client as anybody makes one; ten connections are boto3's default."""
    import boto3.session
    from botocore.config import Config

    return boto3.session.Session(place.access_key, place.secret_key).client(
        "s3",
        endpoint_url=place.endpoint_url,
        region_name=place.region,
        config=Config(max_pool_connections=connections, **options),
    )


def signed_address(place: S3Place, operation: str, key: str) -> str:
    """An address that needs no credentials, for two hours."""
    client = plain_boto3(place, signature_version="s3v4", s3={"addressing_style": "path"})
    address: str = client.generate_presigned_url(
        operation, Params={"Bucket": place.bucket, "Key": key}, ExpiresIn=7200
    )
    client.close()
    return address


@dataclass(frozen=True)
class Run:
    """Where, and how long."""

    place: S3Place
    folder: Path
    quick: bool

    def proxy(self) -> Proxy:
        """Something before the store that makes faults; it costs each request a millisecond."""
        return Proxy(
            int(self.place.endpoint_url.rpartition(":")[2]),
            "s3",
            access_key=self.place.access_key,
            secret_key=self.place.secret_key,
        )

    def rounds(self, full: int) -> int:
        return QUICK_ROUNDS if self.quick else full

    def size(self, full: int) -> int:
        return min(full, QUICK_BYTES) if self.quick else full

    def count(self, full: int) -> int:
        return full // QUICK_SHARE if self.quick else full


# --- large objects --------------------------------------------------------------------------------


async def downloads(run: Run) -> list[Row]:
    """A large value into a local file: a verified entry of the local tier, or a plain file."""
    size = run.size(256 * MIB)
    tier, boto3 = S3Backend(s3_config(run.place)), plain_boto3(run.place)
    data = b"".join(map(random.Random(1).randbytes, [MIB] * (size // MIB)))
    assert await tier.set("large", data)
    peer_key = f"{run.place.prefix}/peer-download"
    boto3.put_object(Bucket=run.place.bucket, Key=peer_key, Body=data)
    store = _core.Store(str(run.folder / "store"))

    async def ours(round_: int) -> None:
        entry = await tier.fetch(key_bytes("large"), index_only=True)
        assert isinstance(entry, _core.Entry)
        incoming = store.incoming(entry.key, length=entry.length)
        assert isinstance(incoming, _core.Incoming)
        assert await tier.copy_to(entry, incoming) is None
        assert await asyncio.to_thread(incoming.commit) is None

    async def peer(round_: int) -> None:
        path = str(run.folder / "peer-file")
        await asyncio.to_thread(boto3.download_file, run.place.bucket, peer_key, path)

    address = signed_address(run.place, "get_object", peer_key)
    ranges = [("GET", address, f"bytes={at}-{at + RANGE - 1}", 0) for at in range(0, size, RANGE)]
    with Floor(run.place.endpoint_url, 4) as floor:

        async def bare(round_: int) -> None:
            await asyncio.to_thread(floor.run, ranges)

        taken = await in_turns(run.rounds(15), ours=ours, peer=peer, bare=bare)
    found = store.fetch(key_bytes("large"))
    assert isinstance(found, _core.Entry) and found.value() == data
    assert (run.folder / "peer-file").read_bytes() == data
    store.close()
    await tier.aclose()
    boto3.close()
    share = size / GIB
    name = f"download of {size // MIB} MiB to a file"
    mine, theirs = taken["ours"], taken["peer"]
    against = "`download_file`"
    return [
        Row(name, clocks(mine, share), clocks(theirs, share), against, "a GiB", times=1.5),
        Row(
            f"{name}, processor",
            processors(mine, share),
            processors(theirs, share),
            against,
            "a GiB",
            times=1 / 0.75,
        ),
        Row(f"{name}{BARE}", clocks(taken["bare"], share), clocks(theirs, share), against, "a GiB"),
    ]


async def uploads(run: Run) -> list[Row]:
    """A large file into a bucket."""
    size = run.size(GIB)
    source = run.folder / "source"
    with open(source, "wb") as file:
        for number in range(0, size, 4 * MIB):
            file.write(random.Random(number).randbytes(min(size - number, 4 * MIB)))
    boto3 = plain_boto3(run.place)
    peer_key = f"{run.place.prefix}/peer-upload"
    managers = {
        signed: CacheManager({"backends": [s3_config(run.place, sign_payloads=signed)]})
        for signed in (None, False)
    }

    async def put(signed: bool | None) -> None:
        with open(source, "rb") as file:
            assert (await managers[signed].put_stream("large", file)).size == size

    async def peer(round_: int) -> None:
        with open(source, "rb") as file:
            await asyncio.to_thread(boto3.upload_fileobj, file, run.place.bucket, peer_key)

    keys = [f"{run.place.prefix}/bare-upload-{number}" for number in range(size // (2 * RANGE))]
    parts = [("PUT", signed_address(run.place, "put_object", key), None, 2 * RANGE) for key in keys]
    with Floor(run.place.endpoint_url, 4) as floor:

        async def bare(round_: int) -> None:
            await asyncio.to_thread(floor.run, parts)

        taken = await in_turns(
            run.rounds(5),
            peer=peer,
            ours=lambda _: put(None),
            unsigned=lambda _: put(False),
            bare=bare,
        )
    for key in keys:
        boto3.delete_object(Bucket=run.place.bucket, Key=key)
    assert boto3.head_object(Bucket=run.place.bucket, Key=peer_key)["ContentLength"] == size
    assert await managers[None].delete("large")
    boto3.delete_object(Bucket=run.place.bucket, Key=peer_key)
    for manager in managers.values():
        await manager.aclose()
    boto3.close()
    source.unlink()
    share = size / GIB
    against, theirs = "`upload_fileobj`", taken["peer"]
    rows = []
    for name, how in (("ours", ""), ("unsigned", " with `sign_payloads=False`")):
        mine = taken[name]
        what = f"upload of {human_mib(size)}{how}"
        rows += [
            Row(what, clocks(mine, share), clocks(theirs, share), against, "a GiB", times=1.5),
            Row(
                f"{what}, processor",
                processors(mine, share),
                processors(theirs, share),
                against,
                "a GiB",
                most=0.5,
            ),
        ]
    mine = clocks(taken["bare"], share)
    what = f"upload of {human_mib(size)}{BARE}"
    return [*rows, Row(what, mine, clocks(theirs, share), against, "a GiB")]


def human_mib(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


# --- small reads ----------------------------------------------------------------------------------


class SmallReads:
    """Frames of 4 KiB of one bundle, and the same ranges of a plain object."""

    def __init__(self, run: Run, at_once: int) -> None:
        self.tier = S3Backend(s3_config(run.place))
        self.boto3 = plain_boto3(run.place, max(10, at_once))
        self.threads = ThreadPoolExecutor(at_once)
        self.at_once = at_once
        self._place = run.place
        self._images = {number: random.Random(number).randbytes(SMALL) for number in range(400)}
        self.key = f"{run.place.prefix}/peer-ranges"

    async def begin(self) -> None:
        assert await self.tier.set("bundle", make_bundle({}, self._images))
        body = b"".join(self._images.values())
        self.boto3.put_object(Bucket=self._place.bucket, Key=self.key, Body=body)

    async def ours(self, count: int) -> None:
        entry = await self.tier.fetch(key_bytes("bundle"), index_only=True)
        assert isinstance(entry, _core.Entry)
        left = iter(range(count))

        async def reader() -> None:
            for number in left:
                part = entry.find("frame", str(number % 400))
                assert part is not None
                assert len(await self.tier.read_part(entry, part.number, 0, SMALL)) == SMALL

        await asyncio.gather(*(reader() for _ in range(self.at_once)))

    async def peer(self, count: int) -> None:
        left = iter(range(count))
        loop = asyncio.get_running_loop()

        async def reader() -> None:
            for number in left:
                await loop.run_in_executor(self.threads, self._get, number % 400)

        await asyncio.gather(*(reader() for _ in range(self.at_once)))

    def _get(self, number: int) -> None:
        start = number * SMALL
        answer = self.boto3.get_object(
            Bucket=self._place.bucket,
            Key=self.key,
            Range=f"bytes={start}-{start + SMALL - 1}",
        )
        assert len(answer["Body"].read()) == SMALL

    async def end(self) -> None:
        await self.tier.aclose()
        self.threads.shutdown()
        self.boto3.close()


async def small_reads(run: Run) -> list[Row]:
    """Requests of one process."""
    reads = SmallReads(run, AT_ONCE)
    await reads.begin()
    count = run.count(400)

    async def ours(round_: int) -> None:
        await reads.ours(count)

    async def peer(round_: int) -> None:
        await reads.peer(count)

    address = signed_address(run.place, "get_object", reads.key)
    spans = [number % 400 * SMALL for number in range(count)]
    ranges = [("GET", address, f"bytes={at}-{at + SMALL - 1}", 0) for at in spans]
    with Floor(run.place.endpoint_url, AT_ONCE) as floor:

        async def bare(round_: int) -> None:
            await asyncio.to_thread(floor.run, ranges)

        taken = await in_turns(run.rounds(15), ours=ours, peer=peer, bare=bare)
    await reads.end()
    name, mine, theirs = f"4 KiB ranges, {AT_ONCE} at once", taken["ours"], taken["peer"]
    against = "`get_object`"
    return [
        Row(name, clocks(mine, count), clocks(theirs, count), against, "each", times=4),
        Row(
            f"{name}, processor",
            processors(mine, count),
            processors(theirs, count),
            against,
            "each",
        ),
        Row(f"{name}{BARE}", clocks(taken["bare"], count), clocks(theirs, count), against, "each"),
    ]


async def pauses(run: Run) -> list[Row]:
    """How late the event loop is while sixteen reads are always under way."""
    reads = SmallReads(run, BUSY)
    await reads.begin()
    late: dict[str, list[float]] = {"ours": [], "peer": []}
    count = run.count(1500)

    def watched(name: str, work: Work) -> Work:
        async def block(round_: int) -> None:
            gaps: list[float] = []
            ticker = asyncio.ensure_future(tick(gaps))
            await work(count)
            ticker.cancel()
            if round_ >= 0:
                late[name].append(statistics.quantiles(gaps, n=100)[98])

        return block

    await in_turns(
        run.rounds(9), ours=watched("ours", reads.ours), peer=watched("peer", reads.peer)
    )
    await reads.end()
    name = f"pause of the event loop, 99th percentile, {BUSY} readers"
    return [Row(name, tuple(late["ours"]), tuple(late["peer"]), "`get_object`", most=0.010)]


async def tick(gaps: list[float]) -> None:
    """Note how late each sleep of a millisecond ends."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(0.001)
        gaps.append(time.perf_counter() - asked - 0.001)


async def slow_reads(run: Run) -> list[Row]:
    """Reads of 64 KiB when one in fifty takes a second longer, asked for twice or not."""
    size, count = 64 << 10, run.count(1000)
    images = {number: random.Random(number).randbytes(size) for number in range(50)}
    with run.proxy() as proxy:
        place = run.place.at(endpoint_url=proxy.endpoint_url)
        tiers = {name: S3Backend(s3_config(place, hedge_reads=name == "ours")) for name in BOTH}
        for tier in tiers.values():
            assert await tier.set("bundle", make_bundle({}, images))
        last: dict[str, list[float]] = {name: [] for name in BOTH}
        sent = 0

        async def block(name: str, round_: int) -> None:
            nonlocal sent
            tier = tiers[name]
            entry = await tier.fetch(key_bytes("bundle"), index_only=True)
            assert isinstance(entry, _core.Entry)
            parts = [entry.find("frame", str(number)) for number in range(49)]
            proxy.zero()
            if round_ >= 0:  # before, it learns what a read takes
                proxy.set("delay", kind="GetObject", seconds=1, every=50)
            seconds = []
            for turn in range(count):
                part = parts[turn % 49]
                assert part is not None
                began = time.perf_counter()
                assert len(await tier.read_part(entry, part.number, 0, size)) == size
                seconds.append(time.perf_counter() - began)
            proxy.clear()
            if round_ >= 0:
                last[name].append(statistics.quantiles(seconds, n=100)[98])
                if name == "ours":
                    sent += proxy.counts()["requests"] - count

        rounds = run.rounds(3)
        await in_turns(
            rounds, ours=lambda round_: block("ours", round_), peer=lambda n: block("peer", n)
        )
        for tier in tiers.values():
            await tier.aclose()
    more = sent / (count * rounds)
    name = f"with 2 % of reads delayed by 1 s, 99th percentile of 64 KiB, {more:.1%} more requests"
    return [Row(name, tuple(last["ours"]), tuple(last["peer"]), "without hedges", most=0.150)]


async def redis_hits(run: Run) -> list[Row]:
    """A hit with its tags checked, beside a bare GET of as many bytes; one after the other."""
    import redis.asyncio

    rows = []
    count = run.count(500)
    with RedisServer() as server:
        manager = CacheManager({"backends": [RedisCacheConfig(server.url, timeout_seconds=20)]})
        plain = redis.asyncio.Redis.from_url(server.url)
        for size in (SMALL, 64 << 10, 256 << 10):
            value = random.Random(size).randbytes(size - 512)  # its container is within the size
            key = f"size:{size}"
            assert (await manager.store(key, value, tags=["video", "model"])).stored
            await plain.set(key, value)
            middle: dict[str, list[float]] = {"ours": [], "peer": []}

            async def block(
                name: str,
                get: Callable[[str], Awaitable[Any]],
                round_: int,
                key: str = key,
                value: bytes = value,
                middle: dict[str, list[float]] = middle,
            ) -> None:
                seconds = []
                for _ in range(count):
                    began = time.perf_counter()
                    found = await get(key)
                    seconds.append(time.perf_counter() - began)
                    assert found == value
                if round_ >= 0:
                    middle[name].append(statistics.median(seconds))

            await in_turns(
                run.rounds(9),
                ours=lambda round_, block=block: block("ours", manager.get, round_),
                peer=lambda round_, block=block: block("peer", plain.get, round_),
            )
            rows.append(
                Row(
                    f"a hit in Redis of {size >> 10} KiB, median",
                    tuple(middle["ours"]),
                    tuple(middle["peer"]),
                    "redis-py's `get`",
                    most=0.0005,
                )
            )
        await plain.aclose()
        await manager.aclose()
    return rows


# --- one read after the other ---------------------------------------------------------------------


async def plans(run: Run) -> list[Row]:
    """Ranges of a value of a thousand chunks that lies where each is fetched by itself."""
    chunk, chunks = 4096, 1000
    writer = _core.EntryWriter(
        key_bytes("chunks"), meta={}, refreshed_ms=1, ttl_ms=None, chunk_size=chunk
    )
    data = random.Random(4).randbytes(chunk * chunks)
    image = writer.feed(data) + writer.finish()
    entry = _core.Entry.from_reader(len(image), lambda at, size: image[at : at + size])
    part = entry.find("blob", "0")
    assert part is not None and part.raw_size // part.chunk_size == chunks
    starts = [random.Random(5).randrange(part.raw_size) for _ in range(run.count(100_000))]

    async def ours(round_: int) -> None:
        for start in starts:
            entry.read(part.number, start, start + 1)

    taken = await in_turns(run.rounds(9), ours=ours)
    assert all(entry.read(part.number, at, at + 1) == data[at : at + 1] for at in starts[:1000])
    name = "a range of 1,000 chunks, found and checked in memory"
    return [Row(name, clocks(taken["ours"], len(starts)), per="each", most=1e-5)]


async def first_reads(run: Run) -> list[Row]:
    """The first read of a value that another host has put into a store 50 ms away, until its copy
    is in the local tier: one request for a small one, two for a larger one.
    """
    rows = []
    with run.proxy() as proxy:
        for kib, goal in ((32, 0.100), (1024, None)):
            last = await first_reads_of(run, proxy, kib << 10)
            name = f"first read of {kib} KiB from S3 50 ms away, with its copy, 99th percentile"
            rows.append(Row(name, last, most=goal))
    return rows


async def first_reads_of(run: Run, proxy: Proxy, size: int) -> tuple[float, ...]:
    count = run.count(60)
    last = []
    for round_ in range(run.rounds(3)):
        name = f"first{size}-{round_}"
        place = run.place.at(prefix=f"{run.place.prefix}/{name}")
        async with CacheManager({"backends": [s3_config(place)]}) as other:
            for number in range(count):
                assert await other.set(f"{number}", random.Random(number).randbytes(size))
        proxy.set("delay", kind="GetObject", seconds=0.05)
        files = FilesystemCacheConfig(str(run.folder / name), max_size_mb=1000)
        place = place.at(endpoint_url=proxy.endpoint_url)
        seconds = []
        async with CacheManager({"backends": [files, s3_config(place)]}) as manager:
            assert await manager.get("absent") is None  # the connection and what it learns
            for number in range(count):
                began = time.perf_counter()
                value = await manager.get(f"{number}")
                await asyncio.gather(*manager._tiers.promotions.tasks)
                seconds.append(time.perf_counter() - began)
                assert len(value) == size
            assert manager.counters["promotions"] == count
        proxy.clear()
        last.append(statistics.quantiles(seconds, n=100)[98])
    return tuple(last)


async def misses(run: Run) -> list[Row]:
    """What a miss in three tiers costs beside the computing: asking all, and storing in all."""
    count = run.count(200)
    value = random.Random(6).randbytes(SMALL)
    middle, last = [], []
    with RedisServer() as server:
        files = FilesystemCacheConfig(str(run.folder / "misses"), max_size_mb=1000)
        redis = RedisCacheConfig(server.url, priority=1, timeout_seconds=20)
        bucket = s3_config(run.place, priority=2)
        async with CacheManager({"backends": [files, redis, bucket]}) as manager:
            for round_ in range(-1, run.rounds(5)):
                seconds = []
                for number in range(count):
                    began = time.perf_counter()
                    key = f"miss:{round_}:{number}"
                    assert await manager.get_or_compute(key, lambda: value) == value
                    seconds.append(time.perf_counter() - began)
                if round_ >= 0:
                    middle.append(statistics.median(seconds))
                    last.append(statistics.quantiles(seconds, n=100)[98])
            assert manager.counters["computed"] == count * (run.rounds(5) + 1)
    name = "a miss in three tiers, beside the computing"
    return [
        Row(f"{name}, median", tuple(middle), most=0.020),
        Row(f"{name}, 99th percentile", tuple(last)),
    ]


# --- an outage ------------------------------------------------------------------------------------


async def outage(run: Run) -> list[Row]:
    """How soon S3 is used again after it was away, and what waited meanwhile is sent."""
    found, recovered, drained, before = [], [], [], []
    with run.proxy() as proxy:
        place = run.place.at(endpoint_url=proxy.endpoint_url)
        for round_ in range(run.rounds(5)):
            files = FilesystemCacheConfig(str(run.folder / f"spool{round_}"), max_size_mb=1000)
            manager = CacheManager({"backends": [files, s3_config(place, write_mode="behind")]})
            tier = manager.backends[1]
            assert isinstance(tier, S3Backend)
            count = run.count(40)
            values = [random.Random(n).randbytes(MIB) for n in range(count)]
            assert await manager.set("first", 1)
            assert await manager.flush(60) == 0
            began = time.perf_counter()
            for number, value in enumerate(values):
                assert await manager.set(f"before:{round_}:{number}", value)
            assert await manager.flush(120) == 0
            steady = time.perf_counter() - began
            proxy.set("refuse")
            for number, value in enumerate(values):
                assert await manager.set(f"during:{round_}:{number}", value)
            await tier.get("absent")
            await asyncio.sleep(1 if run.quick else 6)
            breaker = tier._client.small.breaker
            allowed = max(breaker.retry_seconds, 0.0)
            proxy.clear()
            back = time.perf_counter()
            while await tier.get("first") != 1:
                await asyncio.sleep(0.005)
            first = time.perf_counter() - back
            assert await manager.flush(120) == 0
            recovered.append(first)
            found.append(max(first - allowed, 0.0))
            drained.append(max(time.perf_counter() - back - first, 0.0))
            before.append(steady)
            await manager.aclose()
    return [
        Row("after an outage, first hit since the first probe was due", tuple(found), most=2),
        Row("after an outage, first hit since the store was back", tuple(recovered), most=32),
        Row(
            "after an outage, until what waited is sent",
            tuple(drained),
            tuple(before),
            "without an outage",
            most=5 + statistics.median(before) / 0.9,  # 5 s to come up to 90 % of the speed
        ),
    ]


# --- what is printed ------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Run], Awaitable[list[Row]]]] = {
    "download": downloads,
    "upload": uploads,
    "ranges": small_reads,
    "pauses": pauses,
    "hedges": slow_reads,
    "redis": redis_hits,
    "plans": plans,
    "first": first_reads,
    "misses": misses,
    "outage": outage,
}


def page_of(rows: Sequence[Row]) -> str:
    """The table, and what misses its goal."""
    lines = [
        "| what | cogcache | peer | how many times ours | goal | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    missed = [
        f"- {row.name}: {row.cells()[3] or row.cells()[1]}, the goal is {row.cells()[4]}: "
        f"{row.cause}."
        for row in rows
        if row.met is False
    ]
    listed = "\n".join(missed or ["- nothing"])
    return "\n".join(lines) + f"\n\nWhat misses its goal, and why:\n\n{listed}"


async def measure(run: Run, chosen: Sequence[str]) -> list[Row]:
    rows = []
    for name in chosen:
        print(f"  {name} ...", file=sys.stderr, flush=True)
        rows += await PARTS[name](run)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0, also where a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_remote", description="Remote tiers on real servers."
    )
    parser.add_argument("--quick", action="store_true", help="small and three rounds: no result")
    parser.add_argument("--only", metavar="TEXT", help=f"of {', '.join(PARTS)}: with this in it")
    parser.add_argument("--write", action="store_true", help="replace the table in the docs")
    options = parser.parse_args(arguments)
    chosen = [name for name in PARTS if not options.only or options.only in name]
    if not chosen:
        parser.error(f"--only: none of {', '.join(PARTS)} has {options.only!r} in it")
    if options.write and options.only:
        parser.error("--write takes all rows or none")
    place = Path(tempfile.gettempdir())
    if shutil.disk_usage(place).free < DISK and not options.quick:
        parser.error(f"{place} has less than 32 GB free; name another place with TMPDIR")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, SeaweedServer() as server:
        with server.place() as s3_place:
            run = Run(s3_place, Path(folder), options.quick)
            rows = asyncio.run(measure(run, chosen))
        where = machine(Path(folder))
    page = page_of(rows)
    print(f"{where}\n\n{page}")
    if options.write:
        text = f"{page}\n\nMeasured on: {where}."
        replace_between(ROOT / "docs" / "benchmarks.md", text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
