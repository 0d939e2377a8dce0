"""The servers as fixtures: one of each kind a session, a fresh place in it for each test.

``s3_place`` runs a test once for every S3 server; ``@pytest.mark.s3("weed")`` chooses. A server
that a test killed or froze is up again for the next one. Where something is not installed the tests
that need it fail and say what to install; ``COGCACHE_TEST_WITHOUT=redis,swift`` skips them instead.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from cogcache import _fork
from cogcache.backends.lanes import Lane

from .certs import certificate
from .process import MissingServer, Server
from .proxy import Proxy
from .redis import RedisServer
from .s3 import BareServer, MotoServer, S3Place, S3Server, SeaweedServer
from .swift import SwiftServer

S = TypeVar("S", bound=Server)
S3_SERVERS: dict[str, type[S3Server]] = {
    "weed": SeaweedServer,
    "swift": SwiftServer,
    "moto": MotoServer,
    "bare": BareServer,
}


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run what uses `s3_server` on every server, or on those of its mark ``s3``."""
    if "s3_server" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("s3")
        names = mark.args if mark else tuple(S3_SERVERS)
        assert set(names) <= set(S3_SERVERS), f"there are {sorted(S3_SERVERS)}"
        metafunc.parametrize("s3_server", names, indirect=True)


def started(server: S, group: str) -> S:
    """Start it; without its program fail, or skip what was named to be left out."""
    if group in os.environ.get("COGCACHE_TEST_WITHOUT", "").replace(",", " ").split():
        pytest.skip(f"COGCACHE_TEST_WITHOUT names {group}")
    try:
        return server.start()
    except MissingServer as error:
        pytest.fail(str(error), pytrace=False)


class Shared:
    """The servers of this session, started when first asked for."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self._servers: dict[str, Server] = {}
        self._proxies: dict[tuple[str, bool], Proxy] = {}

    def proxy(self, server: Server, protocol: str, tls: bool = False) -> Proxy:
        """The proxy before a server, without faults and counts, on a port of this test."""
        proxy = self._proxies.get((server.name, tls))
        if proxy is None:
            keys: dict[str, Any] = {}
            if isinstance(server, S3Server):
                keys = {"access_key": server.access_key, "secret_key": server.secret_key}
            if tls:
                keys["certificate"] = certificate(server.folder)
            proxy = self._proxies[server.name, tls] = Proxy(server.port, protocol, **keys)
            self.stack.enter_context(proxy)
        proxy.begin()
        return proxy

    def get(self, group: str, make: Callable[[], S]) -> S:
        server = self._servers.get(group)
        if server is None:
            server = self._servers[group] = started(make(), group)
            self.stack.callback(server.close)
        server.revive()
        return server  # type: ignore[return-value]


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Shared]:
    shared = Shared()
    with shared.stack:
        yield shared


def wait_for_lanes(seconds: float = 60.0) -> None:
    """Let the threads of S3 tiers end what nobody waits for any more: their second tries would log,
    and draw random numbers, in the next test.
    """
    until = time.monotonic() + seconds
    for lane in [thing for thing in _fork._known if isinstance(thing, Lane)]:
        while lane.describe()["under_way"] and time.monotonic() < until:
            time.sleep(0.005)


@pytest.fixture
def s3_server(request: pytest.FixtureRequest, shared_servers: Shared) -> Iterator[S3Server]:
    """The session's S3 server: every one in turn, or those of the mark ``s3``."""
    yield shared_servers.get(request.param, S3_SERVERS[request.param])
    wait_for_lanes()


@pytest.fixture
def s3_place(s3_server: S3Server) -> Iterator[S3Place]:
    """A fresh prefix in a bucket of `s3_server`."""
    with s3_server.place() as place:
        yield place


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[S3Place]:
    """A fresh bucket in `s3_server`, for tests that look at all of it or remove it."""
    with s3_server.bucket() as place:
        yield place


@pytest.fixture
def s3_proxy(s3_server: S3Server, shared_servers: Shared) -> Iterator[Proxy]:
    """The fault proxy before `s3_server`."""
    proxy = shared_servers.proxy(s3_server, "s3")
    yield proxy
    proxy.begin()


@pytest.fixture
def proxied_place(s3_place: S3Place, s3_proxy: Proxy) -> Iterator[S3Place]:
    """`s3_place` as it is seen through `s3_proxy`."""
    with s3_place.at(endpoint_url=s3_proxy.endpoint_url) as place:
        yield place


@pytest.fixture
def tls_place(s3_server: S3Server, s3_place: S3Place, shared_servers: Shared) -> Iterator[S3Place]:
    """`s3_place` over https, where boto3 sends otherwise than over http."""
    proxy = shared_servers.proxy(s3_server, "s3", tls=True)
    with s3_place.at(endpoint_url=proxy.endpoint_url, secure=proxy.secure) as place:
        yield place


@pytest.fixture
def start_s3() -> Iterator[Callable[[str], S3Server]]:
    """Start an S3 server of the test's own: ``start_s3("weed")``."""
    with ExitStack() as stack:

        def start(name: str) -> S3Server:
            server = started(S3_SERVERS[name](), name)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def redis_server(shared_servers: Shared) -> RedisServer:
    """The session's plain redis-server, empty."""
    server = shared_servers.get("redis", RedisServer)
    with server.client() as client:
        client.flushall()
        client.config_resetstat()
    return server


@pytest.fixture
def redis_proxy(redis_server: RedisServer, shared_servers: Shared) -> Iterator[Proxy]:
    """The fault proxy before `redis_server`."""
    proxy = shared_servers.proxy(redis_server, "redis")
    yield proxy
    proxy.begin()


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start a redis-server of the test's own: ``start_redis(tls=True, password="x")``."""
    with ExitStack() as stack:

        def start(**options: object) -> RedisServer:
            server = started(RedisServer(**options), "redis")  # type: ignore[arg-type]
            stack.callback(server.close)
            return server

        yield start
