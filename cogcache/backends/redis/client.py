"""redis-py's asyncio client as the tier uses it: one for each event loop and process, every call
under the breaker and a deadline of ours, every exception an error of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cogcache._fork import renew_after_fork
from cogcache._installed import is_installed
from cogcache.backends.faults import (
    MisconfiguredError,
    NotAskedError,
    RefusedError,
    RemoteError,
    UnavailableError,
)
from cogcache.backends.redis.scripts import Script
from cogcache.breaker import Attempt, Breaker
from cogcache.exceptions import ConfigError

if TYPE_CHECKING:
    from cogcache.config import RedisCacheConfig

__all__ = [
    "FullError",
    "ReadOnlyServerError",
    "RedisClient",
    "WrongKindError",
    "forget_outcome",
    "require_redis",
]

T = TypeVar("T")

SMALL_SECONDS: Final = 0.25
BULK_FACTOR: Final = 4  # of the time of a small call, for each batch of slices
CONNECTIONS: Final = 16
_broken: ContextVar[list[Exception] | None] = ContextVar("_broken", default=None)
LATE_LOOP_SECONDS: Final = 0.05  # a timer that comes later than this: the loop was busy, not Redis


class FullError(RefusedError):
    """The server's memory is full and its policy lets nothing go."""


class ReadOnlyServerError(RefusedError):
    """The server is a replica."""


class WrongKindError(RemoteError):
    """A key of that name holds something that is not ours."""


def require_redis() -> None:
    """Raise ``ConfigError`` with the extra to install unless redis-py is there; imports nothing."""
    if not is_installed("redis"):
        raise ConfigError(
            "backend_type 'redis' needs redis-py, which is not installed: "
            "pip install 'cogcache-video[redis]'"
        )


class _Loop:
    """What belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Any) -> None:
        self.loop = loop
        self.client = client
        self.slots = asyncio.Semaphore(CONNECTIONS)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closed = False


class RedisClient:
    """Calls to one server, from any number of event loops, 16 at a time from each.

    Attributes:
        breaker: Opens at the first call that reaches nobody.
        seconds: The deadline of a small call.
        calls: How many were made.
    """

    def __init__(self, config: RedisCacheConfig) -> None:
        require_redis()
        self._config = config
        self.seconds = config.timeout_seconds or SMALL_SECONDS
        self.breaker = Breaker(unreachable_in_a_row=1)
        self.calls = 0
        self._loops: dict[int, _Loop] = {}
        self._given_up: list[Any] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The child never touches the parent's sockets, not even to close them: the poller that
        they are registered with is the parent's too. So they are kept, unused.
        """
        self._lock = threading.Lock()
        self._given_up += self._loops.values()
        self._loops = {}
        self._pid = os.getpid()

    async def run(self, work: Callable[[Any], Awaitable[T]], *, factor: int = 1) -> T:
        """``work(client)`` with a deadline of ``factor`` times that of a small call.

        The deadline is ours and not redis-py's, so that a loop that was busy elsewhere is not taken
        for a server that does not answer. After a deadline or a cancelled call the connection is
        closed, never used again: its answer may still come.

        Raises:
            RemoteError: See there; the tier's errors are the same for every server.
        """
        if self.breaker.refuses():
            raise self._not_asked()
        here = self._here()
        async with here.slots:
            if here.closed:  # what would be connected now nobody would close
                raise UnavailableError("the call was ended while it waited for a connection")
            attempt = self.breaker.enter()
            if attempt is None:
                raise self._not_asked()
            self.calls += 1
            task = asyncio.ensure_future(work(here.client))
            here.tasks.add(task)
            task.add_done_callback(here.tasks.discard)
            try:
                return await self._outcome(task, attempt, self.seconds * factor)
            except asyncio.CancelledError:
                attempt.dropped()
                raise
            finally:
                if not task.done():
                    task.cancel()
                    task.add_done_callback(forget_outcome)

    async def _outcome(self, task: asyncio.Future[T], attempt: Attempt, seconds: float) -> T:
        for again in (True, True, False):
            began = time.monotonic()
            await asyncio.wait({task}, timeout=seconds)
            if task.done() or not again:
                break
            if time.monotonic() - began < seconds + LATE_LOOP_SECONDS:
                break
        if not task.done():
            attempt.failed(unreachable=True)
            raise UnavailableError(f"no answer within {seconds:g} s", unreachable=True)
        try:
            result = task.result()
        except asyncio.CancelledError:
            attempt.dropped()
            raise UnavailableError("the call was ended with its connection") from None
        except Exception as error:
            fault = error_of(error)
            _report(attempt, fault)
            if fault is error:
                raise
            raise fault from error
        attempt.succeeded()
        return result

    async def script(
        self,
        script: Script,
        keys: Sequence[bytes],
        *args: Any,
        broken: list[Exception] | None = None,
    ) -> Any:
        """Run a script, which the server learns when it does not know it. What ended a connection
        under it, so that it was perhaps sent twice, is added to ``broken``.
        """
        from redis.exceptions import NoScriptError

        async def work(client: Any) -> Any:
            _broken.set(broken)  # of the task that this runs in
            try:
                return await client.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await client.eval(script.text, len(keys), *keys, *args)

        return await self.run(work)

    async def aclose(self) -> None:
        """Close the connections of this loop and of loops that are closed; a later call opens new
        ones. A loop that runs elsewhere closes its own.
        """
        with self._lock:
            here = self._loops.pop(id(asyncio.get_running_loop()), None)
            self._let_closed_go()
        if here is not None:
            here.closed = True
            for task in here.tasks:
                task.cancel()
            if here.tasks:
                await asyncio.wait(here.tasks, timeout=self.seconds)
            await here.client.aclose(close_connection_pool=True)

    # --- inside -----------------------------------------------------------------------------------

    def _not_asked(self) -> NotAskedError:
        return NotAskedError(f"not asked: the breaker is {self.breaker.state}")

    def _here(self) -> _Loop:
        if os.getpid() != self._pid:  # forked without Python's knowing
            self.after_fork()
        loop = asyncio.get_running_loop()
        found = self._loops.get(id(loop))
        if found is not None and found.loop is loop:
            return found
        with self._lock:
            self._let_closed_go()
            made = self._loops[id(loop)] = _Loop(loop, self._make())
            return made

    def _let_closed_go(self) -> None:
        for number, one in list(self._loops.items()):
            if one.loop.is_closed():
                _let_go(self._loops.pop(number))

    def _make(self) -> Any:
        import redis.asyncio
        from redis.asyncio.connection import (
            BlockingConnectionPool,
            Connection,
            SSLConnection,
            UnixDomainSocketConnection,
        )

        where = self._config.connection
        kind: Any = Connection
        if "path" in where:
            kind = UnixDomainSocketConnection
        elif "ssl_cert_reqs" in where:
            kind = SSLConnection
        # Ours come first; these are for what ours cannot see.
        backstop = 2 * BULK_FACTOR * self.seconds
        pool = BlockingConnectionPool(
            max_connections=CONNECTIONS,
            timeout=backstop,
            connection_class=kind,
            **where,
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=backstop,
            socket_timeout=backstop,
            socket_read_size=256 * 1024,
            health_check_interval=15,
            retry=_once_more(),
            driver_info=None,
        )
        return redis.asyncio.Redis(connection_pool=pool)


def _once_more() -> Any:
    """Tries what a lost connection has ended once more, and takes note of that."""
    from redis.asyncio.retry import Retry
    from redis.backoff import ConstantBackoff
    from redis.exceptions import ConnectionError as LostError

    class OnceMore(Retry):
        async def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
            def failed(error: Exception, *more: Any) -> Any:
                broken = _broken.get()
                if broken is not None:
                    broken.append(error)
                return fail(error, *more)

            return await super().call_with_retry(do, failed, *args, **options)

    return OnceMore(ConstantBackoff(0.01), 1, supported_errors=(LostError,))


def _let_go(gone: _Loop) -> None:
    """Close the sockets of a loop that is closed: nothing else can be done with them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = gone.client.connection_pool
        for connection in [*pool._available_connections, *pool._in_use_connections]:
            writer = getattr(connection, "_writer", None)
            if writer is None:
                continue
            transport = writer.transport
            with contextlib.suppress(Exception):
                transport.abort()  # which cannot tell the closed loop to do the rest
            inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
            with contextlib.suppress(Exception):
                inner._call_connection_lost(None)
            connection._writer = connection._reader = None


def forget_outcome(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


_REMEDIES: Final = {
    "NOAUTH": "give a password",
    "WRONGPASS": "correct username and password",
    "NOPERM": "grant the user GET, GETRANGE, STRLEN, EXISTS, TYPE, PTTL, SET, SETRANGE, UNLINK, "
    "PEXPIRE, PERSIST and the sorted set commands on the prefix, and PING, SCAN, DBSIZE, EVALSHA, "
    "EVAL and INFO",
    "DENIED": "the server is in protected mode: set a password there, or bind it to this network",
    "MOVED": "this is a node of a cluster, which the tier does not speak with: give the address of "
    "a single server or of a proxy before the cluster",
    "CROSSSLOT": "give the address of a single server or of a proxy before the cluster",
}
_TRANSIENT: Final = ("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS",
                     "MISCONF", "UNKILLABLE")  # fmt: skip


# What a script met, in the words of Redis 6.2 (newer ones answer with the error itself), and what
# all say of a command in a script that the user may not use.
_IN_SCRIPT: Final = re.compile(r"Error running script .*?-([A-Z]+) ", re.DOTALL)
_FORBIDDEN: Final = "The user executing the script can't "


def error_of(error: Exception) -> RemoteError:
    """The fault that an exception of redis-py, or of the network below it, stands for."""
    if isinstance(error, RemoteError):
        return error
    from redis import exceptions as r

    text = str(error)
    inside = _IN_SCRIPT.search(text)
    word = text.partition(" ")[0] if inside is None else inside.group(1)
    if isinstance(error, r.OutOfMemoryError) or word == "OOM":
        return FullError("the server's memory is full (maxmemory)")
    if isinstance(error, r.ReadOnlyError) or word == "READONLY":
        return ReadOnlyServerError("the server is a read-only replica")
    if isinstance(error, r.BusyLoadingError):
        return UnavailableError(f"the server answers: {text[:200]}", unreachable=True)
    if word in _TRANSIENT:
        return UnavailableError(f"the server answers: {text[:200]}")
    if isinstance(error, r.AuthenticationError | r.AuthenticationWrongNumberOfArgsError):
        return MisconfiguredError(f"{text[:200]}: correct username and password")
    if isinstance(error, r.NoPermissionError) or word == "NOPERM" or _FORBIDDEN in text:
        return MisconfiguredError(f"{text[:200]}: {_REMEDIES['NOPERM']}", denied=True)
    if isinstance(error, r.MovedError | r.AskError | r.ClusterCrossSlotError):
        return MisconfiguredError(_REMEDIES["MOVED"])
    if isinstance(error, r.InvalidResponse) or "Protocol Error" in text:
        return MisconfiguredError("what listens there does not answer as Redis does; correct url")
    if isinstance(error, r.ResponseError):
        if word == "WRONGTYPE" or "WRONGTYPE" in text:
            return WrongKindError("a key of that name holds something else")
        remedy = _REMEDIES.get(word, "is it Redis 6.2 or newer, or Valkey, and does url name an "
                                     "existing database?")  # fmt: skip
        return MisconfiguredError(f"the server answers: {text[:200]}: {remedy}")
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("SSLCertVerificationError", "SSLError"):
            return MisconfiguredError(
                "no trusted TLS connection: correct url (redis or rediss), or set ca_file"
            )
        cause = cause.__cause__ or cause.__context__
    return UnavailableError(f"{type(error).__name__}: {text[:200]}", unreachable=True)


def _report(attempt: Attempt, fault: RemoteError) -> None:
    if isinstance(fault, MisconfiguredError):
        attempt.succeeded() if fault.denied else attempt.misconfigured()
    elif isinstance(fault, UnavailableError):
        attempt.failed(unreachable=fault.unreachable)
    else:
        attempt.succeeded()  # the server works; it is the call that it did not like
