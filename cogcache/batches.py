"""Work of many minutes, some ids at a time: each finished batch is an entry, until all are one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from cogcache._arguments import checked_tags
from cogcache._checks import whole
from cogcache.artifacts import FRAMED, PART
from cogcache.computing import is_async
from cogcache.exceptions import shown
from cogcache.filing import Filing
from cogcache.keys import Key
from cogcache.requests import Request

__all__ = ["compute_in_batches"]


async def compute_in_batches(
    filing: Filing,
    artifact: str,
    request_of: Callable[[], Awaitable[Request]],
    ids: Iterable[Any],
    compute: Callable[[list[Any]], Any],
    batch_size: int,
    how: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> dict[Any, Any]:
    """See ``ArtifactVerbs.get_or_compute_batched``.

    Args:
        filing: Of the cache.
        artifact: As there.
        request_of: Makes the request for the whole, once the arguments are checked.
        ids: As there.
        compute: As there.
        batch_size: As there.
        how: Options of the computations.
        kept: Options of the entries.
    """
    wanted = _checked_ids(ids)
    whole(batch_size, "batch_size", least=1)
    if not callable(compute):
        raise TypeError(f"compute must be a function, not {type(compute).__name__}")
    if artifact in FRAMED:
        raise TypeError(f"{artifact}: batches are for artifacts that map ids to results")
    request = await request_of()
    have: dict[Any, Any] = {}
    seconds = 0.0
    if not how["refresh"]:
        found = await filing.look(request, {})
        if found.hit and isinstance(found.value, Mapping):
            have, seconds = dict(found.value), found.seconds_saved
    stamp = filing.stamps.take(request)
    tags = checked_tags(kept["tags"])
    stamps = [(tag, filing.manager.capture_stamp([tag])) for tag in tags]
    lacking = [one for one in wanted if one not in have]
    parts = [
        _part_of(request, lacking[at : at + batch_size])
        for at in range(0, len(lacking), batch_size)
    ]
    for part, batch in parts:
        results, took = await _results(filing, request, part, batch, compute, how, kept)
        have.update(results)
        seconds += took
    if parts and all(one in have for one in wanted):
        own = {"cost_seconds": seconds, "tags": (), "stamp": stamp, "stamps": stamps}
        options = {**kept, **own}
        result = await filing.keep_merged(request, have, strict=how["strict"], **options)
        if result.stored:
            for part, _ in parts:
                await filing.manager.delete(part.key)
    return {one: have[one] for one in wanted if one in have}


async def _results(
    filing: Filing,
    whole_one: Request,
    part: Request,
    batch: Sequence[Any],
    compute: Callable[[list[Any]], Any],
    how: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> tuple[Mapping[Any, Any], float]:
    """The results of one batch, found or computed, and what they cost."""
    if not how["refresh"]:
        found = await filing.look(part, {}, again=True)
        if found.hit:
            return found.value, found.seconds_saved
        # Another run may have come to its end meanwhile, and its batches are gone.
        found = await filing.look(whole_one, {}, again=True)
        if found.hit and isinstance(found.value, Mapping) and all(i in found.value for i in batch):
            return {one: found.value[one] for one in batch}, 0.0
    took = 0.0

    def finished(results: Any, began: float) -> Any:
        nonlocal took
        took = time.perf_counter() - began
        if not isinstance(results, Mapping):
            raise TypeError(f"compute must return a mapping, not {type(results).__name__}")
        for one in results:
            if one not in batch:
                raise ValueError(f"compute returned a result for {shown(one)}, which was not asked")
        return dict(results)

    async def awaited() -> Any:
        began = time.perf_counter()
        return finished(await compute(list(batch)), began)

    def plain() -> Any:
        began = time.perf_counter()
        return finished(compute(list(batch)), began)

    async def this() -> Request:
        return part

    results = await filing.compute(
        part.artifact.name,
        this,
        {},
        awaited if is_async(compute) else plain,
        should_store=lambda made: len(made) == len(batch),
        **how,
        **kept,
    )
    return results, took


def _part_of(request: Request, batch: list[Any]) -> tuple[Request, list[Any]]:
    name = request.artifact.name + PART
    params = {**request.params, "ids": batch}
    key = Key(request.key.profile, request.source, name, params)
    artifact = dataclasses.replace(request.artifact, name=name)
    return dataclasses.replace(request, artifact=artifact, params=params, key=key), batch


def _checked_ids(ids: Any) -> list[Any]:
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise TypeError(f"ids must be several ids, not {type(ids).__name__}")
    listed = list(ids)
    seen: set[Any] = set()
    for one in listed:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise TypeError(f"ids: {shown(one)} is neither a text nor a whole number")
        if one in seen:
            raise ValueError(f"ids: {shown(one)} is there twice")
        seen.add(one)
    return listed
