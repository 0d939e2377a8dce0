"""The server of docs/examples, asked by curl and, where there is one, by a real browser."""

from __future__ import annotations

import asyncio
import runpy
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import filesystem_manager

from cogcache import CacheManager
from cogcache.frames import make_bundle

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install aiohttp")
from aiohttp import web

ROOT = Path(__file__).parent.parent.parent
CHUNK = 5_242_880
CLIP = np.random.default_rng(3).bytes(CHUNK + 300_777)
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Served:
    """A running server: its cache, its address, and what was asked of it."""

    def __init__(self, cache: CacheManager) -> None:
        self.cache = cache
        self.url = ""
        self.ranges: list[tuple[str, str | None, int]] = []
        self.said: asyncio.Queue[str] = asyncio.Queue()

    async def curl(self, *options: str, path: str = "clip", body: bool = True) -> Any:
        process = await asyncio.create_subprocess_exec(
            "curl",
            "-sS",
            *(("-D", "-") if body else ()),
            *options,
            f"{self.url}/{path}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err
        head, _, content = out.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        return int(lines[0].split()[1]), headers, content


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    cache = filesystem_manager(tmp_path / "cache")
    await cache.put_stream("clip", iter([CLIP]), content_type="video/mp4")
    here = Served(cache)
    app = runpy.run_path(str(ROOT / "docs/examples/serve_values.py"))["make_app"](cache)

    @web.middleware
    async def watch(request: web.Request, handler: Any) -> Any:
        if request.path == "/said":
            here.said.put_nowait(request.query["text"])
            return web.Response()
        response = await handler(request)
        here.ranges.append((request.path, request.headers.get("Range"), response.status))
        return response

    app.middlewares.append(watch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    here.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield here
    await runner.cleanup()
    await cache.aclose()


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("0-499", 0, 500),
        (f"{CHUNK - 1}-{CHUNK}", CHUNK - 1, CHUNK + 1),
        (f"{CHUNK + 5}-", CHUNK + 5, len(CLIP)),
        ("-500", len(CLIP) - 500, len(CLIP)),
        (f"{len(CLIP) - 3}-999999999", len(CLIP) - 3, len(CLIP)),
    ],
)
async def test_curl_gets_exactly_its_range(
    served: Served, asked: str, start: int, stop: int
) -> None:
    status, headers, content = await served.curl("-r", asked)
    assert status == 206
    assert content == CLIP[start:stop]
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CLIP)}"
    assert headers["content-type"] == "video/mp4"


async def test_the_whole_value_its_head_and_what_is_not_there(served: Served) -> None:
    status, headers, content = await served.curl()
    assert (status, content) == (200, CLIP)
    assert headers["accept-ranges"] == "bytes"
    head = await served.curl("-I", body=False)
    assert (head[0], head[1]["content-length"]) == (200, str(len(CLIP)))
    assert (await served.curl(path="absent"))[0] == 404
    status, headers, _ = await served.curl("-r", f"{len(CLIP)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(CLIP)}")
    etag = (await served.curl("-r", "0-0"))[1]["etag"]
    assert (await served.curl("-H", f"If-None-Match: {etag}"))[0] == 304


async def test_curl_goes_on_where_it_stopped(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(CLIP[: CHUNK + 99])
    await served.curl("-C", "-", "-o", str(target))
    assert target.read_bytes() == CLIP
    while not served.ranges:  # it is told when the whole answer is out, which curl has before
        await asyncio.sleep(0)
    assert served.ranges == [("/clip", f"bytes={CHUNK + 99}-", 206)]


async def test_a_range_of_what_was_replaced_is_the_whole_of_what_is_there(served: Served) -> None:
    etag = (await served.curl("-r", "0-0"))[1]["etag"]
    same = await served.curl("-r", "5-9", "-H", f"If-Range: {etag}")
    assert (same[0], same[2]) == (206, CLIP[5:10])
    await served.cache.put_stream("clip", b"another clip")
    other = await served.curl("-r", "5-9", "-H", f"If-Range: {etag}")
    assert (other[0], other[2]) == (200, b"another clip")


async def test_single_frames_of_a_bundle(served: Served) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    frames = [np.full((32, 48, 3), shade, np.uint8) for shade in (10, 120, 230)]
    metadata = [{"frame_id": number} for number in range(3)]
    await served.cache.set("frames", make_bundle(metadata, frames))
    status, headers, picture = await served.curl(path="frames?part=frame/1")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert picture[:2] == b"\xff\xd8"
    status, _, part = await served.curl("-r", "2-9", path="frames?part=frame/1")
    assert (status, part) == (206, picture[2:10])


async def test_a_client_that_goes_away_leaves_nothing_running(served: Served) -> None:
    before = asyncio.all_tasks()
    address = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address[0], int(address[1]))
    writer.write(b"GET /clip HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    writer.transport.abort()
    while asyncio.all_tasks() - before:
        await asyncio.sleep(0)


PAGE = """<!doctype html><title>x</title><body><audio id=a preload=auto src=sound></audio><script>
async function hex(buffer) {
  return Array.from(new Uint8Array(buffer)).map(b => b.toString(16).padStart(2, "0")).join("");
}
(async () => {
  const answer = await fetch("clip", {headers: {Range: "bytes=1000-1015"}});
  const got = await hex(await answer.arrayBuffer());
  const sound = document.getElementById("a");
  const seeked = new Promise(done => { sound.onseeked = () => done("seeked"); });
  if (sound.readyState < 1) await new Promise(done => { sound.onloadedmetadata = done; });
  sound.currentTime = sound.duration - 1;
  const how = await seeked;
  return [answer.status, got, how, Math.round(sound.currentTime)].join(" ");
})().catch(String).then(text => fetch("said?text=" + encodeURIComponent(text)));
</script>"""


def wave(seconds: int) -> bytes:
    """A silent sound, as a WAV file."""
    size = seconds * 96_000
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 48_000, 96_000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
        + bytes(size)
    )


@pytest.mark.skipif(BROWSER is None, reason="no browser (chromium) is installed")
async def test_a_browser_fetches_a_range_and_seeks_in_a_sound(
    served: Served, tmp_path: Path
) -> None:
    sound = wave(300)
    await served.cache.put_stream("sound", sound, content_type="audio/wav")
    await served.cache.put_stream("page", PAGE.encode(), content_type="text/html")
    process = await asyncio.create_subprocess_exec(
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--autoplay-policy=no-user-gesture-required",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--remote-debugging-port=0",  # so that it stays until it is ended
        f"{served.url}/page",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said = await asyncio.wait_for(served.said.get(), 300)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    assert said == f"206 {CLIP[1000:1016].hex()} seeked 299"
    asked = [text for path, text, status in served.ranges if path == "/sound" and status == 206]
    assert asked and all(text is not None for text in asked)
