"""A process of its own that reserves at a Redis: python redis_many.py URL PREFIX SUBJECT AMOUNT REQUESTS.

Says `ready`, waits for a line, reserves all at once, says how many were admitted, and stays until its input ends.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

import uvloop
from store_rig import ZONE, Rig, limit

from parallama.ledger.redis_session import Terms
from parallama.ledger.redis_store import RedisStore
from parallama.ledger.store import Grant
from parallama.limits import Meter, Period


async def main(url: str, prefix: str, subject: str, amount: str, requests: str) -> None:
    rules = [
        limit(int(amount), period=Period.MONTH, subject=UUID(subject)),
        limit(int(amount), Meter.CONCURRENCY, Period.NOW, subject=UUID(subject)),
    ]
    store = RedisStore(url, ZONE, prefix=prefix, terms=Terms(30.0, 0.0))
    async with store.running():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        rig = Rig(store)
        answers = await asyncio.gather(*(rig.ask(rules) for _ in range(int(requests))))
        print(sum(isinstance(answer, Grant) for answer in answers), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
