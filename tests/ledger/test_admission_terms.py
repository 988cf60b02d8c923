"""What is kept of the limits of callers stays small, whatever clients ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

from store_rig import ZONE, limit

from parallama.config.settings import LimitsSettings
from parallama.exchange import Caller, Exchange
from parallama.gateway.api import Outbound, Use
from parallama.ledger.memory import MemoryStore
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.proxy.admission import Admission


async def test_names_of_any_length_do_not_pile_up() -> None:
    store, rule = MemoryStore(ZONE), limit(1000)
    store.seed({rule.counter: []})
    admission = Admission(store, cast(Any, None), Catalog(), LimitsSettings(), Metrics())
    caller = Caller(user_id=rule.subject, username="somebody", key_id=None, admin=False, limits=(rule,))
    for number in range(100):
        outbound = Outbound(method="POST", path="/api/generate", model=f"{number}" * 10_000, body={"prompt": "one"})
        codec = cast(Any, SimpleNamespace(outbounds=[outbound], resolved=lambda _: None))
        exchange = Exchange(id=uuid4(), client_request_id=None, gateway="ollama")
        await admission.admit(exchange, caller, Use.GENERATE, codec)
    assert store.holds == 100
    assert sum(len(name) for _, _, name in admission._terms) < 10_000
