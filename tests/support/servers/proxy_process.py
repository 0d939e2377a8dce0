"""The fault proxy, a process of its own: sits before a server, counts, and makes what can go wrong.

What it does is set over a second socket, see `proxy.Proxy`; it ends when its standard input does.
"""

import asyncio
import contextlib
import functools
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
from .faults import GONE, Client, Cut, Rule, Rules
from .process import HOST, free_port
from .proxy_http import Http

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


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
        self.admitting: set[asyncio.Task[None]] = set()
        self.fillers: list[socket.socket] = []
        self.held = 0
        self.changed = asyncio.Condition()
        self.gate = asyncio.Event()
        self.port = 0
        self.test = 0  # number of `begin`s; connections from before the last one are not served
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.body_down: Counter[str] = Counter()
        self.log: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.bodies: deque[tuple[str, bytes, bytes]] = deque(maxlen=32)

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
            task = asyncio.create_task(self.admit(connection, self.test))
            self.admitting.add(task)
            task.add_done_callback(self.admitting.discard)

    async def admit(self, connection: socket.socket, test: int) -> None:
        handle = functools.partial(self.handle, test)
        protocol = asyncio.StreamReaderProtocol(Reader(limit=1 << 20), handle)
        with contextlib.suppress(*GONE):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, ssl=self.tls
            )

    def drop(self, how: str = "reset") -> None:
        """End every connection there is."""
        for task, client in list(self.open_clients.items()):
            with contextlib.suppress(Cut):
                client.end(how)
            task.cancel()

    # Connections.

    async def handle(self, test: int, reader: Reader, writer: Writer) -> None:
        if test != self.test:
            writer.close()
            return
        client = Client(self.counts, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self.open_clients[task] = client
        upstream: list[Writer] = []
        try:
            match self.settings["protocol"]:
                case "s3":
                    await Http(self, client, upstream).serve()
                case "redis":
                    await self.resp(client, upstream)
                case "tcp":
                    await self.raw(client, upstream)
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

    def note(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Count a request; what is returned may be completed."""
        self.counts["requests"] += 1
        self.kinds[kind] += 1
        entry = {"kind": kind, **facts}
        self.log.append(entry)
        return entry

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
            self.counts["faults"] += bool(faults)
            client.meet(faults)
            self.counts["turns"] += waited
            self.counts["bytes_up"] += len(command)
            self.note(name, words=[word.decode("latin-1") for word in rest[:4]])
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
        for counted in (self.counts, self.kinds, self.body_down, self.log):
            counted.clear()

    async def do_begin(self) -> int:
        """Serve on another port, and nobody who knows only an earlier one."""
        self.test += 1
        await self.do_clear()
        self.drop()
        self.deaf()
        await self.do_zero()
        self.bodies.clear()
        self.port = 0
        self.listen()
        return self.port

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
