"""The fault proxy, a process of its own: sits before a server, counts, and makes what can go wrong.

What it does is set over a second socket, see `proxy.Proxy`; it ends when its standard input does.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import socket
import ssl
import sys
import traceback
from collections import Counter, deque
from typing import Any

from . import wire
from .process import HOST, free_port

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Rule = dict[str, Any]
GONE = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


class Cut(Exception):
    """This connection is to end now."""


class Rules:
    """The faults that are set, and which of them a request meets."""

    def __init__(self) -> None:
        self.all: dict[int, Rule] = {}
        self.numbers = itertools.count(1)

    def add(self, rule: Rule) -> int:
        number = next(self.numbers)
        self.all[number] = {"seen": 0, "done": 0, **rule}
        return number

    def met_by(self, kind: str, path: str = "") -> dict[str, Rule]:
        """The rules for a request of this kind by fault; each is counted as met once more."""
        met = {}
        for rule in list(self.all.values()):
            if rule.get("kind") not in (None, kind) or rule.get("path", "") not in path:
                continue
            rule["seen"] += 1
            due = rule["seen"] > rule.get("skip", 0)
            due = due and (rule["seen"] - rule.get("skip", 0) - 1) % rule.get("every", 1) == 0
            if due and rule["done"] < rule.get("times", float("inf")):
                rule["done"] += 1
                met[rule["fault"]] = rule
        return met

    def switch(self, fault: str) -> Rule | None:
        """A rule that holds for the whole proxy while it is set."""
        return next((rule for rule in self.all.values() if rule["fault"] == fault), None)


class Client:
    """A client's connection: what is sent to it goes through the faults of its speed and end."""

    def __init__(self, proxy: "Proxy", reader: Reader, writer: Writer) -> None:
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.faults: dict[str, Rule] = {}
        self.sent = 0

    def meet(self, faults: dict[str, Rule]) -> None:
        self.faults, self.sent = faults, 0

    async def send(self, data: bytes) -> None:
        cut, pace = self.faults.get("cut"), self.faults.get("rate")
        view = memoryview(data)
        step = len(view) or 1
        if pace:
            step = max(int(pace["bytes_per_second"] * pace.get("seconds", 0.05)), 1)
        for at in range(0, len(view), step):
            piece = view[at : at + step]
            if cut:
                piece = piece[: max(cut["after"] - self.sent, 0)]
            self.writer.write(bytes(piece))
            self.sent += len(piece)
            self.proxy.counts["bytes_down"] += len(piece)
            await self.writer.drain()
            if cut and self.sent >= cut["after"]:
                self.end(cut.get("how", "reset"))
            if pace:
                await asyncio.sleep(len(piece) / pace["bytes_per_second"])

    def end(self, how: str = "reset") -> None:
        """Close this connection, or reset it, and leave its handler."""
        if how == "reset":
            sock = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.writer.transport.abort()
        else:
            self.writer.close()
        raise Cut


class Proxy:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.rules = Rules()
        self.tls: ssl.SSLContext | None = None
        if settings.get("certificate"):
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*settings["certificate"])
        self.open_clients: dict[asyncio.Task[None], Client] = {}
        self.listener: socket.socket | None = None
        self.accepting: asyncio.Task[None] | None = None
        self.fillers: list[socket.socket] = []
        self.held = 0
        self.changed = asyncio.Condition()
        self.gate = asyncio.Event()
        self.port = 0
        self.zero()

    def zero(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.body_down: Counter[str] = Counter()
        self.log: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.bodies: deque[tuple[str, wire.Message, bytes]] = deque(maxlen=32)

    # The listening socket.

    def listen(self) -> None:
        if self.listener is not None:
            return
        port = self.port
        while True:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.setblocking(False)
            try:
                self.listener.bind((HOST, port or free_port()))
                break
            except OSError:
                self.listener.close()
                if port:
                    raise
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.accepting = asyncio.create_task(self.accept(self.listener))

    def deaf(self) -> None:
        """No longer listen: connections are refused."""
        for filler in self.fillers:
            filler.close()
        self.fillers.clear()
        if self.accepting is not None:
            self.accepting.cancel()
        if self.listener is not None:
            self.listener.close()
        self.accepting = self.listener = None

    def unanswering(self) -> None:
        """Leave connections unanswered: nobody accepts, and the queue is full."""
        self.listen()
        assert self.listener is not None and self.accepting is not None
        self.accepting.cancel()
        self.listener.listen(0)
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((HOST, self.port))
            self.fillers.append(filler)

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.counts["connections"] += 1
            reader = Reader(limit=1 << 20)
            protocol = asyncio.StreamReaderProtocol(reader, self.handle)
            await asyncio.gather(
                loop.connect_accepted_socket(lambda made=protocol: made, connection, ssl=self.tls),
                return_exceptions=True,
            )

    def drop(self, how: str = "reset") -> None:
        """End every connection there is."""
        for task, client in list(self.open_clients.items()):
            with contextlib.suppress(Cut):
                client.end(how)
            task.cancel()

    # Connections.

    async def handle(self, reader: Reader, writer: Writer) -> None:
        client = Client(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self.open_clients[task] = client
        speak = {"s3": self.http, "redis": self.resp, "tcp": self.raw}[self.settings["protocol"]]
        upstream: list[Writer] = []
        try:
            await speak(client, upstream)
        except (Cut, *GONE):
            pass
        except asyncio.CancelledError:
            pass
        except Exception:
            self.counts["errors"] += 1
            traceback.print_exc()
        finally:
            self.open_clients.pop(task, None)
            for open_writer in (writer, *upstream):
                with contextlib.suppress(*GONE):
                    open_writer.close()

    async def connect(self, upstream: list[Writer]) -> tuple[Reader, Writer]:
        """Connect to the server behind; a client of a server that is down is reset."""
        try:
            reader, writer = await asyncio.open_connection(
                HOST, self.settings["upstream"], limit=1 << 20
            )
        except OSError:
            raise ConnectionResetError from None
        upstream.append(writer)
        return reader, writer

    async def before(self, client: Client, faults: dict[str, Rule]) -> None:
        """Faults that come before a request goes on."""
        if self.rules.switch("black_hole"):
            await asyncio.Event().wait()
        if "delay" in faults:
            rule = faults["delay"]
            await asyncio.sleep(rule["seconds"] + random.random() * rule.get("jitter", 0.0))
        if faults.get("hold", {}).get("where") == "before":
            await self.hold()
        if "drop" in faults:
            client.end(faults["drop"].get("how", "reset"))

    async def after(self, client: Client, faults: dict[str, Rule]) -> None:
        """Faults that come when the server has answered and the client has not heard of it."""
        if faults.get("hold", {}).get("where") == "after":
            await self.hold()
        if "lost_answer" in faults:
            client.end(faults["lost_answer"].get("how", "reset"))

    async def hold(self) -> None:
        async with self.changed:
            self.held += 1
            self.changed.notify_all()
        gate = self.gate
        try:
            await gate.wait()
        finally:
            self.held -= 1

    async def raw(self, client: Client, upstream: list[Writer]) -> None:
        faults = self.rules.met_by("connection")
        client.meet(faults)
        await self.before(client, faults)
        reader, writer = await self.connect(upstream)

        async def up() -> None:
            while data := await client.reader.read(wire.PIECE):
                await self.before(client, {})
                self.counts["bytes_up"] += len(data)
                writer.write(data)
                await writer.drain()

        async def down() -> None:
            while data := await reader.read(wire.PIECE):
                await client.send(data)

        await self.first_of(up(), down())

    @staticmethod
    async def first_of(*ways: Any) -> None:
        """Run both ways until one ends; then end the other."""
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def resp(self, client: Client, upstream: list[Writer]) -> None:
        reader, writer = await self.connect(upstream)
        while True:
            waited = not client.reader._buffer  # type: ignore[attr-defined]
            command = await wire.read_reply(client.reader)
            kind, *rest = wire.words(command)
            name = kind.decode("latin-1").upper()
            faults = self.rules.met_by(name, (rest[0] if rest else b"").decode("latin-1"))
            client.meet(faults)
            self.counts["turns"] += waited
            self.counts["requests"] += 1
            self.counts["bytes_up"] += len(command)
            self.kinds[name] += 1
            self.log.append({"kind": name, "words": [w.decode("latin-1") for w in rest[:4]]})
            await self.before(client, faults)
            if "error" in faults:
                await client.send(f"-{faults['error']['text']}\r\n".encode())
                continue
            writer.write(command)
            await writer.drain()
            if name in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"):
                return await self.pump(client, reader, writer)
            answer = await wire.read_reply(reader)
            while answer[:1] == b">":
                await client.send(answer)
                answer = await wire.read_reply(reader)
            self.body_down[name] += len(answer)
            await self.after(client, faults)
            await client.send(answer)

    async def pump(self, client: Client, reader: Reader, writer: Writer) -> None:
        """A connection on which messages come unasked: as it is from here on."""

        async def up() -> None:
            while data := await client.reader.read(wire.PIECE):
                writer.write(data)

        async def down() -> None:
            while data := await reader.read(wire.PIECE):
                await client.send(data)

        await self.first_of(up(), down())

    # HTTP.

    async def http(self, client: Client, upstream: list[Writer]) -> None:
        behind: tuple[Reader, Writer] | None = None
        while head := await wire.read_head(client.reader):
            request = wire.Request(*head)
            faults = self.rules.met_by(request.kind, request.path)
            client.meet({})
            await self.take_body(client, request, faults)
            entry = {
                "method": request.method,
                "kind": request.kind,
                "path": request.path,
                "range": request.get("range"),
                "sent": len(request.body),
                "status": None,
            }
            self.counts["requests"] += 1
            self.kinds[request.kind] += 1
            self.log.append(entry)
            await self.before(client, faults)
            client.meet(faults)
            if "status" in faults and not faults["status"].get("committed"):
                await self.refuse(client, request, faults["status"], entry)
                continue
            self.alter_request(request, faults)
            if behind is None or behind[0].at_eof():
                behind = await self.connect(upstream)
            stays = await self.exchange(client, request, behind, faults, entry)
            if not stays:
                behind = None

    async def take_body(self, client: Client, request: wire.Request, faults: Any) -> None:
        if request.get("expect") and "no_continue" not in faults:
            await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.set("Expect", None)
        empty = request.get("content-length") is None and not request.get("transfer-encoding")
        taken, cut, pace = [], faults.get("cut_upload"), faults.get("rate_upload")
        size = 0
        async for piece in wire.pieces(client.reader, request, empty):
            taken.append(piece)
            size += len(piece)
            self.counts["bytes_up"] += len(piece)
            if cut and size >= cut["after"]:
                client.end(cut.get("how", "reset"))
            if pace:
                await asyncio.sleep(len(piece) / pace["bytes_per_second"])
        request.body = b"".join(taken)
        if not empty:
            request.set("Transfer-Encoding", None)
            request.set("Content-Length", str(len(request.body)))

    def alter_request(self, request: wire.Request, faults: dict[str, Rule]) -> None:
        unwanted = []
        if "ignore_conditions" in faults:
            unwanted += ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]
        if "ignore_range" in faults:
            unwanted.append("range")
        unwanted = [name for name in unwanted if request.get(name) is not None]
        for name in unwanted:
            request.set(name, None)
        if unwanted:
            wire.sign(request, self.settings["access_key"], self.settings["secret_key"])

    async def refuse(self, client: Client, request: wire.Request, rule: Rule, entry: Any) -> None:
        """Answer in the server's place, with an error as S3 words it."""
        entry["status"] = rule["status"]
        await client.send(error_answer(rule, request))

    async def exchange(
        self,
        client: Client,
        request: wire.Request,
        behind: tuple[Reader, Writer],
        faults: dict[str, Rule],
        entry: dict[str, Any],
    ) -> bool:
        """Send a request on and its answer back; False: that connection cannot be used again."""
        reader, writer = behind
        writer.write(request.encode() + request.body)
        await writer.drain()
        while True:
            head = await wire.read_head(reader)
            if head is None:
                client.end()
            assert head is not None
            answer = wire.Message(*head)
            status = int(answer.first[1])
            if status >= 200:
                break
        entry["status"] = status
        empty = request.method == "HEAD" or status in (204, 304)
        body = wire.pieces(reader, answer, empty)
        whole = {"swap", "flip", "lost_answer", "hold", "status", "truncate"} & set(faults)
        length = answer.get("content-length")
        if whole or (length is None and not empty) or int(length or 0) <= wire.PIECE:
            data = b"".join([piece async for piece in body])
            await self.after(client, faults)
            if "status" in faults:
                entry["status"] = faults["status"]["status"]
                await client.send(error_answer(faults["status"], request))
                return keeps(answer)
            answer, data = self.alter_answer(request, answer, data, faults, empty)
            self.body_down[request.kind] += len(data)
            await client.send(answer.encode() + data)
            if "truncate" in faults:
                client.end("close")
        else:
            answer, _ = self.alter_answer(request, answer, b"", faults, True)
            await client.send(answer.encode())
            async for piece in body:
                self.body_down[request.kind] += len(piece)
                await client.send(piece)
        if not keeps(answer):
            client.end("close")
        return True

    def alter_answer(
        self, request: wire.Request, answer: wire.Message, data: bytes, faults: Any, headless: bool
    ) -> tuple[wire.Message, bytes]:
        if not headless:
            answer.set("Transfer-Encoding", None)
            answer.set("Content-Length", str(len(data)))
        if request.kind == "GetObject" and answer.first[1][0] == "2" and not headless:
            if "swap" in faults:
                answer, data = self.swapped(request, answer, data, faults["swap"])
            elif data:
                self.bodies.append((request.path, answer, data))
        if "flip" in faults and data:
            at = faults["flip"].get("at", random.randrange(len(data) * 8)) % (len(data) * 8)
            data = data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
        if "truncate" in faults:
            data = data[: faults["truncate"]["after"]]
        if "wrong_content_range" in faults and (span := answer.get("content-range")):
            unit, _, rest = span.partition(" ")
            ends, _, total = rest.partition("/")
            first, _, last = ends.partition("-")
            answer.set("Content-Range", f"{unit} {int(first) + 1}-{int(last) + 1}/{total}")
        for name, value in faults.get("header", {}).get("headers", {}).items():
            answer.set(name, value)
        return answer, data

    def swapped(
        self, request: wire.Request, answer: wire.Message, data: bytes, rule: Rule
    ) -> tuple[wire.Message, bytes]:
        """Another object's answer that went by before, or only its bytes under this one's head."""
        others = [entry for entry in self.bodies if entry[0] != request.path]
        same = [entry for entry in others if len(entry[2]) == len(data)]
        if rule.get("body") is not None:
            other = base64.b64decode(rule["body"])
        elif others:
            _, head, other = (same or others)[-1]
            if rule.get("whole"):
                return head, other
        else:
            raise AssertionError("swap: no other object's answer went through this proxy before")
        repeated = other * (len(data) // max(len(other), 1) + 1)
        return answer, repeated[: len(data)]

    # The second socket.

    async def control(self, reader: Reader, writer: Writer) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            try:
                answer = await getattr(self, "do_" + request.pop("do"))(**request)
            except Exception as error:
                answer = {"error": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def do_set(self, **rule: Any) -> int:
        number = self.rules.add(rule)
        if rule["fault"] == "refuse":
            self.deaf()
            self.drop()
        elif rule["fault"] == "unanswered":
            self.unanswering()
        return number

    async def do_clear(self, number: int | None = None) -> None:
        gone = [self.rules.all.pop(number)] if number else list(self.rules.all.values())
        if not number:
            self.rules.all.clear()
        faults = {rule["fault"] for rule in gone}
        if faults & {"refuse", "unanswered"}:
            self.deaf()
            self.listen()
        if "black_hole" in faults:
            self.drop()
        if "hold" in faults:
            await self.do_release()

    async def do_counts(self) -> dict[str, Any]:
        return {
            "connections": 0,
            "requests": 0,
            "bytes_up": 0,
            "bytes_down": 0,
            "turns": 0,
            "errors": 0,
            **self.counts,
            "open": len(self.open_clients),
            "held": self.held,
            "kinds": dict(self.kinds),
            "body_down": dict(self.body_down),
        }

    async def do_requests(self) -> list[dict[str, Any]]:
        return list(self.log)

    async def do_zero(self) -> None:
        self.zero()

    async def do_drop(self, how: str = "reset") -> None:
        self.drop(how)

    async def do_release(self) -> None:
        self.gate.set()
        self.gate = asyncio.Event()

    async def do_wait_held(self, number: int, seconds: float) -> int:
        async def enough() -> None:
            async with self.changed:
                await self.changed.wait_for(lambda: self.held >= number)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough(), seconds)
        return self.held


def keeps(answer: wire.Message) -> bool:
    """Whether the connection stays open after this answer."""
    return (answer.get("connection") or "").lower() != "close" and answer.first[0] == "HTTP/1.1"


def error_answer(rule: Rule, request: wire.Request) -> bytes:
    """An answer of our own: an error document under any status, also under 200."""
    codes = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
    code = rule.get("code", codes.get(rule["status"], "InternalError"))
    text = f"<Error><Code>{code}</Code><Message>Made by the fault proxy.</Message></Error>"
    body = ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    headers += list(rule.get("headers", {}).items())
    first = ["HTTP/1.1", str(rule["status"]), "Fault"]
    head = wire.Message(first, headers).encode()
    return head if request.method == "HEAD" else head + body


async def main() -> None:
    loop = asyncio.get_running_loop()
    proxy = Proxy(json.loads(sys.stdin.readline()))
    proxy.listen()
    control = await asyncio.start_server(proxy.control, HOST, 0)
    sys.stdout.write(
        json.dumps({"port": proxy.port, "control": control.sockets[0].getsockname()[1]}) + "\n"
    )
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
