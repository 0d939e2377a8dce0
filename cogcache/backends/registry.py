"""The kinds of tiers that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from cogcache._checks import nearest
from cogcache.backends.base import CacheBackend
from cogcache.config import BackendConfig, known_options
from cogcache.exceptions import ConfigError

__all__ = ["CacheBackendRegistry"]

# Keys of a manager's dict form that people also put into a tier's; silently not the tier's
# business.
_SHARED_KEYS: Final = ("default_ttl", "enable_stats", "enable_compression", "serialization_format")


class CacheBackendRegistry:
    """The kinds of tiers that a configuration can name."""

    _classes: ClassVar[dict[str, type[CacheBackend]]] = {}

    @classmethod
    def register(cls, name: str, backend: type[CacheBackend]) -> None:
        """Offer a kind of tier under ``name``, replacing an older one."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a tier must be a non-empty string, not {name!r}")
        if not (isinstance(backend, type) and issubclass(backend, CacheBackend)):
            raise TypeError(f"a tier must be a subclass of CacheBackend, not {backend!r}")
        cls._classes[name] = backend

    @classmethod
    def list_backends(cls) -> list[str]:
        """The registered names, sorted."""
        return sorted(cls._classes)

    @classmethod
    def config_class(cls, kind: object) -> type[Any]:
        """The dataclass that configures a kind of tier.

        Raises:
            ConfigError: As ``create``.
        """
        return cls._find(kind)[1]

    @classmethod
    def create(cls, config: BackendConfig | Mapping[str, Any], **shared: Any) -> CacheBackend:
        """Make a tier from its configuration; ``shared`` fills in what a dict form does not say.

        Raises:
            ConfigError: An unknown kind (the choices are named), or a tier without
                ``CONFIG_CLASS``. (A ``ValueError``.)
        """
        if isinstance(config, Mapping):
            kind = config.get("backend_type")
            backend, config_class = cls._find(kind)
            options = {**{k: v for k, v in shared.items() if v is not None}, **config}
            return backend(config_class(**known_options(config_class, options, _SHARED_KEYS)))
        if not hasattr(config, "backend_type"):
            raise ConfigError(
                f"a tier is configured by a BackendConfig or a dict, not {type(config).__name__}"
            )
        backend, config_class = cls._find(config.backend_type)
        if not isinstance(config, config_class):
            raise ConfigError(
                f"backend_type {config.backend_type!r} is configured by {config_class.__name__}, "
                f"not {type(config).__name__}"
            )
        return backend(config)

    @classmethod
    def _find(cls, kind: object) -> tuple[type[CacheBackend], type[Any]]:
        backend = cls._classes.get(kind) if isinstance(kind, str) else None
        if backend is None:
            raise ConfigError(f"backend_type: unknown value {kind!r}{nearest(kind, cls._classes)}")
        if backend.CONFIG_CLASS is None:
            raise ConfigError(
                f"{backend.__name__} must name its configuration dataclass in CONFIG_CLASS"
            )
        return backend, backend.CONFIG_CLASS
