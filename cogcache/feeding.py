"""Where the bytes of a stream come from: whatever gives bytes, read once, in pieces of one size."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from types import GeneratorType
from typing import Any, Final, TypeVar

from cogcache._inline import is_inline
from cogcache._offload import beside

__all__ = ["PIECE_BYTES", "StreamSource", "as_given", "known_length", "pieces_of"]

T = TypeVar("T")

PIECE_BYTES: Final = 1 << 20  # of one piece; less only at the end
_END: Any = object()

StreamSource = Any
"""Bytes-like; anything with ``read(n)``, plain or asynchronous; a socket; an iterable or
asynchronous iterable of bytes-like pieces."""


def known_length(source: StreamSource) -> int | None:
    """How many bytes will come, where that is certain."""
    view = _as_bytes(source)
    return None if view is None else len(view)


async def pieces_of(source: StreamSource) -> AsyncGenerator[memoryview, None]:
    """The bytes of ``source`` in pieces of 1 MiB, whatever it gives them in.

    A piece is valid until the next one is asked for. What blocks is called in a thread. A generator
    is closed when its pieces are no longer wanted; files and sockets stay the caller's.

    Raises:
        TypeError: It is none of the kinds, or gives something else than bytes.
        Exception: Whatever it raises itself.
    """
    held = bytearray()
    async with contextlib.aclosing(_raw(source)) as raw:
        async for given in raw:
            view = _piece(given)
            at = 0
            if held:
                at = PIECE_BYTES - len(held)
                held += view[:at]
                if len(held) < PIECE_BYTES:
                    continue
                yield memoryview(held)
                held = bytearray()
            while len(view) - at >= PIECE_BYTES:
                yield view[at : at + PIECE_BYTES]
                at += PIECE_BYTES
            held += view[at:]
    if held:
        yield memoryview(held)


async def as_given(source: StreamSource) -> AsyncGenerator[bytes, None]:
    """The bytes of ``source`` as soon as it gives them, in pieces of at most 1 MiB that stay valid.

    Raises:
        TypeError: See ``pieces_of``.
        Exception: Whatever the source raises itself.
    """
    async with contextlib.aclosing(_raw(source, at_once=True)) as raw:
        async for given in raw:
            if isinstance(given, bytes) and 0 < len(given) <= PIECE_BYTES:
                yield given
                continue
            view = _piece(given)
            for at in range(0, len(view), PIECE_BYTES):
                yield bytes(view[at : at + PIECE_BYTES])


async def _raw(source: StreamSource, *, at_once: bool = False) -> AsyncGenerator[Any, None]:
    view = _as_bytes(source)
    if view is not None:
        yield view
        return
    async with contextlib.aclosing(_read_in(source, at_once)) as pieces:
        async for piece in pieces:
            yield piece


def _read_in(source: StreamSource, at_once: bool) -> AsyncGenerator[Any, None]:
    """The way to read a source of this kind; ``at_once`` waits for no more than it has."""
    read = getattr(source, "read1", None) if at_once else None
    read = read if callable(read) else getattr(source, "read", None)
    if callable(read):
        return _from_read(read)
    if callable(getattr(source, "recv", None)):
        return _from_socket(source)
    if isinstance(source, AsyncIterable):
        return _from_async(source)
    if isinstance(source, Iterable) and not isinstance(source, str):
        return _from_iterable(source, 1 if at_once else PIECE_BYTES)
    raise TypeError(
        f"source must be bytes, a file, a socket or an iterator of bytes, not "
        f"{type(source).__name__}"
    )


async def _from_read(read: Callable[[int], Any]) -> AsyncGenerator[Any, None]:
    if inspect.iscoroutinefunction(read):
        _refuse_inline()
        while data := await read(PIECE_BYTES):
            yield data
        return
    while True:
        data = await _blocking(lambda: read(PIECE_BYTES))
        if inspect.isawaitable(data):
            _refuse_inline(data)
            data = await data
        if data is None:
            raise BlockingIOError("source: read() found nothing; give one that waits for its bytes")
        if not data:
            return
        yield data


async def _from_socket(sock: Any) -> AsyncGenerator[Any, None]:
    waits = not hasattr(sock, "gettimeout") or sock.gettimeout() != 0
    while True:
        if waits or is_inline():
            data = await _blocking(lambda: sock.recv(PIECE_BYTES))
        else:
            data = await asyncio.get_running_loop().sock_recv(sock, PIECE_BYTES)
        if not data:
            return
        yield data


async def _from_async(source: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    _refuse_inline()
    items: AsyncIterator[Any] = aiter(source)
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _from_iterable(source: Iterable[Any], least: int) -> AsyncGenerator[Any, None]:
    items = iter(source)

    def take() -> tuple[list[Any], bool]:
        """Items of ``least`` bytes in all: one visit to a thread for many small ones. Those before
        an error come to nothing, as the whole stream does.
        """
        taken: list[Any] = []
        size = 0
        while size < least:
            item = next(items, _END)
            if item is _END:
                return taken, True
            view = _piece(item)
            alone = not taken and len(view) >= PIECE_BYTES  # else its buffer may be used again
            taken.append(view if alone else bytes(view))
            size += len(view)
        return taken, False

    ended = False
    try:
        while not ended:
            taken, ended = await _blocking(take)
            for item in taken:
                yield item
    finally:
        if isinstance(items, GeneratorType):
            with contextlib.suppress(ValueError):  # it runs, in a thread that nobody waits for
                items.close()


async def _blocking(call: Callable[[], T]) -> T:
    return await beside(lambda beat: call())


def _refuse_inline(begun: Any = None) -> None:
    if is_inline():
        if inspect.iscoroutine(begun):
            begun.close()
        raise TypeError(
            "source is asynchronous: await put_stream() for it; .sync takes bytes, files, sockets "
            "and plain iterators"
        )


def _as_bytes(source: StreamSource) -> memoryview | None:
    try:
        return memoryview(source).cast("B")
    except TypeError:
        return None


def _piece(given: Any) -> memoryview:
    view = _as_bytes(given)
    if view is None:
        hint = "; open the file with 'rb'" if isinstance(given, str) else ""
        raise TypeError(f"source gave a piece of {type(given).__name__}, not bytes{hint}")
    return view
