"""What a server takes by itself: requests that were signed beforehand, sent over kept connections
by threads that do nothing else. No client that signs, checks and keeps can be quicker than this.

A process of its own, so that it has an interpreter for itself: it reads one line of JSON for each
block from its standard input, and answers each with the seconds that it took.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

MIB = 1 << 20


class Floor:
    """The other process; a context manager.

    Args:
        endpoint: Of the server, over http.
        threads: Each with a connection.
    """

    def __init__(self, endpoint: str, threads: int) -> None:
        self._endpoint = endpoint
        self._threads = threads

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-S", __file__, self._endpoint, str(self._threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, requests: Sequence[tuple[str, str, str | None, int]]) -> float:
        """Send requests and read their answers; how many seconds that took.

        Args:
            requests: Method, address with its signature, value of the header ``Range`` or ``None``,
                and size of the body that is sent.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(requests) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def _connect(endpoint: str) -> socket.socket:
    parts = urlsplit(endpoint)
    sock = socket.create_connection((parts.hostname or "", parts.port or 80))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _ask(sock: socket.socket, request: Sequence[Any], buffer: bytearray, body: memoryview) -> None:
    method, url, span, size = request
    parts = urlsplit(url)
    head = f"{method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += f"Range: {span}\r\n" if span else ""
    head += f"Content-Length: {size}\r\n\r\n" if method == "PUT" else "\r\n"
    sock.sendall(head.encode())
    if size:
        sock.sendall(body[:size])
    end = got = 0
    view = memoryview(buffer)
    while not end:
        count = sock.recv_into(view[got:])
        assert count, "the server ended the connection"
        got += count
        end = buffer.find(b"\r\n\r\n", 0, got) + 1
    end += 3
    text = view[:end].tobytes().decode("latin-1").lower()
    assert text.split()[1] in ("200", "206"), text
    left = int(text.partition("content-length:")[2].split()[0]) - (got - end)
    while left:
        count = sock.recv_into(view[: min(left, len(view))], 0, socket.MSG_WAITALL)
        assert count, "the server ended the connection"
        left -= count


def _serve(endpoint: str, threads: int) -> None:
    socks = [_connect(endpoint) for _ in range(threads)]
    body = memoryview(bytearray(16 * MIB))
    for line in sys.stdin:
        waiting = iter(json.loads(line))
        lock = threading.Lock()

        def work(sock: socket.socket, waiting: Any = waiting, lock: Any = lock) -> None:
            buffer = bytearray(MIB)
            while True:
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                _ask(sock, request, buffer, body)

        began = time.perf_counter()
        workers = [threading.Thread(target=work, args=(sock,)) for sock in socks]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
