"""The faults that the proxy makes: which request meets which, and how a connection suffers them."""

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections import Counter
from typing import Any

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

    def __init__(
        self, counts: Counter[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.counts, self.reader, self.writer = counts, reader, writer
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
            self.writer.write(piece)
            self.sent += len(piece)
            self.counts["bytes_down"] += len(piece)
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
