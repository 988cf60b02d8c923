"""The load generator, a process of its own: asks, checks every answer, and reads the CPU time of all who take part.

`python -m bench.load '{"kind": ...}'` takes a Load as JSON and prints what it found as JSON. Exit code 1 and one line
on stderr: an answer was wrong, or did not come.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from bench import chat, proc
from bench.client import Client, Seen, Wrong
from bench.dialects import DIALECTS, NATIVE

_WARM_S = 0.3
_CEILING_S = 30.0
_BEGUN_PER_S = 500
"""Streams begin one after another, as clients do; all at once would measure the accepting."""
_SETTLE_S = 0.5


@dataclass(frozen=True)
class Load:
    """What to ask whom."""

    kind: str
    """once: documents, one after another on each connection. streams: the same with streams. paced: streams on each
    connection, all at once. held: the same, and the memory they take while nothing is sent."""
    port: int
    key: str
    connections: int
    seconds: float
    """Measured time; begins when all is warm."""
    watch: Mapping[str, Sequence[int]]
    """Processes whose CPU time is read, by what they are called; `proxy` is the one whose memory is."""
    dialect: str = NATIVE
    """In which all of them are asked; of DIALECTS."""
    chunks: int = 1
    interval_us: int = 0
    base: int = 0
    """Of the connections, those that are open before memory is looked at: what they make is kept for later ones."""

    @property
    def named(self) -> str:
        """The model's name that asks the node for this."""
        return chat.model(self.chunks, self.interval_us)


class Window:
    """What was seen, and what CPU was taken, since it was opened."""

    def __init__(self, seen: Seen, watch: Mapping[str, Sequence[int]]) -> None:
        seen.clear()
        self._seen = seen
        self._watch = {**watch, "load": [os.getpid()]}
        self._cpu_ns = self._read()
        self._waited_ns = self._waited()
        self._opened = time.monotonic()

    def close(self) -> dict[str, Any]:
        """The findings. Times: seconds, CPU in nanoseconds, percentiles (50, 99) in milliseconds."""
        seconds = time.monotonic() - self._opened
        cpu_ns = {name: now - self._cpu_ns[name] for name, now in self._read().items()}
        seen = self._seen
        return {
            "seconds": seconds,
            "answers": seen.answers,
            "chunks": seen.chunks,
            "cpu_ns": cpu_ns,
            "waited_ns": self._waited() - self._waited_ns,
            "first_ms": percentiles_ms(seen.first_ns),
            "age_ms": percentiles_ms(seen.age_ns),
        }

    def _read(self) -> dict[str, int]:
        return {name: proc.cpu_ns(pids) for name, pids in self._watch.items()}

    def _waited(self) -> int:
        return proc.waited_ns(self._watch.get("proxy", ()))


class Generator:
    """All connections of one load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._seen = Seen()
        self._streams = load.kind != "once"
        dialect = DIALECTS[load.dialect]
        self._request = dialect.request(load.port, load.key, load.named, stream=self._streams)
        self._expected = dialect.answer(load.named.encode(), load.chunks)
        self._again = load.kind != "held"
        self._clients: list[Client] = []
        self._busy = 0
        self._idle = asyncio.Event()
        self._wrong: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> dict[str, Any]:
        """Carry the load out. Raises Wrong."""
        work = asyncio.get_running_loop().create_task(self._kind(), name="load")
        both: list[asyncio.Future[Any]] = [work, self._wrong]
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._wrong in done:
            work.cancel()
            self._wrong.result()
        for client in self._clients:
            client.close()
        return work.result()

    async def _kind(self) -> dict[str, Any]:
        kinds = {"paced": self._paced, "held": self._held}
        return await kinds.get(self._load.kind, self._repeated)()

    async def _repeated(self) -> dict[str, Any]:
        await self._open(self._load.connections)
        await asyncio.sleep(_WARM_S)
        return await self._measured()

    async def _paced(self) -> dict[str, Any]:
        await self._open(self._load.connections, _BEGUN_PER_S)
        await self._begun()
        return await self._measured()

    async def _measured(self) -> dict[str, Any]:
        """What is seen in the measured time; when that is nothing, in the time until something is. Raises Wrong."""
        window, seen, paced = Window(self._seen, self._load.watch), self._seen, self._load.kind == "paced"
        await asyncio.sleep(self._load.seconds)
        async with _within("nothing was answered"):
            while not (seen.chunks if paced else seen.answers and seen.first_ns):  # noqa: ASYNC110 - as in _begun
                await asyncio.sleep(0.02)
        found = window.close()
        self._again = False
        await self._end()
        return found

    async def _held(self) -> dict[str, Any]:
        before = await self._memory_with(self._load.base)
        after = await self._memory_with(self._load.connections)
        return {"rss": after - before}

    async def _memory_with(self, connections: int) -> int:
        await self._open(connections, _BEGUN_PER_S)
        await self._begun()
        await asyncio.sleep(_SETTLE_S)
        return proc.rss(self._load.watch["proxy"][0])

    async def _open(self, count: int, per_s: float = math.inf) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while len(self._clients) < count:
            _, client = await loop.create_connection(
                lambda: Client(self._expected, self._seen, self._answered, self._failed),
                "127.0.0.1",
                self._load.port,
            )
            self._clients.append(client)
            self._busy += 1
            client.ask(self._request, streams=self._streams)
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _begun(self) -> None:
        """Wait until every stream has its first chunk. Raises Wrong."""
        async with _within("not every stream began"):
            # looked at now and then: an event for each first byte would be measured too
            while not all(client.began for client in self._clients):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _end(self) -> None:
        """Wait until every answer is whole. Raises Wrong."""
        async with _within("not every answer ended"):
            await self._idle.wait()

    def _answered(self, client: Client) -> None:
        if self._again:
            client.ask(self._request, streams=self._streams)
            return
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    def _failed(self, error: Wrong) -> None:
        if not self._wrong.done():
            self._wrong.set_exception(error)


@asynccontextmanager
async def _within(failing: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_CEILING_S):
            yield
    except TimeoutError:
        raise Wrong(f"{failing} within {_CEILING_S:.0f} s") from None


def percentiles_ms(spans_ns: Sequence[int]) -> list[float]:
    """The 50th and 99th percentile in milliseconds; empty when there are no spans."""
    ordered = sorted(spans_ns)
    return [ordered[min(len(ordered) - 1, len(ordered) * part // 100)] / 1e6 for part in (50, 99)] if ordered else []


async def _main(load: Load) -> None:
    try:
        found = await Generator(load).run()
    except (Wrong, OSError) as error:
        sys.exit(f"{load.kind}: {error}")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    uvloop.run(_main(Load(**json.loads(sys.argv[1]))))
