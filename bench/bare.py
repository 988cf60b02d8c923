"""The bare proxy: aiohttp's server and client joined by a loop, with no feature at all.

The reference that Parallama is measured against; keep it as it is. `python -m bench.bare URL` relays to the node at
URL, prints the port it listens on and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

_KEPT = ("Content-Type", "Content-Length", "Date")


def build_app(url: str) -> web.Application:
    """An application that relays every request to the node at `url`."""
    sessions: list[aiohttp.ClientSession] = []

    async def running(_app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            sessions.append(session)
            yield

    async def relay(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        body = await request.read()
        async with sessions[0].request(request.method, url + request.path_qs, headers=headers, data=body) as answer:
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.cleanup_ctx.append(running)
    app.router.add_route("*", "/{path:.*}", relay)
    return app


async def _main(url: str) -> None:
    runner = web.AppRunner(build_app(url), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
