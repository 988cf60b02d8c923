"""What a client of the simplified dialect may ask, checked to the last field, and the native request for it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from parallama.gateway.api import Inbound, Outbound
from parallama.gateway.fields import Fields, kind, read_body, shown

Reader = Callable[[Fields, str], Any]
"""The value of the named member as the node is to get it. Raises BadRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One kind of request; its fields beside model, parameters and stream."""

    path: str
    """On the node."""
    fields: Mapping[str, Reader]
    """Each is required."""
    streams: bool = True
    """Whether the node streams its answer, and the client may have it so."""

    def understand(self, inbound: Inbound) -> tuple[Outbound, bool]:
        """The native request, and whether the client wants a stream. Raises BadRequest."""
        given = read_body(inbound.raw)
        self._refuse_unknown(given)
        model = given.model(inbound)
        body = {"model": model, **{name: read(given, name) for name, read in self.fields.items()}}
        if options := _options(given):
            body["options"] = options
        if self.streams:
            body["stream"] = True
        streams = self.streams and given.boolean("stream") is True
        return Outbound(method="POST", path=self.path, model=model, body=body), streams

    def _refuse_unknown(self, given: Fields) -> None:
        known = ["model", *self.fields, "parameters", *(["stream"] if self.streams else [])]
        for name in given:
            if name in known:
                continue
            if name in _PARAMETERS or name in _OPTIONS:
                given.refuse(name, "unknown field; put it under parameters")
            near = difflib.get_close_matches(shown(name).casefold(), known, n=1)
            given.refuse(name, f"unknown field; {f'did you mean {near[0]}?' if near else _known(known)}")


def _known(names: list[str]) -> str:
    return f"known are {', '.join(names)}"


def _string(given: Fields, name: str) -> str:
    return given.string(name, required=True)


def _texts(given: Fields, name: str) -> list[str] | None:
    """A string stands for a list of one."""
    given.any(name, required=True)
    return given.strings(name)


def _at_least_one(given: Fields, name: str) -> int | None:
    return given.integer(name, least=1)


def _messages(given: Fields, name: str) -> list[dict[str, Any]]:
    return [_message(message) for message in given.objects(name, required=True)]


_MESSAGE: Mapping[str, Reader] = {"role": _string, "content": _string, "images": Fields.strings}


def _message(given: Fields) -> dict[str, Any]:
    for name in given:
        if name not in _MESSAGE:
            given.refuse(name, f"unknown field; {_known([*_MESSAGE])}")
    message = {name: read(given, name) for name, read in _MESSAGE.items()}
    return {name: value for name, value in message.items() if value is not None}


_PARAMETERS: Mapping[str, tuple[str, Reader]] = {"max_tokens": ("num_predict", _at_least_one)}
"""The names that differ from Ollama's option."""

_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_keep")
_SAMPLING = ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")

_OPTIONS: Mapping[str, Reader] = {
    "stop": Fields.strings,
    "use_mmap": Fields.boolean,
    **dict.fromkeys((*_INTEGERS, "seed", "num_predict", "top_k", "repeat_last_n"), Fields.integer),
    **dict.fromkeys(_SAMPLING, Fields.number),
}
"""Ollama's options (api/types.go, Options); other plain values pass, for it ignores what it does not know."""


def _options(given: Fields) -> dict[str, Any]:
    parameters = given.object("parameters") or Fields({})
    options: dict[str, Any] = {}
    for name in parameters:
        option, read = _PARAMETERS.get(name, (name, _OPTIONS.get(name, _plain)))
        if option in options:
            parameters.refuse(name, "max_tokens and num_predict say the same; send one of them")
        options[option] = read(parameters, name)
    return options


def _plain(given: Fields, name: str) -> Any:
    value = given.any(name)
    if isinstance(value, dict | list):
        given.refuse(name, f"{kind(value)} is wrong; it must be a string, a number or a boolean")
    return value


GENERATE = Question(path="/api/generate", fields={"prompt": _string})
CHAT = Question(path="/api/chat", fields={"messages": _messages})
EMBEDDINGS = Question(path="/api/embed", fields={"input": _texts}, streams=False)
