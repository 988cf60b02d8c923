"""What goes into a codec and how its answer is read: requests (`inbound`), a node's answers (Transcript), readers.

For `check_codec` and for tests of a codec without a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from multidict import CIMultiDict

from parallama.exchange import Usage
from parallama.gateway.api import Head, Inbound
from parallama.gateway.names import matches
from parallama.simulated.go import encode
from parallama.simulated.models import DEFAULT_MODELS, Model, full_name, guess
from parallama.simulated.recordings import Recording

NDJSON = Head(200, (("Content-Type", "application/x-ndjson"),))
JSON = (("Content-Type", "application/json; charset=utf-8"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One answer of a node."""

    body: bytes
    """Without its framing."""
    head: Head = NDJSON
    complete: bool = True
    """Whether the body came to its end; False: the node broke off."""

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """The answer of a real Ollama. Raises ValueError when it gave none."""
        if recording.status is None:
            raise ValueError(f"{recording.name}: there is no answer in it")
        head = Head(recording.status, tuple(recording.headers))
        return cls(head=head, body=recording.body, complete=recording.complete)

    @classmethod
    def stream(cls, *messages: Mapping[str, Any]) -> Self:
        """An NDJSON stream, as Go writes it."""
        return cls(body=b"".join([encode(message) + b"\n" for message in messages]))

    @classmethod
    def document(cls, message: Mapping[str, Any], status: int = 200) -> Self:
        """An answer of one document."""
        return cls(head=Head(status, JSON), body=encode(message))

    def usage(self) -> Usage | None:
        """The tokens that the node counted; None: it counted none. `final` says that they are its own."""
        last = _last_message(self.body) if self.head.status < 400 else {}
        if last.get("done") is False or not {"prompt_eval_count", "eval_count"} & set(last):
            return None
        return Usage(prompt_tokens=last.get("prompt_eval_count"), output_tokens=last.get("eval_count"), final=True)


def _last_message(body: bytes) -> dict[str, Any]:
    try:
        last = json.loads(body.rstrip(b"\n").rpartition(b"\n")[2])
    except ValueError:
        return {}
    return last if isinstance(last, dict) else {}


class KnownModels:
    """`Inbound.models` of a pool that has these models, each loaded with its `num_ctx`; text is four bytes a token.

    `usable`: patterns of the models that the caller's key is for; None: any.
    """

    def __init__(
        self,
        models: Iterable[Model | str] = DEFAULT_MODELS,
        aliases: Mapping[str, str] | None = None,
        usable: Sequence[str] | None = None,
    ) -> None:
        self._aliases = dict(aliases or {})
        self._usable = usable
        found = [Model(name=model) if isinstance(model, str) else model for model in models]
        self._models = {full_name(model.name).lower(): model for model in found}

    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    def capabilities(self, name: str) -> frozenset[str]:
        model = self._find(name)
        return frozenset(model.capabilities or guess(model.name)) if model else frozenset()

    def context(self, name: str) -> int | None:
        model = self._find(name)
        return model.num_ctx if model else None

    def longest_context(self, name: str) -> int | None:
        model = self._find(name)
        return model.context_length if model else None

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def limited(self) -> bool:
        return self._usable is not None

    def usable(self, name: str) -> bool:
        return self._usable is None or matches(self._usable, self._target(name))

    def tokens(self, name: str, text_bytes: int) -> int:
        return max(1, text_bytes // 4)

    def _find(self, name: str) -> Model | None:
        return self._models.get(full_name(self._target(name)).lower())

    def _target(self, name: str) -> str:
        return self._aliases.get(name.removesuffix(":latest"), name)


def inbound(
    body: Any = None,
    path: str = "/",
    *,
    method: str = "POST",
    mount: str = "",
    params: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    models: Iterable[Model | str] = DEFAULT_MODELS,
    aliases: Mapping[str, str] | None = None,
    default_model: str | None = None,
    usable: Sequence[str] | None = None,
) -> Inbound:
    """A request as a route's `open` gets it; always the same id and time.

    `body`: bytes as they are, None for none, anything else as JSON. `models`: as for `fake_ollama`. `aliases`: further
    names of some of them. `usable`: patterns of those that the caller's key is for; None: any.
    """
    return Inbound(
        id="0190a5d6c3f07abc8def0123456789ab",
        at=1_720_000_000,
        method=method,
        mount=mount,
        path=path,
        params=params or {},
        query=query or {},
        headers=CIMultiDict(headers or {}),
        raw=body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode(),
        models=KnownModels(models, aliases, usable),
        default_model=default_model,
    )


def read_lines(data: bytes) -> list[Any]:
    """The values of an NDJSON stream. Raises ValueError for a line that is no JSON or has no end."""
    if data and not data.endswith(b"\n"):
        raise ValueError("the last line has no end")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def read_document(data: bytes) -> list[Any]:
    """The one value of a JSON document. Raises ValueError for what is none."""
    return [json.loads(data)]
