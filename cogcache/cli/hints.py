"""What may be meant by a name that nothing has: a slip of a letter looks like an empty cache.

Names stay open, since entries of artifacts that other programs register are entries like all
others. So this is a hint and never an error.
"""

from __future__ import annotations

from collections.abc import Collection

import click

from cogcache._checks import nearest
from cogcache.artifacts import ARTIFACTS, arguments_of
from cogcache.cli.output import clean
from cogcache.manager import CacheManager

__all__ = ["hint_at_names"]


async def hint_at_names(
    manager: CacheManager, artifact: str | None, params: Collection[str]
) -> None:
    """Say on standard error which of the names that were asked for nothing here has, if any.

    The cache is looked through only for a name that is none of cogcache's own.

    Args:
        manager: Where nothing was found.
        artifact: What was asked for.
        params: Names of parameters that were asked for.
    """
    artifacts = set(ARTIFACTS)
    of_artifacts = {artifact} & artifacts if artifact else artifacts
    parameters = {
        name
        for one in of_artifacts
        for argument in ARTIFACTS[one].parameters
        for name in (argument.argument, argument.printed)
    }
    if (not artifact or artifact in artifacts) and parameters.issuperset(params):
        return
    plan = await manager.select()
    if plan.unavailable:
        return  # what could not be asked may have it
    keys = [one.key for one in plan.entries if one.key.artifact]
    artifacts.update(key.artifact for key in keys)
    if artifact and artifact not in artifacts:
        _hint(f"nothing here is an artifact {artifact!r}{nearest(artifact, artifacts)}")
        return
    for key in keys:
        if not artifact or key.artifact == artifact:
            parameters.update(arguments_of(key))
    whose = f"{artifact} has no parameter" if artifact else "nothing here has a parameter"
    for name in params:
        if name not in parameters:
            _hint(f"{whose} {name!r}{nearest(name, parameters)}")


def _hint(text: str) -> None:
    click.echo(f"cogcache: {clean(text)}", err=True)
