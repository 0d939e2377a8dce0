"""``explain``: why something is in the cache, or is not."""

from __future__ import annotations

import click

from cogcache.artifacts import ARTIFACTS
from cogcache.cli.common import (
    CacheChoice,
    cache_options,
    json_option,
    opened,
    plain_value,
    run_async,
)
from cogcache.cli.output import clean, duration, print_json, print_table, size
from cogcache.explain import Explanation, TierAnswer, ask_tiers
from cogcache.keys import Key
from cogcache.pipeline import PipelineArtifactCache
from cogcache.sources import IDENTITIES, Identity

__all__ = ["explain_command", "print_answers"]


@click.command(
    "explain",
    short_help="Say why something is cached, or is not.",
    epilog="Example: cogcache explain transcript lecture.mp4 model_size=base",
)
@click.argument("what", metavar="KEY|ARTIFACT")
@click.argument("video", required=False)
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--profile", help="Profile of the artifact.  [default: as configured]")
@click.option(
    "--identity",
    type=click.Choice(IDENTITIES),
    help="What VIDEO is told by, as the program that asks for it says.  [default: as configured]",
)
@json_option
@cache_options
def explain_command(
    what: str,
    video: str | None,
    params: tuple[str, ...],
    profile: str | None,
    identity: Identity | None,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """Say why a key, or an artifact of VIDEO, is in the cache or is not.

    Exits with 3 when it is not.
    """
    if video is None:
        if what in ARTIFACTS:
            raise click.UsageError(f"of which video? cogcache explain {what} lecture.mp4")
        if identity is not None:
            raise click.UsageError("--identity is for an artifact of a VIDEO; a key has its own")
        _explain_key(what, cache, as_json)
    else:
        _explain_artifact(what, video, params, profile, identity, cache, as_json)


def _explain_key(text: str, cache: CacheChoice, as_json: bool) -> None:
    key = Key.parse(text)

    async def work() -> tuple[TierAnswer, ...]:
        async with opened(cache) as manager:
            return await ask_tiers(manager, key)

    answers = run_async(work)
    hit = any(answer.present for answer in answers)
    if as_json:
        print_json(key=str(key), hit=hit, tiers=[_answer(one) for one in answers])
    else:
        print_answers(answers)
    if not hit:
        raise click.exceptions.Exit(3)


def _explain_artifact(
    artifact: str,
    video: str,
    params: tuple[str, ...],
    profile: str | None,
    identity: Identity | None,
    cache: CacheChoice,
    as_json: bool,
) -> None:
    named = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{text!r}: write it as NAME=VALUE, such as model_size=base")
        named[name] = plain_value(value)

    async def work() -> Explanation:
        settings = cache.settings()
        async with opened(cache, settings=settings) as manager:
            artifacts = PipelineArtifactCache(
                manager,
                dict(settings.ttl),
                settings.profile if profile is None else profile,
                identity=settings.identity if identity is None else identity,
                memo=False,  # looking writes nothing
            )
            return await artifacts.explain(artifact, video, **named)

    found = run_async(work)
    if as_json:
        print_json(
            key=None if found.key is None else str(found.key),
            hit=found.hit,
            artifact=found.artifact,
            source=found.source,
            reason=found.reason,
            note=found.note,
            known=found.known,
            tiers=[_answer(one) for one in found.tiers],
            nearest=[
                {
                    "key": near.key,
                    "created": near.created,
                    "differs": [str(d) for d in near.differences],
                }
                for near in found.nearest
            ],
        )
    else:
        click.echo(clean(found))
        if found.key is not None:
            click.echo(f"key: {clean(found.key)}\n")
        print_answers(found.tiers)
        if found.nearest:
            click.echo()
            rows = [("; ".join(map(str, near.differences)), near.key) for near in found.nearest]
            print_table(("NEAREST DIFFERS IN", "KEY"), rows)
    if not found.hit:
        raise click.exceptions.Exit(3)


def _answer(one: TierAnswer) -> dict[str, object]:
    return {
        "tier": one.tier,
        "present": one.present,
        "reason": one.reason,
        "age_seconds": one.age_seconds,
        "ttl_seconds": one.ttl_seconds,
        "stored_bytes": one.stored_bytes,
        "cost_seconds": one.cost_seconds,
    }


def print_answers(answers: tuple[TierAnswer, ...]) -> None:
    """What each tier says, as a table."""
    rows = [
        (
            one.tier,
            one.reason,
            size(one.stored_bytes) if one.present else "-",
            duration(one.age_seconds) if one.present else "-",
            duration(one.ttl_seconds) if one.present else "-",
        )
        for one in answers
    ]
    print_table(("TIER", "ANSWER", "SIZE", "AGE", "LEFT"), rows, right=("SIZE", "AGE", "LEFT"))
