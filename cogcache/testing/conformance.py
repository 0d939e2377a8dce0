"""The contract of a tier as tests: derive a class, give it a tier, and let pytest (with
pytest-asyncio) collect it.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from cogcache import _core
from cogcache.backends.base import META_CONTENT_TYPE, META_TAGS, META_USER, CacheBackend
from cogcache.exceptions import ValueTypeError
from cogcache.keys import Key, key_bytes

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, "", "text", "ünï", b"", b"\x00\xff", [], {}, (1, (2, 3)),
    {"a": [1, {"b": None}]}, {1: "int", "1": "str"}, {(0.5, 1.5): "segment"},
    b"x" * 100_000, "y" * 100_000, list(range(1000)),
)  # fmt: skip
LIFE_SECONDS = 604_800
CHUNK = 65_536  # of the streams here


class BackendConformance:
    """What every tier must do.

    ``make_tier`` is the one thing to write::

        class TestMyTier(BackendConformance):
            async def make_tier(self) -> CacheBackend:
                return MyTier(MyConfig())

    Each test makes a tier of its own and closes it.

    Attributes:
        misses_while_replaced: Set it to ``True`` where the store behind the tier may say that there
            is nothing in the moment in which another caller replaces an entry. A read then may be a
            miss while writers are at work on its key; what it finds must be a whole value all the
            same, and be found when they are through.
    """

    misses_while_replaced: bool = False

    async def make_tier(self) -> CacheBackend:
        """A new, empty tier."""
        raise NotImplementedError

    async def test_a_missing_key_is_a_miss(self) -> None:
        tier = await self.make_tier()
        missing = object()
        assert await tier.get("absent", missing) is missing
        assert not await tier.exists("absent")
        assert not await tier.delete("absent")
        assert await tier.get_metadata("absent") is None
        await tier.aclose()

    async def test_every_value_comes_back_as_it_was(self) -> None:
        tier = await self.make_tier()
        missing = object()
        for number, value in enumerate(VALUES):
            assert await tier.set(f"value:{number}", value)
            got = await tier.get(f"value:{number}", missing)
            assert got == value and type(got) is type(value), (number, type(got))
        await tier.aclose()

    async def test_a_hit_is_a_fresh_decode(self) -> None:
        tier = await self.make_tier()
        await tier.set("list", {"frames": [1, 2, 3]})
        (await tier.get("list"))["frames"].append(4)
        assert await tier.get("list") == {"frames": [1, 2, 3]}
        await tier.aclose()

    async def test_an_overwrite_replaces_the_whole_value(self) -> None:
        tier = await self.make_tier()
        await tier.set("key", b"long" * 50_000)
        await tier.set("key", b"short")
        assert await tier.get("key") == b"short"
        assert len(await tier.list_keys()) == 1
        await tier.aclose()

    async def test_delete_forgets_one_key(self) -> None:
        tier = await self.make_tier()
        await tier.set("a", 1)
        await tier.set("b", 2)
        assert await tier.delete("a")
        assert not await tier.delete("a")
        assert await tier.get("a") is None
        assert await tier.get("b") == 2
        await tier.aclose()

    async def test_keys_that_look_alike_stay_apart(self) -> None:
        tier = await self.make_tier()
        keys = [
            "a:b",
            "a/b",
            "a_b",
            "a",
            "a:",
            "x" * 300 + "1",
            "x" * 300 + "2",
            "../a",
            "a*b",
            "ä",
            "a%b",
        ]
        for number, key in enumerate(keys):
            await tier.set(key, number)
        assert [await tier.get(key) for key in keys] == list(range(len(keys)))
        assert {key for key, _ in await tier.list_keys()} == set(keys)
        await tier.aclose()

    async def test_a_life_ends_when_it_was_said_to(self) -> None:
        tier = await self.make_tier()
        await tier.set("mortal", 1, ttl=LIFE_SECONDS)
        await tier.set("immortal", 2, ttl=0)
        tier.set_clock_offset((LIFE_SECONDS - 600) * 1000)
        assert await tier.get("mortal") == 1
        tier.set_clock_offset((LIFE_SECONDS + 1) * 1000)
        assert await tier.get("mortal") is None
        assert not await tier.exists("mortal")
        assert [key for key, _ in await tier.list_keys()] == ["immortal"]
        assert await tier.get("immortal") == 2
        await tier.aclose()

    async def test_cleanup_removes_what_has_expired(self) -> None:
        tier = await self.make_tier()
        for number in range(5):
            await tier.set(f"mortal:{number}", number, ttl=10)
        await tier.set("immortal", 1)
        tier.set_clock_offset(20_000)
        assert await tier.cleanup_expired() == 5
        assert await tier.cleanup_expired() == 0
        assert (await tier.get_stats())["total_files"] == 1
        await tier.aclose()

    async def test_an_invalidated_tag_is_a_miss(self) -> None:
        tier = await self.make_tier()
        for tag in ("one", "two"):
            stamp = max(tier.now_ms() * 1000, tier.tag_version(tag))
            meta: dict[int | str, Any] = {META_TAGS: [[tag, stamp]]}
            draft = tier.draft(key_bytes(tag), tag, ttl_ms=None, meta=meta)
            assert await tier.put(draft)
        tier.set_clock_offset(1000)
        await tier.invalidate_tags(["one"])
        assert await tier.get("one") is None
        assert await tier.get("two") == "two"
        await tier.aclose()

    async def test_clear_of_one_key_removes_one_key(self) -> None:
        tier = await self.make_tier()
        for key in ("exact", "exact:more", "exact2"):
            await tier.set(key, key)
        assert await tier.clear("exact") == 1
        assert {key for key, _ in await tier.list_keys()} == {"exact:more", "exact2"}
        assert await tier.clear("nothing-like-it") == 0
        await tier.aclose()

    async def test_clear_matches_whole_segments(self) -> None:
        tier = await self.make_tier()
        keys = ("prof:video:1", "prof:video:2", "prof_large:video:1", "prof", "other:video:1")
        for key in keys:
            await tier.set(key, key)
        assert await tier.clear("prof:video:*") == 2
        assert {key for key, _ in await tier.list_keys()} == {
            "prof_large:video:1",
            "prof",
            "other:video:1",
        }
        assert await tier.clear("*:video:1") == 2
        assert {key for key, _ in await tier.list_keys()} == {"prof"}
        await tier.aclose()

    async def test_clear_of_everything_leaves_nothing(self) -> None:
        tier = await self.make_tier()
        for number in range(20):
            await tier.set(f"key:{number}", number)
        assert await tier.clear() == 20
        assert await tier.list_keys() == []
        assert (await tier.get_stats())["total_files"] == 0
        await tier.aclose()

    async def test_one_write_is_removed_and_not_the_next(self) -> None:
        tier = await self.make_tier()
        await tier.set("key", "old")
        old = await tier.fetch(key_bytes("key"), index_only=True)
        assert not isinstance(old, str)
        await tier.set("key", "new")
        assert not await tier.discard_write(old.key, old.token)
        assert await tier.get("key") == "new"
        new = await tier.fetch(key_bytes("key"), index_only=True)
        assert not isinstance(new, str)
        assert await tier.discard_write(new.key, new.token)
        assert not await tier.discard_write(new.key, new.token)
        assert not await tier.exists("key")
        await tier.aclose()

    async def test_listing_gives_keys_and_metadata(self) -> None:
        tier = await self.make_tier()
        await tier.set("b", "value", ttl=60)
        await tier.set("a", "value")
        assert await tier.list_keys() == [("a", None), ("b", None)]
        (_, metadata) = (await tier.list_keys("b", include_metadata=True))[0]
        assert metadata is not None
        assert metadata["key"] == "b"
        assert metadata["ttl"] == 60
        assert metadata["expires_at"] > metadata["created_at"]
        assert metadata["size_bytes"] > 0
        assert await tier.get_metadata("b") == metadata
        await tier.aclose()

    async def test_a_printed_key_and_the_key_are_one(self) -> None:
        tier = await self.make_tier()
        key = Key("prof", b"\x01" * 16, "transcript", {"model": "base", "lang": "a:b*"})
        await tier.set(key, "by key")
        assert await tier.get(str(key)) == "by key"
        assert await tier.clear(str(key)) == 1
        assert await tier.get(key) is None
        await tier.aclose()

    async def test_what_cannot_be_stored_says_where(self) -> None:
        tier = await self.make_tier()
        try:
            await tier.set("key", {"frames": [object()]})
        except ValueTypeError as error:
            assert error.path == "$.frames[0]"
        else:
            raise AssertionError("an object() was stored")
        assert await tier.get("key") is None
        await tier.aclose()

    async def test_an_image_travels_from_tier_to_tier_unchanged(self) -> None:
        first, second = await self.make_tier(), await self.make_tier()
        await first.set("key", b"bytes" * 10_000, ttl=60)
        entry = await first.fetch(key_bytes("key"))
        assert isinstance(entry, _core.Entry)
        assert await second.write(entry.to_image()) is None
        assert await second.get("key") == b"bytes" * 10_000
        copied = await second.fetch(key_bytes("key"))
        assert isinstance(copied, _core.Entry)
        assert (copied.token, copied.expires_ms) == (entry.token, entry.expires_ms)
        await first.aclose()
        await second.aclose()

    async def test_a_stream_is_kept_as_the_bytes_that_it_was(self) -> None:
        tier = await self.make_tier()
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 9):
            value = Random(size).randbytes(size)  # noqa: S311
            meta: dict[int | str, Any] = {META_CONTENT_TYPE: "video/mp4", META_USER: {"width": 720}}
            await _stream(tier, f"size:{size}", value, meta=meta)
            got = await tier.get(f"size:{size}")
            assert got == value and type(got) is bytes
            described = await tier.get_metadata(f"size:{size}")
            assert described is not None
            assert (described["content_type"], described["user"]) == (
                "video/mp4",
                {"width": 720},
            )
        await tier.aclose()

    async def test_every_range_is_exact(self) -> None:
        tier = await self.make_tier()
        value = Random(1).randbytes(5 * CHUNK + 9)  # noqa: S311
        await _stream(tier, "key", value)
        entry = await tier.fetch_parts(key_bytes("key"))
        assert isinstance(entry, _core.Entry)
        [part] = [one for one in entry.parts() if one.kind == "blob"]
        assert (part.raw_size, part.chunk_size, part.chunk_count) == (len(value), CHUNK, 6)
        edges = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 4 * CHUNK + 7, len(value))
        for start in edges:
            for stop in (*edges, start + 1):
                if start <= stop <= len(value):
                    got = await tier.read_part(entry, part.number, start, stop)
                    assert got == value[start:stop], (start, stop)
        await tier.aclose()

    async def test_nothing_is_seen_of_a_stream_before_its_end(self) -> None:
        tier = await self.make_tier()
        older, newer = (Random(n).randbytes(5 * CHUNK) for n in (1, 2))  # noqa: S311
        assert await tier.set("key", older)
        for end in ("abort", "finish"):
            writer = tier.writer(key_bytes("key"), ttl_ms=None, chunk_size=CHUNK)
            receiver = await tier.receive(key_bytes("key"), writer.token)
            assert not isinstance(receiver, str), receiver
            for at in range(0, len(newer), CHUNK):
                assert await receiver.feed(writer.feed(newer[at : at + CHUNK])) is None
            assert await receiver.feed(writer.finish()) is None
            assert await tier.get("key") == older
            if end == "abort":
                await receiver.abort()
                await receiver.abort()
                assert await tier.get("key") == older
            else:
                assert await receiver.finish() is None
                await receiver.abort()  # does nothing any more
                assert await tier.get("key") == newer
        assert len(await tier.list_keys()) == 1
        await tier.aclose()

    async def test_an_entry_that_was_opened_is_never_mixed_with_a_newer_one(self) -> None:
        tier = await self.make_tier()
        older, newer = (Random(n).randbytes(5 * CHUNK) for n in (1, 2))  # noqa: S311
        await _stream(tier, "key", older)
        entry = await tier.fetch_parts(key_bytes("key"))
        assert isinstance(entry, _core.Entry)
        assert await tier.read_part(entry, 0, 0, CHUNK) == older[:CHUNK]
        await _stream(tier, "key", newer)
        try:
            got = await tier.read_part(entry, 0, 2 * CHUNK, 3 * CHUNK)
        except OSError:
            pass  # a store that keeps one generation may have lost this one, and says so
        else:
            assert got == older[2 * CHUNK : 3 * CHUNK]
        assert await tier.get("key") == newer
        await tier.aclose()

    async def test_many_callers_at_once_see_whole_values(self) -> None:
        tier = await self.make_tier()
        missing = object()

        async def work(number: int) -> None:
            for turn in range(10):
                value = values[10 * number + turn]
                assert await tier.set("shared", value)
                got = await tier.get("shared", missing)
                if got is missing and self.misses_while_replaced:
                    continue
                assert got in values, "a miss, or no value that anybody wrote"

        for size in (10_000, 150_000):  # the larger one is more than one read of many stores
            values = [Random(seed).randbytes(size) for seed in range(80)]  # noqa: S311
            await asyncio.gather(*(work(number) for number in range(8)))
            assert await tier.get("shared", missing) in values
        await tier.aclose()

    async def test_closing_twice_is_fine(self) -> None:
        tier = await self.make_tier()
        await tier.set("key", 1)
        await tier.aclose()
        await tier.aclose()


async def _stream(
    tier: CacheBackend, key: str, value: bytes, meta: dict[int | str, Any] | None = None
) -> None:
    """Store bytes as ``put_stream`` does, in pieces of odd sizes."""
    writer = tier.writer(key_bytes(key), ttl_ms=None, meta=meta, chunk_size=CHUNK)
    receiver = await tier.receive(key_bytes(key), writer.token)
    assert not isinstance(receiver, str), receiver
    for at in range(0, len(value), 99_991):
        assert await receiver.feed(writer.feed(value[at : at + 99_991])) is None
    assert await receiver.feed(writer.finish()) is None
    assert await receiver.finish() is None
