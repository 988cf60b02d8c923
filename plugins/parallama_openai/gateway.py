"""The OpenAI gateway: its mounts, endpoints and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from pydantic import Field

from parallama.errors import ApiError
from parallama.gateway.api import Body, Codec, Gateway, Inbound, Reply, ReplyFacts, Route, Use
from parallama_openai.chat import open_chat
from parallama_openai.completions import open_completion
from parallama_openai.embeddings import open_embedding
from parallama_openai.errors import error_reply
from parallama_openai.models import open_model, open_models
from parallama_openai.rate_limits import rate_limits
from parallama_openai.responses import open_response, wanted_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings below `gateways.openai`."""

    max_embedding_inputs: Annotated[int, Field(ge=1)] = 100
    """Texts that one request to embed may hold."""


class OpenAI(Gateway):
    """`/openai/v1` and `/v1`: OpenAI's SDKs work, given the base URL and a key."""

    name = "openai"
    paths = ("/openai/v1", "/v1")
    roles = ("admin", "premium")
    Options = Options

    def routes(self) -> Sequence[Route]:
        return [
            _get("/models", open_models),
            _get("/models/{model:.+}", open_model),
            _post("/chat/completions", Use.CHAT, "chat", open_chat),
            _post("/completions", Use.GENERATE, "completions", open_completion),
            _post("/embeddings", Use.EMBED, "embeddings", partial(open_embedding, options=self.options)),
            replace(_post("/responses", Use.CHAT, "responses", open_response), wants=wanted_documents),
        ]

    def render_error(self, error: ApiError) -> Reply:
        """`{"error": {message, type, param, code}}`, always; the table in `parallama_openai.errors` has the types."""
        return error_reply(error)

    def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
        """`x-ratelimit-...`."""
        return rate_limits(facts)


def _get(path: str, open: Callable[[Inbound], Codec]) -> Route:
    return Route(method="GET", path=path, use=Use.LIST, endpoint="models", open=open, body=Body.NONE)


def _post(path: str, use: Use, endpoint: str, open: Callable[[Inbound], Codec]) -> Route:
    return Route(method="POST", path=path, use=use, endpoint=endpoint, open=open)
