"""The gateway template: text in, text out, over HTTP.

A stream is the text as it is written; control characters of ASCII say what text cannot: SYN, nothing yet; EOT, the
end; CAN, broken, and why. Everything here is pure translation: who asks, which node answers, counting and accounts are
the core's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from parallama import (
    ApiError,
    BadRequest,
    Body,
    Codec,
    Gateway,
    Generation,
    Head,
    Inbound,
    NdjsonCodec,
    Outbound,
    Reply,
    Route,
    Said,
    Use,
    hookimpl,
    listed,
)

EOT, SYN, CAN = b"\x04", b"\x16", b"\x18"
_MARKS = {ord(mark): None for mark in (EOT, SYN, CAN)}

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_HEAD = Head(200, tuple(TEXT.items()))


@dataclass(frozen=True, slots=True)
class Options:
    """The settings below `gateways.template`."""

    system: str = ""
    """The instruction that goes before every question; empty: none."""
    longest: int = 10_000
    """Characters of a question that are taken."""


class TemplateGateway(Gateway):
    """`/template`."""

    name = "template"
    paths = ("/template",)
    roles = ("admin", "premium")
    Options = Options

    def routes(self) -> Sequence[Route]:
        return [
            Route(method="POST", path="/ask", use=Use.CHAT, open=self.ask),
            Route(method="GET", path="/models", use=Use.LIST, open=list_models, body=Body.NONE),
        ]

    def ask(self, inbound: Inbound) -> Codec:
        """The body is the question. Raises BadRequest."""
        model, question = _model(inbound), self._question(inbound)
        system = [{"role": "system", "content": self.options.system}] if self.options.system else []
        messages = [*system, {"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "stream": True}
        outbound = Outbound(method="POST", path="/api/chat", model=model, body=body)
        return Answer(inbound, outbound, streams=_streams(inbound))

    def _question(self, inbound: Inbound) -> str:
        try:
            question = inbound.raw.decode().strip()
        except UnicodeDecodeError:
            raise BadRequest("the question must be UTF-8") from None
        if not question:
            raise BadRequest("the body is the question, and it is empty", code="missing_parameter")
        if len(question) > self.options.longest:
            raise BadRequest(f"the question is over {self.options.longest} characters", code="invalid_parameter")
        return question

    def render_error(self, error: ApiError) -> Reply:
        """A line `<code>: <message>`."""
        return Reply(error.status, TEXT, f"{error.code}: {error}\n".encode())


def _model(inbound: Inbound) -> str:
    model = inbound.query.get("model") or inbound.default_model
    if not model:
        raise BadRequest("say which model: ?model=NAME", code="missing_parameter", param="model")
    return model


def _streams(inbound: Inbound) -> bool:
    asked = inbound.query.get("stream", "yes")
    if asked not in ("yes", "no"):
        raise BadRequest("stream must be yes or no", code="invalid_parameter", param="stream")
    return asked == "yes"


class Answer(Generation):
    """What the model writes, without what it thinks."""

    reply = _HEAD
    heartbeat = SYN

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        return text.translate(_MARKS).encode()

    def ended(self, said: Said) -> bytes:
        return EOT

    def document(self) -> bytes:
        return self.wrote(self.said[0].text, None)

    def fail(self, error: ApiError) -> bytes:
        """CAN and the message, where the answer is not whole."""
        message = " ".join(str(error).translate(_MARKS).split())
        return CAN + f"{message}\n".encode() if super().fail(error) else b""


def list_models(inbound: Inbound) -> Codec:
    """Asks the node for its models."""
    return Models(inbound, Outbound(method="GET", path="/api/tags"))


class Models(NdjsonCodec):
    """A name a line. The node's one document is read as a line that is the last."""

    reply = _HEAD

    def is_last(self, message: dict[str, Any]) -> bool:
        return True

    def line(self, message: dict[str, Any]) -> bytes:
        found = listed(message, self._models.aliases(), self._models.usable)
        return "".join(f"{name}\n" for name, _entry in found).encode()


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    """What Parallama asks for at its start."""
    return [TemplateGateway]
