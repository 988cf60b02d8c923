"""The Anthropic gateway: its mounts and endpoints.

`/anthropic` is all of it. A client whose base URL is the root finds its paths too, beside those of OpenAI's dialect:
`/v1/messages`, and `/v1/models` with the header that only Anthropic's clients send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parallama.errors import ApiError
from parallama.gateway.api import Body, Gateway, Reply, ReplyFacts, Route, Use
from parallama_anthropic.answers import open_messages
from parallama_anthropic.counting import open_count
from parallama_anthropic.errors import error_reply
from parallama_anthropic.models import open_model, open_models
from parallama_anthropic.rate_limits import rate_limits


def _messages(path: str) -> list[Route]:
    """To count is no chat: it costs nothing, asks no node, and leaves no tokens in the accounts."""
    count = f"{path}/count_tokens"
    return [
        Route(method="POST", path=path, use=Use.CHAT, open=open_messages, endpoint="messages"),
        Route(method="POST", path=count, use=Use.SHOW, open=open_count, endpoint="count_tokens"),
    ]


def _models(path: str) -> list[Route]:
    one = f"{path}/{{model:.+}}"
    return [
        Route(method="GET", path=path, use=Use.LIST, open=open_models, body=Body.NONE, endpoint="models"),
        Route(method="GET", path=one, use=Use.SHOW, open=open_model, body=Body.NONE, endpoint="models"),
    ]


class _Family(Gateway):
    """What the three mounts share."""

    name = "anthropic"
    roles = ("admin", "premium")

    def render_error(self, error: ApiError) -> Reply:
        """`{"type": "error", "error": {"type", "message"}}`; 529 for a full queue."""
        return error_reply(error)

    def headers(self, facts: ReplyFacts) -> Mapping[str, str]:
        """`request-id`, which the SDK shows with errors."""
        return {"request-id": facts.request_id}

    def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
        """`anthropic-ratelimit-...`."""
        return rate_limits(facts)


class Anthropic(_Family):
    """`/anthropic/v1`: the whole dialect."""

    paths = ("/anthropic/v1",)

    def routes(self) -> Sequence[Route]:
        """All endpoints."""
        return [*_messages("/messages"), *_models("/models")]


class AnthropicMessages(_Family):
    """`/v1/messages`, which no other dialect has."""

    paths = ("/v1/messages",)

    def routes(self) -> Sequence[Route]:
        """Messages, and the counting of their tokens."""
        return _messages("")


class AnthropicModels(_Family):
    """`/v1/models`, for who sends the version of Anthropic's API; any other means OpenAI's list."""

    paths = ("/v1/models",)
    required_header = "anthropic-version"

    def routes(self) -> Sequence[Route]:
        """The list, and one model."""
        return _models("")
