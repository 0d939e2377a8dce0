"""Use an installed cogcache for a moment, away from its source: does what was built work?"""

import asyncio
import sys

import cogcache
from cogcache import _core

HEAVY = {"numpy", "boto3", "PIL", "redis", "click", "rich"}


async def main() -> None:
    assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"cogcache {cogcache.__version__} works on Python {version}: {_core.__file__}")


asyncio.run(main())
