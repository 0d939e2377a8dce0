"""End on SIGTERM as on a normal end: stop the work, send what waits, then go."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from cogcache import CacheManager


async def run_until_terminated(
    work: Coroutine[Any, Any, Any], manager: CacheManager, seconds: float = 20
) -> None:
    """Run ``work`` to its end, or until SIGTERM; then send what waits, at most ``seconds`` long.

    Give it less time than the platform gives the process (Kubernetes: 30 s by default).
    """
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass
    finally:
        await manager.aclose(seconds)
