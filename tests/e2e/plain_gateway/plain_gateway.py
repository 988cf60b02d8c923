"""A gateway as a stranger writes it, against the names of `parallama` alone: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from parallama import (
    ApiError,
    BadRequest,
    Body,
    Codec,
    Gateway,
    Head,
    Inbound,
    NdjsonCodec,
    Outbound,
    Reply,
    ReplyFacts,
    Route,
    Use,
    hookimpl,
)

TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class Ask(NdjsonCodec):
    """Each piece of the answer as it is."""

    reply = Head(200, tuple(TEXT.items()))

    def line(self, message: dict[str, Any]) -> bytes:
        if message.get("response") == "a bug":
            raise KeyError("a bug of the plugin")
        return str(message.get("response", "")).encode()

    def fail(self, error: ApiError) -> bytes:
        return f"\n[broken: {error}]\n".encode() if super().fail(error) else b""


class Models(Codec):
    """A name a line."""

    reply = Head(200, tuple(TEXT.items()))

    def __init__(self) -> None:
        super().__init__()
        self.outbounds = (Outbound(method="GET", path="/api/tags"),)
        self._data = b""

    def feed(self, chunk: bytes) -> bytes:
        self._data += chunk
        return b""

    def finish(self) -> bytes:
        return "".join(model["name"] + "\n" for model in json.loads(self._data)["models"]).encode()


class Plain(Gateway):
    name = "plain"
    paths = ("/plain",)

    @dataclass(frozen=True)
    class Options:
        model: str = "nosuch"

    def routes(self) -> Sequence[Route]:
        return [
            Route(method="POST", path="/ask", use=Use.GENERATE, open=self._ask),
            Route(method="GET", path="/models", use=Use.LIST, open=lambda inbound: Models(), body=Body.NONE),
        ]

    def _ask(self, inbound: Inbound) -> Codec:
        if not inbound.raw.strip():
            raise BadRequest("ask something")
        model = inbound.query.get("model", self.options.model)
        body = {"model": model, "prompt": inbound.raw.decode(), "stream": True}
        outbound = Outbound(method="POST", path="/api/generate", model=model, body=body)
        return Ask(inbound, outbound, streams=True)

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, TEXT, f"{error.code}: {error}\n".encode())

    def headers(self, facts: ReplyFacts) -> Mapping[str, str]:
        return {"X-Plain-Served-By": f"{facts.model} on {facts.node}"}


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    return [Plain]


@hookimpl
def register_commands(cli: click.Group) -> None:
    @cli.command()
    def plain() -> None:
        """Say hello in plain text."""
        click.echo("hello from a plugin")
