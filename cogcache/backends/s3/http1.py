"""Connections that speak as much of HTTP/1.1 as requests to objects need: one request at a time, an
answer with a ``Content-Length``, and the same connection for the next one.

Bodies go straight from and into the memory of the caller, in pieces so large that other threads run
meanwhile. Every wait ends after a fraction of a second to see whether somebody still waits for it,
so the deadline of a call holds at every read and write, and an abandoned one closes its connection.
Anything unexpected is an ``OSError`` or ``ValueError``; whoever asked then asks by other means.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cogcache.backends.lanes import Call

__all__ = ["Body", "Connection", "Connections", "Head"]

HEAD_BYTES: Final = 64 << 10  # that a head may have; a small body comes in the same read
KEPT: Final = 16  # idle connections; more than there are threads for small and for large requests
LOOK_SECONDS: Final = 0.2  # idle for longer than this, a connection is looked at before its use
_PIECES: Final = 1000  # that the kernel takes in one call
_TLS_PIECE: Final = 256 << 10
_WAITED: Final = (BlockingIOError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Head:
    """Of an answer.

    Attributes:
        status: Such as 206.
        headers: By their names in lower case.
        length: Of the body.
        stays: The connection may be used again after the body.
    """

    status: int
    headers: dict[str, str]
    length: int
    stays: bool


def head_of(text: str, *, bodiless: bool = False) -> Head:
    """Read the lines of a head.

    Raises:
        ValueError: It is none, or says its length in a way that is not known here.
    """
    first, *lines = text.split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit()):
        raise ValueError("no answer of HTTP/1.1")
    status = int(code)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name.strip() != name:
            raise ValueError("a malformed header")
        value = value.strip(" \t")
        if headers.setdefault(name, value) != value and name == "content-length":
            raise ValueError("two lengths")
        headers[name] = value
    said = headers.get("content-length")
    if bodiless or status in (204, 304) or status < 200:
        length = 0
    elif "transfer-encoding" in headers or said is None or not (said.isascii() and said.isdigit()):
        raise ValueError("a body of unknown length")
    else:
        length = int(said)
    stays = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return Head(status, headers, length, stays)


class Connection:
    """One connection. Used by one thread at a time.

    Args:
        sock: Connected.
        tick: Seconds after which every wait looks whether it should go on.
    """

    def __init__(self, sock: socket.socket, tick: float) -> None:
        self._sock = sock
        self._tick = tick
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._buffer = bytearray(HEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._at = self._end = 0  # what is in the buffer and was not taken yet
        self.idle_since = 0.0
        if self._tls:
            sock.settimeout(tick)
        else:  # waiting in the kernel: a call for each piece, not one to wait and one to move
            sock.settimeout(None)
            interval = struct.pack("@ll", int(tick), int(tick % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)

    def close(self) -> None:
        """End it; may be called twice."""
        self._sock.close()

    def is_open(self) -> bool:
        """Whether the other side has neither ended it nor said anything unasked."""
        timeout = self._sock.gettimeout()
        try:
            self._sock.settimeout(0.0)
            if self._tls:
                self._sock.recv(1)  # TLS cannot look without taking
            else:
                self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(timeout)
        return False

    def send(self, call: Call, patience: float, head: bytes, body: Sequence[memoryview]) -> None:
        """Send a request.

        Args:
            call: Whose request it is.
            patience: Seconds without progress after which it is given up.
            head: Up to the empty line, with it.
            body: In pieces.

        Raises:
            OSError: It could not be sent.
            RemoteError: Nobody waits any more.
        """
        pieces = [memoryview(head), *body]
        since = time.monotonic()
        while pieces:
            try:
                if self._tls:
                    count = self._sock.send(pieces[0][:_TLS_PIECE])
                else:
                    count = self._sock.sendmsg(pieces[:_PIECES])
            except _WAITED:
                _look(call, since, patience)
                continue
            while pieces and count >= len(pieces[0]):
                count -= len(pieces.pop(0))
            if pieces:
                pieces[0] = pieces[0][count:]
                call.check()
                since = time.monotonic()

    def read_head(self, call: Call, patience: float) -> Head:
        """Read the head of the answer, and say ``call.heard`` when something comes.

        Raises:
            OSError, ValueError: There is none that can be used.
            RemoteError: Nobody waits any more.
        """
        self._at = self._end = 0
        while True:
            seen = max(self._at, self._end - 3)
            if self._end == len(self._buffer):
                raise ValueError("a head too long")
            count = self._receive(self._view[self._end :], call, patience)
            if not count:
                raise ConnectionResetError("closed before an answer")
            call.heard = True
            self._end += count
            ends = self._buffer.find(b"\r\n\r\n", seen, self._end)
            while ends >= 0:
                head = head_of(self._buffer[self._at : ends].decode("latin-1"))
                self._at = ends + 4
                if head.status >= 200:
                    return head
                ends = self._buffer.find(b"\r\n\r\n", self._at, self._end)  # 100 Continue

    def read(self, room: memoryview, call: Call, patience: float) -> int:
        """Read bytes of a body into ``room``, until it is full or nothing comes for a moment; how
        many, 0 at the end of the connection. Raises as ``read_head``.
        """
        if self._at < self._end:
            count = min(len(room), self._end - self._at)
            room[:count] = self._view[self._at : self._at + count]
            self._at += count
            return count
        if not self._tls:
            return self._receive(room, call, patience, socket.MSG_WAITALL)
        got = count = self._receive(room, call, patience)  # one record of TLS
        until = time.monotonic() + self._tick
        while count and got < len(room) and time.monotonic() < until:
            count = self._receive(room[got:], call, patience)
            got += count
        return got

    @property
    def is_read(self) -> bool:
        """Whether nothing that came is left."""
        return self._at == self._end

    def _receive(self, room: memoryview, call: Call, patience: float, flags: int = 0) -> int:
        since = 0.0
        while True:
            try:
                return self._sock.recv_into(room, 0, flags)
            except _WAITED:
                since = since or time.monotonic()
                _look(call, since, patience)


def _look(call: Call, since: float, patience: float) -> None:
    call.check()
    if time.monotonic() - since >= patience:
        raise TimeoutError("nothing moved for too long")


class Body:
    """The body of an answer. Its connection goes back when the last byte has been read."""

    def __init__(
        self,
        connection: Connection,
        head: Head,
        call: Call,
        patience: float,
        done: Callable[[Connection], None],
    ) -> None:
        self._connection = connection
        self._stays = head.stays
        self._call = call
        self._patience = patience
        self._done = done
        self._left = head.length
        self._open = True
        if not self._left:
            self._finish()

    def readinto(self, room: memoryview) -> int:
        """Fill ``room``, or as much of it as comes without a pause; 0 at the end, and where the
        body breaks off.

        Raises:
            OSError: The connection broke.
            RemoteError: Nobody waits any more.
        """
        if not self._open or not room:
            return 0
        count = self._connection.read(room[: self._left], self._call, self._patience)
        self._left -= count
        if not count:
            self.close()
        elif not self._left:
            self._finish()
        return count

    def close(self) -> None:
        """End it; unless all of it was read, the connection with it. May be called twice."""
        if self._open:
            self._open = False
            self._connection.close()

    def _finish(self) -> None:
        if self._stays and self._connection.is_read:
            self._open = False
            self._done(self._connection)
        else:
            self.close()


class Connections:
    """Connections to one server that are kept for the next request. Usable from any thread; a
    forked child never uses those of its parent.

    Args:
        host: Name or address.
        port: Of it.
        context: For TLS; ``None`` without.
        tick: See ``Connection``.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, tick: float) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._tick = tick
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()
        # Not __del__: in a cycle the sockets would be collected, with a warning, before that.
        self.close = weakref.finalize(self, _close_all, self._idle)

    def take(self, call: Call, seconds: float) -> Connection:
        """A connection that was kept, or a new one within ``seconds``.

        Raises:
            OSError: The server cannot be reached.
        """
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            _close_all(self._idle)  # only our copies of the descriptors
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect(call, seconds)
            if time.monotonic() - connection.idle_since < LOOK_SECONDS or connection.is_open():
                return connection
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next one who asks."""
        if len(self._idle) >= KEPT or not self.close.alive or os.getpid() != self._pid:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def _connect(self, call: Call, seconds: float) -> Connection:
        left = max(0.001, min(seconds, call.deadline - time.monotonic()))
        sock = socket.create_connection((self._host, self._port), left)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=self._host)
            return Connection(sock, self._tick)
        except BaseException:
            sock.close()
            raise


def _close_all(connections: deque[Connection]) -> None:
    while connections:
        with contextlib.suppress(IndexError):
            connections.pop().close()
