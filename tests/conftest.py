"""What holds for every test."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from support.artifactcaches import cache, video  # noqa: F401 - fixtures of artifacts
from support.checkkinds import listed_kinds, tally
from support.commandline import cli, place  # noqa: F401 - fixtures of the command line
from support.servers import fixtures
from support.servers.fixtures import (  # noqa: F401 - fixtures of every test
    proxied_place,
    redis_proxy,
    redis_server,
    s3_bucket,
    s3_place,
    s3_proxy,
    s3_server,
    shared_servers,
    start_redis,
    start_s3,
    tls_place,
)

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts on times, so hypothesis must not either.
settings.register_profile(
    "cogcache",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("cogcache")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long forms of campaigns unless they were asked for."""
    if os.environ.get("COGCACHE_TORTURE", "0") not in ("", "0"):
        return
    long_forms = [item for item in items if item.get_closest_marker("torture")]
    if long_forms:
        config.hook.pytest_deselected(items=long_forms)
        items[:] = [item for item in items if item not in set(long_forms)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List by name the kinds of checks of large values, with what became of them."""
    ended = {
        outcome: [
            report.nodeid
            for report in terminalreporter.stats.get(outcome, ())
            if isinstance(report, pytest.TestReport)
        ]
        for outcome in ("passed", "failed", "skipped", "error")
    }
    for line in tally(listed_kinds(), ended):
        terminalreporter.write_line(line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    fixtures.parametrize(metafunc)
