"""The answer to `/messages/count_tokens`: an estimate, since no endpoint of Ollama counts the tokens of a prompt.

No node is asked. The request is read as for `/messages`, so that what is wrong there is wrong here.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from parallama.errors import ModelUnknown
from parallama.gateway.api import Codec, Inbound
from parallama.gateway.fields import shown
from parallama.gateway.listing import require_usable
from parallama.gateway.sse import JSON
from parallama_anthropic.requests import understand


def open_count(inbound: Inbound) -> Codec:
    """Raises BadRequest, ModelUnknown or NotAllowed."""
    question = understand(inbound, answered=False)
    require_usable(inbound.models, question.model)
    if not inbound.models.exists(question.model):
        raise ModelUnknown(f"model '{shown(question.model)}' not found")
    return Count(question.input_tokens(inbound.models), question.ignored)


class Count(Codec):
    """`{"input_tokens": n}`."""

    reply = JSON

    def __init__(self, tokens: int, ignored: Sequence[str]) -> None:
        super().__init__()
        self._tokens = tokens
        self.ignored = ignored

    def feed(self, chunk: bytes) -> bytes:
        """No node speaks."""
        return b""

    def finish(self) -> bytes:
        """The whole answer."""
        return orjson.dumps({"input_tokens": self._tokens})
