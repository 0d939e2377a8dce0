"""What holds for every test."""

import os
import signal

import pytest
from hypothesis import settings

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts on times, so hypothesis must not either.
settings.register_profile("cogcache", deadline=None, print_blob=True)
settings.load_profile("cogcache")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long forms of campaigns unless they were asked for."""
    if os.environ.get("COGCACHE_TORTURE", "0") not in ("", "0"):
        return
    long_forms = [item for item in items if item.get_closest_marker("torture")]
    if long_forms:
        config.hook.pytest_deselected(items=long_forms)
        items[:] = [item for item in items if item not in set(long_forms)]
