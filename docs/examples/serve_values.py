"""Serve cached values over HTTP, with ranges, to curl, players and browsers.

python docs/examples/serve_values.py DIRECTORY [PORT]; then http://localhost:8080/KEY is a value
that is bytes, such as a clip, and http://localhost:8080/KEY?part=frame/17 one part of any value.
Needs aiohttp.
"""

import contextlib
import sys

from aiohttp import web

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, http_answer


def make_app(cache: CacheManager) -> web.Application:
    async def serve(request: web.Request) -> web.StreamResponse:
        async with cache.open(request.match_info["key"], request.query.get("part")) as value:
            if value is None:
                raise web.HTTPNotFound
            answer = http_answer(request.headers, value, max_age=3600)
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            await response.prepare(request)
            if request.method != "HEAD":
                async with contextlib.aclosing(value.stream(answer.start, answer.stop)) as pieces:
                    async for piece in pieces:
                        await response.write(piece)
            return response

    app = web.Application()
    app.router.add_get("/{key:.+}", serve)
    return app


if __name__ == "__main__":
    config = FilesystemCacheConfig(sys.argv[1], read_only="auto")
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    web.run_app(make_app(CacheManager(CacheConfig([config]))), host="localhost", port=port)
