"""Everything that configures a cache, put together from code, URLs, the environment and a file,
with where each value comes from.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from cogcache._checks import choice
from cogcache._types import Duration, duration_seconds
from cogcache.backends.registry import CacheBackendRegistry
from cogcache.config import BackendConfig, CacheConfig, ChunkingConfig, FilesystemCacheConfig
from cogcache.exceptions import ConfigError, shown, warn
from cogcache.keys import Key
from cogcache.optiontext import SECRET, kind_of_secret
from cogcache.settingsfile import SettingsFile, find_settings, read_settings
from cogcache.settingslayers import (
    DEFAULT_DIRECTORY,
    Given,
    GivenTier,
    Layer,
    blamed,
    layer_of_code,
    layer_of_environment,
    layer_of_file,
)
from cogcache.sources import IDENTITIES, Identity

__all__ = ["Setting", "Settings", "check_profile"]

DEFAULT: Final = "default"
_DEFAULT_LIFE: Final = "7d"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in effect, to be shown: a secret is replaced by a note that it is set.

    Attributes:
        name: Such as ``"default_ttl"`` or ``"tiers[0].max_size_mb"``.
        value: Plain data.
        origin: ``"code"``, ``"<file>:<line>"``, ``"$VARIABLE"``, each with `` in the URL`` where a
            URL said it, or ``"default"``.
    """

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration and where it comes from. ``str()`` is a table of names, values and origins.

    Attributes:
        cache: The configuration of the manager.
        profile: See ``PipelineArtifactCache``, as the three that follow.
        identity: See there.
        memo: See there.
        ttl: Lives by the name of the artifact; ``"*"`` is all others.
        file: The file that was read; ``None`` if there is none.
        effective: Every value in effect.
    """

    cache: CacheConfig
    profile: str | None
    identity: Identity
    memo: bool
    ttl: Mapping[str, Duration]
    file: Path | None
    effective: tuple[Setting, ...]

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        code: str = "code",
        **options: Any,
    ) -> Settings:
        """Put the settings together. What is said in the code counts most, then the query of a
        tier's URL, the environment, the file, and the default.

        Args:
            file: TOML (of a ``pyproject.toml`` its table ``[tool.cogcache]``) or JSON; ``None``
                takes the one that ``$COGCACHE_CONFIG`` names, else the first ``cogcache.toml``, or
                ``pyproject.toml`` with that table, in ``directory`` and above.
            directory: Where to look; ``None`` is the working directory.
            environ: Instead of the environment.
            code: What the origin of ``options`` is called.
            **options: The names of the file: ``tiers``, ``profile``, ``identity``, ``memo``,
                ``ttl``, those of ``CacheConfig``, and one mapping for each kind of tier.

        Raises:
            ConfigError: An unknown name, a value of a wrong type or out of range, a file that is
                broken. Names the field, where it was said, and the nearest right name.
        """
        variables = os.environ if environ is None else environ
        given = layer_of_code(options, code)
        outside = layer_of_environment(variables)
        named = file if file is not None else variables.get("COGCACHE_CONFIG") or None
        found = _file(named, Path(os.path.abspath(directory or os.getcwd())))
        layers = [outside, given] if found is None else [layer_of_file(found), outside, given]
        return _Maker(layers, found.path if found else None).settings()

    def __str__(self) -> str:
        rows = [(row.name, repr(row.value), row.origin) for row in self.effective]
        name, value = (max(len(row[at]) for row in rows) for at in (0, 1))
        return "\n".join(f"{a:{name}}  {b:{value}}  {c}" for a, b, c in rows)


def _file(named: str | os.PathLike[str] | None, directory: Path) -> SettingsFile | None:
    return find_settings(directory) if named is None else read_settings(named)


class _Maker:
    """Puts layers together, the weakest first."""

    def __init__(self, layers: Sequence[Layer], file: Path | None) -> None:
        self._layers = layers
        self._file = file
        self._effective: list[Setting] = []

    def settings(self) -> Settings:
        """All of it.

        Raises:
            ConfigError: See ``Settings.load``.
        """
        named = {
            f.name
            for f in dataclasses.fields(CacheConfig)
            if f.name not in ("backends", "chunking")
        }
        profile = self._one("profile", None, check_profile)
        identity = self._one("identity", "stat", _check_identity)
        memo = self._one("memo", True, _check_memo)
        lives = self._lives()
        plain = {name: given for name in named if (given := self._plain(name)) is not None}
        cache = _built(CacheConfig, {"backends": Given([], DEFAULT), **plain}, "the cache")
        self._show("", cache, plain, skip=("backends", "chunking"))
        chunking = self._table("chunking")
        chunks = _built(ChunkingConfig, chunking, "chunking") if chunking else None
        self._show("chunking.", chunks or ChunkingConfig(), chunking)
        tiers = list(self._tiers())
        self._warn_of_idle_tables({tier.backend_type for tier in tiers})
        return Settings(
            cache=dataclasses.replace(cache, backends=tuple(tiers), chunking=chunks),
            profile=profile,
            identity=cast(Identity, identity),
            memo=memo,
            ttl=lives,
            file=self._file,
            effective=tuple(self._effective),
        )

    def _plain(self, name: str) -> Given | None:
        """The strongest that is said of a name."""
        return next((one.plain[name] for one in reversed(self._layers) if name in one.plain), None)

    def _one(self, name: str, default: Any, check: Any) -> Any:
        given = self._plain(name) or Given(default, DEFAULT)
        with blamed(given.origin):
            check(given.value)
        self._effective.append(Setting(name, given.value, given.origin))
        return given.value

    def _table(self, name: str) -> dict[str, Given]:
        """What is said of the options of a table."""
        return {
            option: given
            for layer in self._layers
            for option, given in layer.tables.get(name, {}).items()
        }

    def _lives(self) -> dict[str, Duration]:
        lives = {"*": Given(_DEFAULT_LIFE, DEFAULT)}
        for layer in self._layers:
            if "ttl" in layer.plain:  # one life for all, whatever weaker layers say
                lives = {"*": layer.plain["ttl"]}
            lives.update(layer.tables.get("ttl", {}))
        for name, given in lives.items():
            with blamed(given.origin):
                duration_seconds(given.value, f"ttl of {name}")
            self._effective.append(Setting(f"ttl.{name}", _plain(given.value), given.origin))
        return {name: given.value for name, given in lives.items()}

    def _tiers(self) -> Iterator[BackendConfig]:
        for layer in reversed(self._layers):
            if layer.tiers is not None:
                rank, tiers = self._layers.index(layer), layer.tiers
                break
        else:
            base = {"base_path": Given(DEFAULT_DIRECTORY, DEFAULT)}
            rank, tiers = -1, [GivenTier(FilesystemCacheConfig, base, {}, DEFAULT)]
        for number, tier in enumerate(tiers):
            yield self._tier(tier, rank, number)

    def _tier(self, tier: GivenTier, rank: int, number: int) -> BackendConfig:
        prefix = f"tiers[{number}]."
        if tier.ready is not None:
            ready: BackendConfig = _in_place(tier.ready, number)
            changed = {
                f.name: Given(None, tier.origin)
                for f in dataclasses.fields(ready)  # type: ignore[arg-type]
                if getattr(ready, f.name) != f.default
            }
            self._show(prefix, ready, changed)
            return ready
        options: dict[str, Given] = {}
        if any(f.name == "priority" for f in dataclasses.fields(tier.config_class)):
            options["priority"] = Given(number, "order of the tiers")
        if rank < 0:
            options |= tier.options
        said = tier.options.get("backend_type")
        kind = tier.config_class.backend_type if said is None else said.value
        for at, layer in enumerate(self._layers):
            if at == len(self._layers) - 1:  # a URL yields to the code only
                options |= tier.query
            options |= layer.tables.get(kind, {})
            if at == rank:
                options |= tier.options
        built: BackendConfig = _built(tier.config_class, options, f"tier {number} ({tier.origin})")
        if "url" not in options and getattr(built, "url", None):
            options["url"] = Given(None, "$REDIS_URL")
        self._show(prefix, built, options)
        return built

    def _show(
        self, prefix: str, config: Any, said: Mapping[str, Given], skip: Sequence[str] = ()
    ) -> None:
        show_as: Mapping[str, str] = getattr(config, "SHOW_AS", {})
        # What makes the kind of tier first, and then what all kinds have.
        common = set(BackendConfig.__annotations__) - {"backend_type"}
        for field in sorted(dataclasses.fields(config), key=lambda f: f.name in common):
            if field.name in skip:
                continue
            value = getattr(config, show_as.get(field.name, field.name))
            if kind_of_secret(type(config), field.name) and value is not None:
                value = SECRET
            origin = said[field.name].origin if field.name in said else DEFAULT
            self._effective.append(Setting(prefix + field.name, _plain(value), origin))

    def _warn_of_idle_tables(self, kinds: set[str]) -> None:
        for kind in set(CacheBackendRegistry.list_backends()) - kinds:
            for option, given in self._table(kind).items():
                warn(f"{given.origin}: {kind}.{option} has no effect: no tier is of this kind")


def _built(cls: type[Any], options: Mapping[str, Given], what: str) -> Any:
    """A configuration, or a ConfigError that names where the wrong option was said."""
    try:
        return cls(**{name: given.value for name, given in options.items()})
    except (ConfigError, TypeError) as error:
        about = re.match(r"\w*", str(error))
        given = options.get(about[0]) if about else None
        with blamed(given.origin if given else what):
            raise


def _in_place(config: Any, priority: int) -> Any:
    return dataclasses.replace(config, priority=priority)


def _plain(value: Any) -> Any:
    """A value for JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)


def _check_identity(value: Any) -> None:
    choice(value, "identity", IDENTITIES)


def _check_memo(value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"memo must be True or False, not {shown(value)}")


def check_profile(profile: Any) -> None:
    """Raise ``ConfigError`` unless ``profile`` can be the namespace of keys."""
    if profile is not None and not isinstance(profile, str):
        raise ConfigError(f"profile must be a string or None, not {type(profile).__name__}")
    try:
        Key(profile, bytes(16), "profile", {})
    except ValueError as error:
        raise ConfigError(f"profile cannot be in a key: {error}") from None
