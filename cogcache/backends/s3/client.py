"""Requests to one bucket: boto3's low-level client as the tier uses it, one of each lane a process,
and beside it connections of our own for the requests that are many (``Direct``). Every request is
under the breaker, every exception an error of ours.

Settings are those that measurement and the habits of real stores asked for: two attempts at most
for small requests (the default of boto3 waits minutes for a dead server), checksums only where we
give them (the default makes chunked uploads that older stores refuse), and never the C transfer
engine, which ignores ``endpoint_url``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cogcache._fork import renew_after_fork
from cogcache.backends.faults import (
    MisconfiguredError,
    NotAskedError,
    RemoteError,
    UnavailableError,
)
from cogcache.backends.lanes import Call, Lane, current_call
from cogcache.backends.s3.direct import OPERATIONS, SLOW_BYTES_A_SECOND, Direct, Patience
from cogcache.backends.s3.errors import OvertakenError, error_of, is_expired_token
from cogcache.backends.s3.payload import Reading
from cogcache.breaker import Attempt
from cogcache.exceptions import ConfigError

if TYPE_CHECKING:
    from cogcache.config import S3CacheConfig

__all__ = ["S3Client", "require_boto3"]

T = TypeVar("T")

SMALL_SECONDS: Final = 5.0  # deadline of a small request, and what a bulk one has beside its size
BULK_BYTES_A_SECOND: Final = 1 << 20  # slower transfers miss their deadline
SMALL_BYTES: Final = 1 << 20  # up to which a transfer goes through the small lane
_THREADS: Final = 8  # of the small lane, and of the bulk lane
_WORKERS: Final = 4
_KEPT_AS: Final = frozenset({"put_object", "upload_part"})  # their answers name what is there now
# Seconds of connecting and of one read are shares of the deadline: 2 s and 3 s of 5 s.
_LANES: Final[dict[str, dict[str, Any]]] = {
    "small": {
        "connect": 0.4,
        "read": 0.6,
        "max_pool_connections": _THREADS + _WORKERS,
        "attempts": 2,
        "carried": SMALL_BYTES,  # by a request, at most
    },
    "bulk": {
        "connect": 0.4,
        "read": 2.0,
        "max_pool_connections": _THREADS,
        "attempts": 4,
        "carried": 16 << 20,
    },
}


def require_boto3() -> None:
    """Import boto3, or raise ``ConfigError`` with the extra to install."""
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "backend_type 's3' needs boto3, which cannot be imported: "
            "pip install 'cogcache-video[s3]'"
        ) from error


class S3Client:
    """Requests to one bucket. Usable from any thread; a forked child makes clients of its own,
    since one that shares sockets with its parent would get the parent's answers.

    Attributes:
        small: For requests and transfers up to 1 MiB.
        bulk: For larger transfers.
        work: For what makes several requests and waits for those in the bulk lane. Its own go
            through the client of the small lane, which is why that has spare connections.
        requests: How many requests of each operation were sent, second tries of botocore's
            included, answered or not.
        bytes_out: Bytes of the bodies of those that carried objects.
        slow_downs: Answers that too much was asked of the store (503, 429), second tries included.
    """

    def __init__(self, config: S3CacheConfig) -> None:
        require_boto3()
        self._config = config
        self._base_seconds = config.timeout_seconds or SMALL_SECONDS
        self.small = Lane("small", _THREADS)
        self.bulk = Lane("bulk", _THREADS, waits=True)
        self.work = Lane("work", _WORKERS, self.small.breaker, waits=True)
        self.requests: dict[str, int] = {}
        self.bytes_out = 0
        self.slow_downs = 0
        self._asked = threading.local()
        self._begin()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The child never touches the parent's sockets."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._clients: dict[tuple[str, int, bool], Any] = {}
        self._direct: Direct | None = None
        self._session: Any = None
        self._pid = os.getpid()

    def lane_for(self, size: int) -> Lane:
        """The lane of a transfer of so many bytes."""
        return self.small if size <= SMALL_BYTES else self.bulk

    def seconds_for(self, size: int) -> float:
        """The deadline of a transfer of so many bytes."""
        base = self._base_seconds
        return base if size <= SMALL_BYTES else base + size / BULK_BYTES_A_SECOND

    async def run(self, lane: Lane, work: Callable[..., T], *args: Any) -> T:
        """``work(call, *args)`` in a thread of a lane, within the deadline of a small request."""
        return await lane.run(lambda call: work(call, *args), seconds=self.seconds_for(0))

    def send(self, call: Call, lane: Lane, operation: str, /, **params: Any) -> dict[str, Any]:
        """One request, in this thread. What it answers beside a body is whole.

        The caller reports a body's end through ``call.attempt``; a request without a body has been
        reported.

        Raises:
            RemoteError: See there.
        """
        for again in (True, False):
            call.check()
            attempt = lane.breaker.enter()
            if attempt is None:
                raise NotAskedError(f"not asked: the breaker is {lane.breaker.state}")
            call.attempt, call.heard = attempt, False
            try:
                answer = self._ask(call, lane.name, operation, params)
                if operation in _KEPT_AS and "ETag" not in answer:
                    raise OvertakenError(f"{operation}: the answer does not say what was kept")
            except Exception as error:
                if call.abandoned:
                    attempt.dropped()  # or reported late
                elif again and is_expired_token(error):
                    attempt.dropped()
                    self._forget_clients()  # the shared files may hold newer credentials by now
                    continue
                fault = error_of(error, operation)
                _report(attempt, fault, operation)
                raise fault from error
            call.heard = True
            if "Body" not in answer:
                attempt.succeeded()
            return answer
        raise AssertionError("unreachable")

    def connect(self) -> None:
        """Make the clients now, if there are none yet; sends nothing."""
        for lane in _LANES:
            self._client(lane)

    def close(self) -> None:
        """Close idle connections; a later request opens new ones."""
        self._forget_clients()

    def knows(self, operation: str, member: str) -> bool:
        """Whether this botocore knows a parameter of an operation (such as ``PutObject``)."""
        model = self._client("small").meta.service_model.operation_model(operation)
        return member in model.input_shape.members

    @contextlib.contextmanager
    def header(
        self, operation: str, name: str, value: Callable[[dict[str, Any]], str]
    ) -> Iterator[None]:
        """Add a header of our own to the requests of an operation (such as ``DeleteObjects``) that
        this thread makes meanwhile; ``value`` makes it from the request.
        """
        thread = threading.get_ident()

        def add(params: dict[str, Any], **_: Any) -> None:
            if threading.get_ident() == thread:
                params["headers"][name] = value(params)

        events = self._client("small").meta.events
        events.register_last(f"before-call.s3.{operation}", add)
        try:
            yield
        finally:
            events.unregister(f"before-call.s3.{operation}", add)

    @property
    def bucket(self) -> str:
        """Where objects are."""
        return self._config.bucket

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        url: str = self._client("small").meta.endpoint_url
        return url

    @property
    def direct_answers(self) -> int:
        """How many requests were answered over connections of our own, since there were clients."""
        return 0 if self._direct is None else self._direct.answered

    # --- inside -----------------------------------------------------------------------------------

    def _ask(self, call: Call, lane: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask over a connection of our own where that is possible, else have boto3 ask. It also
        asks again where we got no answer that is plain.
        """
        client = self._client(lane)  # after a fork, a new way to ask too
        direct = self._direct
        body = params.get("Body")
        refused = False
        tried = 0
        if direct is not None and direct.takes(operation, params):
            answer = direct.send(call, lane, operation, params)
            if not isinstance(answer, str):
                return answer
            refused = answer == "refused"
            tried = 1
        if tried or body:
            client = self._variant(lane, tried, carries=bool(body))
        self._asked.name = params.get("Key", "")
        if body is not None:
            params = {**params, "Body": Reading(body, lambda: _look(call))}
        try:
            given: dict[str, Any] = getattr(client, operation)(Bucket=self._config.bucket, **params)
        except CancelledError:
            call.check()
            raise
        if refused and direct is not None:
            direct.was_wrong()
        return given

    def _client(self, lane: str) -> Any:
        if os.getpid() != self._pid:  # forked without Python's knowing
            self._begin()
        client = self._clients.get((lane, 0, False))
        if client is None:
            with self._lock:  # sessions are not for several threads
                if (lane, 0, False) not in self._clients:
                    self._make_clients()
                client = self._clients[lane, 0, False]
        return client

    def _variant(self, lane: str, tried: int, *, carries: bool) -> Any:
        """A client that tries so many times less, because we have, and that is patient for what it
        ``carries`` to the store.
        """
        name = (lane, tried, carries)
        client = self._clients.get(name)
        if client is None:
            with self._lock:
                first = self._client(lane)
                client = self._clients.get(name)
                if client is None:
                    style = first.meta.config.s3["addressing_style"]
                    client = self._make(self._session, lane, style, tried, carries=carries)
                    self._clients[name] = client
        return client

    def _make_clients(self) -> None:
        import boto3.session
        import botocore.session

        config = self._config
        core = botocore.session.get_session()
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=config.access_key,
            aws_secret_access_key=config.secret_key,
            aws_session_token=config.session_token,
            region_name=config.region,
            profile_name=config.profile,
        )
        made = {}
        for lane in _LANES:
            style = "path" if config.endpoint_url else "auto"
            client = self._make(session, lane, style)
            if style == "auto" and not _is_aws(client.meta.endpoint_url):
                client.close()
                client = self._make(session, lane, "path")  # AWS_ENDPOINT_URL and the like
            made[lane, 0, False] = client
        self._session = session
        self._direct = self._make_direct(core) if config.direct_requests else None
        self._clients = made

    def _make_direct(self, core: Any) -> Direct | None:
        """``None`` where this botocore does not say what it takes."""
        credentials = core.get_credentials()
        try:
            from botocore.httpsession import get_cert_path
            from botocore.utils import get_environ_proxies
        except ImportError:
            return None
        if credentials is None:
            return None

        def trust() -> str:
            chosen = core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
            return str(chosen or get_cert_path(True))

        def proxied(url: str) -> bool:
            return url.partition(":")[0] in get_environ_proxies(url)

        return Direct(
            credentials.get_frozen_credentials,
            sign_payloads=self._signs_payloads,
            trust=trust,
            proxied=proxied,
            patience={
                lane: Patience(
                    chosen["connect"] * self._base_seconds, chosen["read"] * self._base_seconds
                )
                for lane, chosen in _LANES.items()
            },
            count=self._count_one,
            heed=self._heed_status,
        )

    @property
    def _signs_payloads(self) -> bool:
        signed = self._config.sign_payloads
        if signed is None:  # over https TLS and a checksum guard it
            return (self._config.endpoint_url or "https").startswith("http:")
        return signed

    def _make(
        self, session: Any, lane: str, style: str, tried: int = 0, *, carries: bool = False
    ) -> Any:
        from botocore.config import Config

        chosen = _LANES[lane]
        # As `Patience.after`: what was sent may lie in buffers of the way for long.
        after = chosen["carried"] / SLOW_BYTES_A_SECOND if carries else 0.0
        options: dict[str, Any] = {
            "signature_version": "s3v4",
            "connect_timeout": chosen["connect"] * self._base_seconds,
            "read_timeout": chosen["read"] * self._base_seconds + after,
            "max_pool_connections": chosen["max_pool_connections"],
            "tcp_keepalive": True,
            "retries": {"mode": "standard", "total_max_attempts": chosen["attempts"] - tried},
            "s3": {"addressing_style": style},
            "user_agent_extra": "cogcache",
        }
        options["s3"]["payload_signing_enabled"] = self._signs_payloads
        checksums = {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        options |= {k: v for k, v in checksums.items() if k in Config.OPTION_DEFAULTS}
        region = session.region_name or ("us-east-1" if self._config.endpoint_url else None)
        client = session.client(
            "s3",
            endpoint_url=self._config.endpoint_url,
            region_name=region,
            config=Config(**options),
        )
        client.meta.events.register("before-send.s3", self._count)
        client.meta.events.register_first("needs-retry.s3", self._heed)
        if self._config.endpoint_url:
            # botocore would look for the bucket's region at AWS' addresses, again and again.
            client.meta.events.register_first("needs-retry.s3", _refuse_redirect)
        return client

    def _count(self, event_name: str, request: Any, **_: Any) -> None:
        from botocore import xform_name

        # botocore waits for a "100 Continue" before it sends a file, many stores give none.
        request.headers.pop("Expect", None)
        operation = event_name.rpartition(".")[2]
        carries = operation in ("PutObject", "UploadPart")
        size = int(request.headers.get("Content-Length", 0)) if carries else 0
        name = xform_name(operation)
        self._count_one(name, size)
        if self._direct is not None and name in OPERATIONS:
            self._direct.learn(request, self._asked.name)

    def _count_one(self, operation: str, size: int) -> None:
        call = current_call()
        if call is not None:
            call.sent_at = time.monotonic()
        with self._lock:
            self.requests[operation] = self.requests.get(operation, 0) + 1
            self.bytes_out += size

    def _heed(self, response: Any = None, **_: Any) -> None:
        """Every answer, those that botocore then tries again included: if the store is asked for
        too much, fewer large transfers are under way at once.
        """
        if response is not None:
            self._heed_status(response[0].status_code)

    def _heed_status(self, status: int) -> None:
        if status in (429, 503):
            call = current_call()
            self.bulk.slow_down(time.monotonic() if call is None else call.sent_at)
            with self._lock:
                self.slow_downs += 1

    def _forget_clients(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, {}
            direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
        for client in clients.values():
            client.close()


def _report(attempt: Attempt, fault: RemoteError, operation: str) -> None:
    if isinstance(fault, MisconfiguredError):
        # Who may not write or list can still read.
        if fault.denied and operation != "get_object":
            attempt.succeeded()
        else:
            attempt.misconfigured()
    elif isinstance(fault, UnavailableError):
        attempt.failed(unreachable=fault.unreachable)
    else:
        attempt.succeeded()  # the store works; it is the request that it did not like


def _look(call: Call) -> None:
    """Botocore passes this on at once; of other exceptions it would try again."""
    try:
        call.check()
    except UnavailableError as error:
        raise CancelledError from error


def _refuse_redirect(response: Any = None, **_: Any) -> None:
    if response is not None and response[0].status_code in (301, 302, 307, 308):
        raise MisconfiguredError(
            f"the endpoint answers {response[0].status_code}: correct endpoint_url, or set region "
            "to the bucket's"
        )


def _is_aws(endpoint: str) -> bool:
    host = endpoint.partition("://")[2].partition("/")[0].partition(":")[0]
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))
