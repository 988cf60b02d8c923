"""How many tokens a text has, by what the nodes counted for others: for estimates where no node is asked.

A prompt costs its model's template and then so much a byte; both are fitted to the prompts counted last.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from parallama.exchange import Exchange
from parallama.gateway.api import Codec
from parallama.gateway.counting import prompt_bytes
from parallama.gateway.names import canonical

_BYTES_A_TOKEN = 4
"""Ollama's own guess, where nothing is known."""
_KEEP = 0.97
"""Weight of what was known before when a prompt is added: the last thirty or so count."""
_EVERY_S = 0.5
"""Not every prompt is looked at: it costs more than the rest of the accounts."""
_MODELS = 256


class _Fit:
    """Tokens over bytes as a line, by least squares with fading weights."""

    __slots__ = ("count", "due", "x", "xx", "xy", "y")

    def __init__(self) -> None:
        self.count = self.x = self.y = self.xx = self.xy = 0.0
        self.due = 0.0

    def add(self, x: float, y: float) -> None:
        self.count, self.x, self.y = self.count * _KEEP + 1, self.x * _KEEP + x, self.y * _KEEP + y
        self.xx, self.xy = self.xx * _KEEP + x * x, self.xy * _KEEP + x * y

    def at(self, x: float) -> float:
        mean_x, mean_y = self.x / self.count, self.y / self.count
        spread = self.xx / self.count - mean_x * mean_x
        slope = (self.xy / self.count - mean_x * mean_y) / spread if spread > 1 else -1.0
        if not 0.02 <= slope <= 1:  # too little to draw a line by, or a text that no other is like
            slope = min(1 / _BYTES_A_TOKEN, mean_y / max(mean_x, 1))
        return max(mean_y - slope * mean_x, 0) + slope * x


class TokenRatios:
    """Of one process; by the nodes' names of models."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._fits: OrderedDict[str, _Fit] = OrderedDict()

    def learn_from(self, codec: Codec, exchange: Exchange) -> None:
        """Look at the prompt of an exchange that has ended, if its node counted the whole of it and nothing else."""
        usage, model = exchange.usage, exchange.model
        if not model or not usage.final or not usage.prompt_tokens or exchange.context_full or not self._due(model):
            return
        body = codec.outbounds[0].body if len(codec.outbounds) == 1 else None
        if body and not _has_images(body):
            self.learn(canonical(model), prompt_bytes(body), usage.prompt_tokens)

    def _due(self, model: str) -> bool:
        fit = self._fits.get(canonical(model))
        return fit is None or self._now() >= fit.due

    def learn(self, model: str, text_bytes: int, tokens: int) -> None:
        """A node has counted `tokens` in a prompt with so many bytes of text; `model` is canonical."""
        fit = self._fits.setdefault(model, _Fit())
        fit.add(text_bytes, tokens)
        fit.due = self._now() + _EVERY_S
        self._fits.move_to_end(model)
        if len(self._fits) > _MODELS:
            self._fits.popitem(last=False)

    def tokens(self, model: str, text_bytes: int) -> int:
        """Tokens of a prompt with so many bytes of text; at least 1."""
        fit = self._fits.get(canonical(model))
        return max(1, round(fit.at(text_bytes) if fit else text_bytes / _BYTES_A_TOKEN))


def _has_images(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    return bool(body.get("images")) or (
        isinstance(messages, list) and any(isinstance(one, dict) and one.get("images") for one in messages)
    )
