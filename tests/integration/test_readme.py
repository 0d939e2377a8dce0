"""The code of README's first screen is run as it stands there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]


async def test_the_code_of_the_first_screen_computes_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text("utf-8"), re.S)
    monkeypatch.setenv("HOME", str(tmp_path))
    calls: Counter[str] = Counter()
    picture = b"\xff\xd8\xff\xe0 a picture \xff\xd9"

    def extract_keyframes(path: Path) -> Any:
        calls["keyframes"] += 1
        return {"keyframes": [{"frame_id": 0, "timestamp": 0.0}]}, {"0": picture}

    def transcribe(path: Path) -> Any:
        calls["transcript"] += 1
        return {"segments": []}

    def describe(pictures: Any) -> Any:
        calls["descriptions"] += 1
        return {"descriptions": {i: f"{len(pictures[i])} bytes" for i in pictures}}

    names: dict[str, Any] = {
        "extract_keyframes": extract_keyframes,
        "transcribe": transcribe,
        "describe": describe,
    }
    exec(compile(code, "README.md", "exec"), names)
    video, copy = tmp_path / "talk.mp4", tmp_path / "elsewhere.mp4"
    video.write_bytes(b"a video")
    copy.write_bytes(b"a video")
    try:
        first = await names["ingest"](video)
        assert calls == {"keyframes": 1, "transcript": 1, "descriptions": 1}
        assert await names["ingest"](video) == first
        assert await names["ingest"](copy) == first
        assert calls == {"keyframes": 1, "transcript": 1, "descriptions": 1}
    finally:
        await names["cache"].aclose()
    assert first[2] == {"descriptions": {"0": f"{len(picture)} bytes"}}
    assert (tmp_path / ".cache" / "my-pipeline").is_dir()
