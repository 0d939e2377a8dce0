"""Connections to a store: what of HTTP/1.1 they understand, and how they end."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.servers.certs import Certificate, certificate

from cogcache.backends.faults import UnavailableError
from cogcache.backends.lanes import Call
from cogcache.backends.s3 import http1
from cogcache.backends.s3.http1 import Body, Connection, Connections, Head, head_of

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

TICK = 0.02
PATIENCE = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


def over_tls(
    mine: socket.socket, theirs: socket.socket, made: Certificate
) -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection after they have agreed on its keys."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.chain, made.key)
    client = ssl.create_default_context(cafile=made.chain)
    with ThreadPoolExecutor(1) as one:
        wrapped = one.submit(server.wrap_socket, theirs, server_side=True)
        ours = client.wrap_socket(mine, server_hostname="localhost")
        return ours, wrapped.result()


@pytest.fixture(params=["plain", "tls"])
def pair(
    request: pytest.FixtureRequest, made: Certificate
) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the server's side of it."""
    mine, theirs = socket.socketpair()
    if request.param == "tls":
        mine, theirs = over_tls(mine, theirs, made)
    connection = Connection(mine, TICK)
    yield connection, theirs
    connection.close()
    theirs.close()


@pytest.fixture
def call() -> Call:
    return Call(60)


def head(connection: Connection, call: Call, patience: float = PATIENCE) -> Head:
    return connection.read_head(call, patience)


def body_of(connection: Connection, call: Call, answer: Head, kept: list[Connection]) -> Body:
    return Body(connection, answer, call, PATIENCE, kept.append)


def all_of(body: Body, size: int) -> bytes:
    """Its first bytes, or those that come before it ends."""
    room = bytearray(size)
    got = 0
    while got < size:
        count = body.readinto(memoryview(room)[got:])
        if not count:
            break
        got += count
    return bytes(room[:got])


# --- heads -------------------------------------------------------------------------------------


def test_a_head_is_its_status_its_headers_and_what_follows() -> None:
    found = head_of('HTTP/1.1 206 Partial Content\r\nETag: "x"\r\nContent-LENGTH:\t 12 ')
    assert (found.status, found.length, found.stays) == (206, 12, True)
    assert found.headers == {"etag": '"x"', "content-length": "12"}
    assert head_of("HTTP/1.1 200\r\nContent-Length: 0").length == 0
    assert not head_of("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close").stays
    assert not head_of("HTTP/1.0 200 OK\r\nContent-Length: 0").stays


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_whatever_they_say(status: int) -> None:
    assert head_of(f"HTTP/1.1 {status} x\r\nContent-Length: 5").length == 0
    assert head_of(f"HTTP/1.1 {status} x").length == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SSH-2.0-OpenSSH",
        "HTTP/2 200 OK\r\nContent-Length: 1",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 1",
        "HTTP/1.1 \u0662\u0660\u0660 OK\r\nContent-Length: 1",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
        "HTTP/1.1 200 OK\r\nContent-Length: -1",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x1",
        "HTTP/1.1 200 OK\r\nContent-Length: \u00b2",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n folded",
        "HTTP/1.1 200 OK\r\nContent-Length : 1",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nno colon",
    ],
)
def test_what_is_not_known_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        head_of(text)


def test_a_head_may_come_in_any_pieces_and_after_others(
    pair: tuple[Connection, socket.socket], call: Call
) -> None:
    connection, server = pair
    sent = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n"
    sent += b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"

    def send() -> None:
        for number in range(len(sent)):
            server.sendall(sent[number : number + 1])

    sender = threading.Thread(target=send)
    sender.start()
    answer = head(connection, call)
    assert (answer.status, answer.length) == (200, 3)
    kept: list[Connection] = []
    assert all_of(body_of(connection, call, answer, kept), 3) == b"abc"
    assert kept == [connection]
    sender.join()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nConte"])
def test_a_connection_that_ends_before_its_answer_is_an_error(
    pair: tuple[Connection, socket.socket], call: Call, sent: bytes
) -> None:
    connection, server = pair
    server.sendall(sent)
    server.close()
    with pytest.raises(ConnectionResetError):
        head(connection, call)
    assert call.heard == bool(sent)


def test_a_head_without_end_is_refused(
    pair: tuple[Connection, socket.socket], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_BYTES", 1000)
    mine, server = socket.socketpair()
    connection = Connection(mine, TICK)
    server.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2000)
    with pytest.raises(ValueError):
        head(connection, call)
    connection.close()
    server.close()


# --- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 65_000, 3 << 20])
def test_a_body_is_read_into_memory_and_its_connection_kept(
    pair: tuple[Connection, socket.socket], call: Call, size: int
) -> None:
    connection, server = pair
    sent = os.urandom(size)
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()

    def serve() -> None:
        for _ in range(2):
            assert server.recv(100) == b"question"
            server.sendall(answer + sent)

    serving = threading.Thread(target=serve)
    serving.start()
    kept: list[Connection] = []
    for turn in range(2):
        connection.send(call, PATIENCE, b"question", [])
        body = body_of(connection, call, head(connection, call), kept)
        assert all_of(body, size) == sent
        assert body.readinto(memoryview(bytearray(1))) == 0
        assert kept == [connection] * (turn + 1)
    serving.join()


def test_a_connection_with_more_than_the_answer_is_not_kept(
    pair: tuple[Connection, socket.socket], call: Call
) -> None:
    connection, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK")
    kept: list[Connection] = []
    assert all_of(body_of(connection, call, head(connection, call), kept), 5) == b"ab"
    assert not kept
    assert server.recv(1) == b""


@pytest.mark.parametrize("close", [True, False])
def test_a_body_that_is_not_read_to_its_end_ends_its_connection(
    pair: tuple[Connection, socket.socket], call: Call, close: bool
) -> None:
    connection, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    kept: list[Connection] = []
    body = body_of(connection, call, head(connection, call), kept)
    if close:
        body.close()
    else:
        server.shutdown(socket.SHUT_WR)
        assert all_of(body, 9) == b"abc"
    assert not kept
    while server.recv(100):  # TLS says something about it
        pass


def test_a_body_that_says_the_connection_ends_is_whole_all_the_same(
    pair: tuple[Connection, socket.socket], call: Call
) -> None:
    connection, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc")
    kept: list[Connection] = []
    assert all_of(body_of(connection, call, head(connection, call), kept), 3) == b"abc"
    assert not kept


@pytest.mark.parametrize("size", [0, 10, 5 << 20])
def test_a_request_is_sent_whole(
    pair: tuple[Connection, socket.socket], call: Call, size: int
) -> None:
    connection, server = pair
    sent = bytearray(os.urandom(size))
    taken = bytearray()

    def take() -> None:
        while len(taken) < 4 + size:
            taken.extend(server.recv(1 << 20))

    taker = threading.Thread(target=take)
    taker.start()
    connection.send(call, PATIENCE, b"head", [memoryview(sent)])
    taker.join()
    assert taken == b"head" + sent


def test_an_idle_connection_shows_whether_the_server_ended_it(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, server = pair
    assert connection.is_open() and connection.is_open()
    server.close()
    assert not connection.is_open()


# --- ends of patience --------------------------------------------------------------------------


def test_who_is_abandoned_ends_at_the_next_look(
    pair: tuple[Connection, socket.socket], call: Call
) -> None:
    connection, _ = pair
    threading.Timer(2 * TICK, setattr, (call, "abandoned", True)).start()
    with pytest.raises(UnavailableError):
        head(connection, call)
    with pytest.raises(UnavailableError):
        connection.send(call, PATIENCE, b"head", [memoryview(bytes(64 << 20))])


def test_a_deadline_holds_while_a_body_is_awaited(pair: tuple[Connection, socket.socket]) -> None:
    connection, server = pair
    call = Call(60)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    body = body_of(connection, call, head(connection, call), [])
    assert body.readinto(memoryview(bytearray(9))) == 3
    call.deadline = 0.0
    with pytest.raises(UnavailableError):
        body.readinto(memoryview(bytearray(9)))


@pytest.mark.parametrize("sending", [True, False])
def test_patience_ends_where_nothing_moves(
    pair: tuple[Connection, socket.socket], call: Call, sending: bool
) -> None:
    connection, _ = pair
    with pytest.raises(TimeoutError):
        if sending:
            connection.send(call, TICK, b"head", [memoryview(bytes(64 << 20))])
        else:
            head(connection, call, TICK)
    assert not call.heard


# --- connections that are kept -----------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connections_to(server: socket.socket) -> Connections:
    return Connections("127.0.0.1", server.getsockname()[1], None, TICK)


@pytest.mark.parametrize("look", [0.0, 60.0])
def test_a_connection_is_used_again(
    server: socket.socket, call: Call, monkeypatch: pytest.MonkeyPatch, look: float
) -> None:
    monkeypatch.setattr(http1, "LOOK_SECONDS", look)
    kept = connections_to(server)
    first, second = kept.take(call, 60), kept.take(call, 60)
    assert first is not second
    kept.give_back(first)
    assert kept.take(call, 60) is first
    first.send(call, PATIENCE, b"still there", [])
    accepted, _ = server.accept()
    assert accepted.recv(11) == b"still there"
    for each in (first, second, accepted):
        each.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_one_that_the_server_ended_while_it_was_idle_is_replaced(
    server: socket.socket, call: Call, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(http1, "LOOK_SECONDS", 0.0)
    kept = connections_to(server)
    first = kept.take(call, 60)
    accepted, _ = server.accept()
    accepted.sendall(said)
    accepted.close()
    while first.is_open():  # until the news is here
        pass
    kept.give_back(first)
    again = kept.take(call, 60)
    assert again is not first
    again.close()


def test_only_so_many_are_kept_and_none_after_the_end(server: socket.socket, call: Call) -> None:
    kept = connections_to(server)
    taken = [kept.take(call, 60) for _ in range(http1.KEPT + 3)]
    for one in taken:
        kept.give_back(one)
    assert len(kept._idle) == http1.KEPT
    kept.close()
    assert not kept._idle
    kept.give_back(kept.take(call, 60))
    assert not kept._idle


def test_a_forked_child_connects_anew(server: socket.socket, call: Call) -> None:
    kept = connections_to(server)
    first = kept.take(call, 60)
    parent, _ = server.accept()
    kept.give_back(first)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            own = kept.take(call, 60)
            own.send(call, PATIENCE, b"from the child", [])
            status = 0 if own is not first else 2
        finally:
            os._exit(status)
    child, _ = server.accept()
    assert child.recv(100) == b"from the child"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert kept.take(call, 60) is first
    first.send(call, PATIENCE, b"from the parent", [])
    assert parent.recv(100) == b"from the parent"
    for each in (first, parent, child):
        each.close()
