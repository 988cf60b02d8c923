"""Requests as a node gets them when so much output was granted."""

from __future__ import annotations

from collections.abc import Sequence

from parallama.gateway.api import Outbound, Use
from parallama.gateway.described import Model
from parallama.ledger.bounds import UNBOUNDED, bound, bounded


def held(outbounds: Sequence[Outbound], model: Model, output: int) -> Sequence[Outbound]:
    """To `output` tokens together."""
    return bounded(outbounds, bound(outbounds, Use.CHAT, model, most=UNBOUNDED), output)
