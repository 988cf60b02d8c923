"""The simplified Ollama dialect, `/ollama/v1`: models, generate, chat, embeddings.

Requests are checked strictly, since nothing behind this dialect is there to explain them. Every generation streams
from the node, also for a client that wants one document, so that it can be counted when it is cut.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import orjson

from parallama.errors import ApiError, UpstreamFailed
from parallama.gateway.api import Body, Codec, Gateway, Head, Inbound, Outbound, Reply, Route, Use
from parallama.gateway.counting import message_text
from parallama.gateway.lines import NDJSON, json_line
from parallama.gateway.listing import Entry, listed, modified
from parallama.gateway.ndjson import NdjsonCodec
from parallama_ollama.native import error_reply
from parallama_ollama.questions import CHAT, EMBEDDINGS, GENERATE, Question

_JSON = Head(200, (("Content-Type", "application/json; charset=utf-8"),))
_LINES = Head(200, (("Content-Type", NDJSON),))


class OllamaSimple(Gateway):
    """`/ollama/v1`."""

    name = "ollama"
    paths = ("/ollama/v1",)
    roles = ("admin", "premium", "basic")

    def routes(self) -> Sequence[Route]:
        return [
            Route(method="GET", path="/models", use=Use.LIST, open=_open_models, body=Body.NONE),
            _post("/generate", Use.GENERATE, GENERATE, Generate),
            _post("/chat", Use.CHAT, CHAT, Chat),
            _post("/embeddings", Use.EMBED, EMBEDDINGS, Embeddings),
        ]

    def render_error(self, error: ApiError) -> Reply:
        """`{"error": "<message>"}`, always."""
        return error_reply(error)


def _post(path: str, use: Use, question: Question, codec: type[_Simple]) -> Route:
    def open_codec(inbound: Inbound) -> Codec:
        outbound, streams = question.understand(inbound)
        return codec(inbound, outbound, streams=streams)

    return Route(method="POST", path=path, use=use, open=open_codec)


def _open_models(inbound: Inbound) -> Codec:
    return Models(inbound, Outbound(method="GET", path="/api/tags"))


class _Simple(NdjsonCodec):
    """What the four endpoints share: the head, and the usage as clients see it."""

    def __init__(self, inbound: Inbound, outbound: Outbound, *, streams: bool = False) -> None:
        super().__init__(inbound, outbound, streams=streams)
        self.reply = _LINES if streams else _JSON
        self._model = outbound.model

    def _told_usage(self) -> dict[str, int]:
        prompt, output = self._usage.prompt_tokens or 0, self._usage.output_tokens or 0
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class _Text(_Simple):
    """An answer of text: a line for each piece of it, or all of it in one document."""

    def __init__(self, inbound: Inbound, outbound: Outbound, *, streams: bool = False) -> None:
        super().__init__(inbound, outbound, streams=streams)
        self._texts: list[str] = []

    def begin(self, head: Head) -> Head:
        self._texts.clear()
        return super().begin(head)

    @abstractmethod
    def shape(self, text: str) -> dict[str, Any]:
        """The members that hold a text."""

    def line(self, message: dict[str, Any]) -> bytes:
        text, _thinking = message_text(message)
        last = self.is_last(message)
        if self.streams:
            return self._piece(text, last=last) if text or last else b""
        self._texts.append(text)
        return self._document() if last else b""

    def _piece(self, text: str, *, last: bool) -> bytes:
        end = {"usage": self._told_usage(), "done": True} if last else {}
        return json_line({**self.shape(text), **end})

    def _document(self) -> bytes:
        answer = self.shape("".join(self._texts))
        return orjson.dumps({"model": self._model, **answer, "usage": self._told_usage()})


class Generate(_Text):
    """`{model, text, usage}`, or lines `{text}`."""

    def shape(self, text: str) -> dict[str, Any]:
        return {"text": text}


class Chat(_Text):
    """`{model, messages: [{role, content}], usage}`, or lines `{messages: [{role, content}]}`."""

    def shape(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "assistant", "content": text}]}


class _Document(_Simple):
    """An answer that the node gives as one document."""

    max_line = 256 * 1024 * 1024

    def is_last(self, message: dict[str, Any]) -> bool:
        return True


class Embeddings(_Document):
    """`{model, embeddings, usage}`."""

    def line(self, message: dict[str, Any]) -> bytes:
        vectors = message.get("embeddings") or []
        if not isinstance(vectors, list):
            raise UpstreamFailed("the node sent embeddings in another shape")
        return orjson.dumps({"model": self._model, "embeddings": vectors, "usage": self._told_usage()})


class Models(_Document):
    """`{models: [{name, size, modified, details: {format, family}}]}`, aliases among them; size is that of the
    parameters, such as 7B."""

    def line(self, message: dict[str, Any]) -> bytes:
        found = listed(message, self._models.aliases(), self._models.usable)
        return orjson.dumps({"models": [_model(name, entry) for name, entry in found]})


def _model(name: str, entry: Entry) -> dict[str, Any]:
    time, found = modified(entry), entry.get("details")
    details = found if isinstance(found, dict) else {}
    return {
        "name": name,
        "size": details.get("parameter_size", ""),
        "modified": time.isoformat().replace("+00:00", "Z") if time else str(entry.get("modified_at") or ""),
        "details": {"format": details.get("format", ""), "family": details.get("family", "")},
    }
