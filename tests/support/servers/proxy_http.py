"""The fault proxy's HTTP: S3's requests and answers, and what can be wrong with them."""

import asyncio
import base64
import random
import re
from typing import TYPE_CHECKING, Any

from . import wire
from .faults import Client, Rule

if TYPE_CHECKING:
    from .proxy_process import Proxy, Reader, Writer

Faults = dict[str, Rule]
KEPT = 1 << 20  # answers up to this size are remembered, to be given for another object
NEEDS_ALL = {"swap", "flip", "lost_answer", "hold", "status", "truncate"}


class Http:
    """What passes on one client's connection."""

    def __init__(self, proxy: "Proxy", client: Client, upstream: "list[Writer]") -> None:
        self.proxy, self.client, self.upstream = proxy, client, upstream

    async def serve(self) -> None:
        while head := await wire.read_head(self.client.reader):
            request = wire.Request(*head)
            faults = self.proxy.rules.met_by(request.kind, request.path)
            self.proxy.counts["faults"] += bool(faults)
            self.client.meet({})
            await self.take_body(request, faults)
            entry = self.proxy.note(
                request.kind,
                method=request.method,
                path=request.path,
                range=request.get("range"),
                sent=len(request.body),
                status=None,
                tag=None,
            )
            await self.proxy.before(self.client, faults)
            self.client.meet(faults)
            refusal = faults.get("status")
            if refusal and not refusal.get("committed"):
                entry["status"] = refusal["status"]
                await self.client.send(error_answer(refusal, request))
            else:
                self.alter_request(request, faults)
                await self.exchange(request, faults, entry)

    async def take_body(self, request: wire.Request, faults: Faults) -> None:
        if request.get("expect") and "no_continue" not in faults:
            await self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.set("Expect", None)
        empty = request.get("content-length") is None and not request.get("transfer-encoding")
        taken, cut, pace = [], faults.get("cut_upload"), faults.get("rate_upload")
        size = 0
        async for piece in wire.pieces(self.client.reader, request, empty):
            taken.append(piece)
            size += len(piece)
            self.proxy.counts["bytes_up"] += len(piece)
            if cut and size >= cut["after"]:
                self.client.end(cut.get("how", "reset"))
            if pace:
                await asyncio.sleep(len(piece) / pace["bytes_per_second"])
        request.body = b"".join(taken)
        if not empty:
            request.set("Transfer-Encoding", None)
            request.set("Content-Length", str(len(request.body)))

    def alter_request(self, request: wire.Request, faults: Faults) -> None:
        unwanted = {"range"} if "ignore_range" in faults else set()
        if "ignore_conditions" in faults:
            unwanted |= {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
        unwanted = {name for name in unwanted if request.get(name) is not None}
        for name in unwanted:
            request.set(name, None)
        if unwanted:
            keys = self.proxy.settings
            wire.sign(request, keys["access_key"], keys["secret_key"])

    async def exchange(self, request: wire.Request, faults: Faults, entry: dict[str, Any]) -> None:
        """Send a request on and its answer back.

        On a connection of its own: one that was idle may be ended by the server just as the request
        goes out, and then the client would ask, and be counted, twice.
        """
        while self.upstream:
            self.upstream.pop().close()
        reader, writer = await self.proxy.connect(self.upstream)
        writer.write(request.encode() + request.body)
        await writer.drain()
        answer = await self.answer_head(reader)
        entry["status"] = status = int(answer.first[1])
        entry["tag"] = answer.get("etag")
        empty = request.method == "HEAD" or status in (204, 304)
        body = wire.pieces(reader, answer, empty)
        length = answer.get("content-length")
        if NEEDS_ALL & set(faults) or (length is None and not empty) or int(length or 0) <= KEPT:
            data = b"".join([piece async for piece in body])
            await self.proxy.after(self.client, faults)
            await self.send_whole(request, answer, data, faults, entry)
        else:
            alter_head(answer, faults)
            await self.client.send(answer.encode())
            async for piece in body:
                self.proxy.body_down[request.kind] += len(piece)
                await self.client.send(piece)
        if (answer.get("connection") or "").lower() == "close" or answer.first[0] != "HTTP/1.1":
            self.client.end("close")

    async def answer_head(self, reader: "Reader") -> wire.Message:
        """The head of the answer, after those that only say to go on."""
        while head := await wire.read_head(reader):
            answer = wire.Message(*head)
            if int(answer.first[1]) >= 200:
                return answer
        raise ConnectionResetError

    async def send_whole(
        self,
        request: wire.Request,
        answer: wire.Message,
        data: bytes,
        faults: Faults,
        entry: dict[str, Any],
    ) -> None:
        if "status" in faults:  # the server has done it; say otherwise
            entry |= {"status": faults["status"]["status"], "tag": None}
            await self.client.send(error_answer(faults["status"], request))
            return
        if request.method != "HEAD":
            answer.set("Transfer-Encoding", None)
            answer.set("Content-Length", None if answer.first[1] == "204" else str(len(data)))
        head = None
        if request.kind == "GetObject" and answer.first[1][0] == "2":
            if "swap" in faults:
                head, data = self.swapped(request, data, faults["swap"])
            elif 0 < len(data) <= KEPT:
                self.proxy.bodies.append((request.path, answer.encode(), data))
        if "flip" in faults and data:
            at = faults["flip"].get("at", random.randrange(len(data) * 8)) % (len(data) * 8)
            data = data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
        if "truncate" in faults:
            data = data[: faults["truncate"]["after"]]
        if head is None:
            head = alter_head(answer, faults).encode()
        self.proxy.body_down[request.kind] += len(data)
        await self.client.send(head + data)
        if "truncate" in faults:
            self.client.end("close")

    def swapped(self, request: wire.Request, data: bytes, rule: Rule) -> tuple[bytes | None, bytes]:
        """Another object's answer that went by before, or only its bytes under this one's head."""
        others = [entry for entry in self.proxy.bodies if entry[0] != request.path]
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
        return None, repeated[: len(data)]


def alter_head(answer: wire.Message, faults: Faults) -> wire.Message:
    if "wrong_content_range" in faults and (span := answer.get("content-range")):
        unit, first, last, total = re.split("[ /-]", span)
        answer.set("Content-Range", f"{unit} {int(first) + 1}-{int(last) + 1}/{total}")
    for name, value in faults.get("header", {}).get("headers", {}).items():
        answer.set(name, value)
    return answer


def error_answer(rule: Rule, request: wire.Request) -> bytes:
    """An answer of our own: an error document under any status, also under 200; or a page."""
    codes = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
    code = rule.get("code", codes.get(rule["status"], "InternalError"))
    text = f"<Error><Code>{code}</Code><Message>Made by the fault proxy.</Message></Error>"
    body = ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()
    kind = "application/xml"
    if "page" in rule:
        body, kind = rule["page"].encode(), "text/html; charset=UTF-8"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    headers += list(rule.get("headers", {}).items())
    first = ["HTTP/1.1", str(rule["status"]), "Fault"]
    head = wire.Message(first, headers).encode()
    return head if request.method == "HEAD" else head + body
