"""Requests as a node gets them when so much output was granted."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from parallama.gateway.api import Outbound, Use
from parallama.gateway.described import Model
from parallama.ledger.bounds import UNBOUNDED, bound, bounded


def held(outbounds: Sequence[Outbound], model: Model, output: int) -> Sequence[Outbound]:
    """To `output` tokens together."""
    sent = bounded(outbounds, bound(outbounds, Use.CHAT, model, most=UNBOUNDED), output)
    for asked, outbound in zip(outbounds, sent, strict=True):
        if outbound is not asked:
            assert outbound.raw is None, "it is no longer what the client wrote"
            assert outbound.written == orjson.dumps(outbound.body), "the node reads what was understood"
    return sent
