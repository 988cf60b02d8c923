"""How fast models answer, for what is used by an answer that nobody waits for: its node never counts it.

By the nodes' names of models; of one process.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from statistics import median

from parallama.exchange import Exchange, Usage
from parallama.gateway.api import Codec, Use
from parallama.gateway.counting import prompt_estimate
from parallama.gateway.names import canonical

COSTLY = (Use.CHAT, Use.GENERATE, Use.EMBED)
"""What costs tokens."""
_COUNTED = 31
"""Answers of a model of which the median is taken."""
_FEWEST_TOKENS = 8
"""A shorter answer says little: it took its time for other things."""
_MODELS = 256


class Speeds:
    """Of the models asked last."""

    def __init__(self) -> None:
        self._speeds: OrderedDict[str, deque[float]] = OrderedDict()

    def learn_from(self, exchange: Exchange) -> None:
        """The speed of an exchange that has ended, if its node counted it."""
        tokens = exchange.usage.output_tokens or 0
        if not exchange.model or not exchange.usage.final or tokens < _FEWEST_TOKENS:
            return
        speeds = self._speeds.setdefault(canonical(exchange.model), deque(maxlen=_COUNTED))
        speeds.append(tokens / max(time.monotonic() - exchange.started, 1e-3))
        self._speeds.move_to_end(canonical(exchange.model))
        if len(self._speeds) > _MODELS:
            self._speeds.popitem(last=False)

    def estimate(self, exchange: Exchange, use: Use, codec: Codec) -> None:
        """Fill in what is not known of an exchange that was cut off while its node worked: the prompt by its length,
        the answer by the time that it took, no more than it might have had. What cannot be told stays unknown."""
        usage = exchange.usage
        if exchange.closed or exchange.node is None or usage.final or use not in COSTLY:
            return
        prompt, output = usage.prompt_tokens, usage.output_tokens
        if prompt is None:
            prompt = sum(prompt_estimate(outbound.body) for outbound in codec.outbounds if outbound.body)
        if output is None and use is not Use.EMBED:
            output = self._generated(exchange)
        if output is not None and exchange.output_bound is not None:
            output = min(output, exchange.output_bound)
        exchange.usage = Usage(prompt_tokens=prompt, output_tokens=output)

    def _generated(self, exchange: Exchange) -> int | None:
        speeds = self._speeds.get(canonical(exchange.model)) if exchange.model else None
        return round(median(speeds) * (time.monotonic() - exchange.started)) if speeds else None
