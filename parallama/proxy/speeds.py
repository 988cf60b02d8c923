"""How fast models answer, for what is used by an answer that nobody waits for: its node never counts it.

By the nodes' names of models; of one process. `asked_s` is the time since the node was asked, in seconds; None: it was
not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from statistics import median

from parallama.exchange import Exchange, Usage
from parallama.gateway.api import Outbound, Use
from parallama.gateway.counting import prompt_estimate
from parallama.gateway.names import canonical
from parallama.ledger.bounds import likely_output
from parallama.nodes.catalog import Catalog

COSTLY = (Use.CHAT, Use.GENERATE, Use.EMBED)
"""What costs tokens."""
_COUNTED = 31
"""Answers of a model of which the median is taken."""
_FEWEST_TOKENS = 8
"""A shorter answer says little: it took its time for other things."""
_MODELS = 256
_ASSUMED = 100.0
"""Tokens a second of a model whose speed is not known, where a limit counts them: who always leaves before the end
would use it for nothing. Fast for most machines, so that nobody gains by it."""


class Speeds:
    """Of the models asked last."""

    def __init__(self, catalog: Catalog, otherwise: int) -> None:
        """`otherwise`: tokens that an answer is taken to have at most when its client has not said."""
        self._catalog, self._otherwise = catalog, otherwise
        self._speeds: OrderedDict[str, deque[float]] = OrderedDict()

    def learn_from(self, exchange: Exchange, asked_s: float | None) -> None:
        """The speed of an exchange that has ended, if its node counted it."""
        tokens = exchange.usage.output_tokens or 0
        if asked_s is None or not exchange.model or not exchange.usage.final or tokens < _FEWEST_TOKENS:
            return
        speeds = self._speeds.setdefault(canonical(exchange.model), deque(maxlen=_COUNTED))
        speeds.append(tokens / max(asked_s, 1e-3))
        self._speeds.move_to_end(canonical(exchange.model))
        if len(self._speeds) > _MODELS:
            self._speeds.popitem(last=False)

    def estimate(self, exchange: Exchange, use: Use, outbounds: Sequence[Outbound], asked_s: float | None) -> None:
        """Fill in what is not known of an exchange that was cut off after its node was asked: the prompt by its
        length, a document by the time that it took, no more than it might have had. What cannot be told stays unknown,
        and so does the output of a node that streams and has said nothing."""
        usage = exchange.usage
        if asked_s is None or usage.final or use not in COSTLY:
            return
        prompt, output = usage.prompt_tokens, usage.output_tokens
        if prompt is None:
            prompt = estimated_prompt(outbounds)
        if output is None and use is not Use.EMBED and not _streams(outbounds):
            output = self._generated(exchange, outbounds, asked_s)
        if output is not None and exchange.output_bound is not None:
            output = min(output, exchange.output_bound)
        exchange.usage = Usage(prompt_tokens=prompt, output_tokens=output)

    def _generated(self, exchange: Exchange, outbounds: Sequence[Outbound], asked_s: float) -> int | None:
        if not exchange.model:
            return None
        speeds = self._speeds.get(canonical(exchange.model))
        if not speeds and exchange.output_bound is None:
            return None
        most = likely_output(outbounds, self._catalog.described(exchange.model), self._otherwise)
        return min(most, round((median(speeds) if speeds else _ASSUMED) * asked_s))


def estimated_prompt(outbounds: Iterable[Outbound]) -> int:
    """Tokens of all their prompts, by their length."""
    return sum(prompt_estimate(outbound.body) for outbound in outbounds if outbound.body)


def _streams(outbounds: Sequence[Outbound]) -> bool:
    """Whether the node answers in lines, whatever the client gets."""
    return all((outbound.body or {}).get("stream") is not False for outbound in outbounds)
