"""What only the running server knows of the five promises of the ledger, for `ledger verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from parallama.admin.state import Handler
from parallama.ledger.journal import Journal
from parallama.ledger.memory import MemoryStore
from parallama.ledger.reconciler import Reconciler
from parallama.ledger.shipper import Shipper

if TYPE_CHECKING:
    from parallama.ledger.redis_store import RedisStore


def promises(reconciler: Reconciler, journal: Journal, shipper: Shipper, store: MemoryStore | RedisStore) -> Handler:
    """`{pending, lost, damaged, leaked, counts, amount, overrun}`. `counts`: of limits, that are off, by `amount`
    together; null: nobody can tell now. `overrun`: tokens beyond what was reserved."""

    async def promises(_request: web.Request) -> web.Response:
        found = await reconciler.look()
        answer: dict[str, Any] = {
            "pending": shipper.pending,
            "lost": journal.lost + shipper.lost,
            "damaged": shipper.damaged,
            "leaked": found.leaked,
            "counts": None if found.counts is None else len(found.counts),
            "amount": sum(abs(gap.amount) for gap in (found.counts or {}).values()),
            "overrun": store.overrun,
        }
        return web.json_response(answer)

    return promises
