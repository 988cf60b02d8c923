"""Work that goes on beside a block: the one life of a task that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

_AGAIN_S = 1.0


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Do the work, which goes on for ever, until the block ends, however that ends. If it has ended before, what it
    raised is raised then. `name` is the task's."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    try:
        yield
    finally:
        while not task.done():  # on a connection that hangs, asyncpg may take a cancellation for a timeout
            task.cancel()
            await asyncio.wait({task}, timeout=_AGAIN_S)
    if not task.cancelled():
        task.result()
