"""What a client of the simplified dialect may ask, checked to the last field, and the native request for it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from parallama.errors import BadRequest
from parallama.gateway.api import Inbound, Outbound

Check = Callable[[str, Any], Any]
"""The value of the named field as the node is to get it. Raises BadRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One kind of request; its fields beside model, parameters and stream."""

    path: str
    """On the node."""
    fields: Mapping[str, Check]
    """Each is required."""
    streams: bool = True
    """Whether the node streams its answer, and the client may have it so."""

    def understand(self, inbound: Inbound) -> tuple[Outbound, bool]:
        """The native request, and whether the client wants a stream. Raises BadRequest."""
        given = _object(inbound.raw)
        self._refuse_unknown(given)
        body: dict[str, Any] = {"model": _model(given.get("model"))}
        for name, check in self.fields.items():
            if name not in given:
                raise BadRequest(f"{name}: missing; it is required")
            body[name] = check(name, given[name])
        if options := _options(given.get("parameters")):
            body["options"] = options
        if self.streams:
            body["stream"] = True
        stream = given.get("stream")
        streams = self.streams and stream is not None and _boolean("stream", stream)
        return Outbound(method="POST", path=self.path, model=body["model"], body=body), streams

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        known = ["model", *self.fields, "parameters", *(["stream"] if self.streams else [])]
        for name in given:
            if name in known:
                continue
            if name in _PARAMETERS or name in _OPTIONS:
                raise BadRequest(f"{name}: unknown field; put it under parameters")
            near = difflib.get_close_matches(name.casefold(), known, n=1)
            right = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise BadRequest(f"{name[:64]}: unknown field; {right}")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadRequest("the body must be a JSON object")
    return given


def _wrong(name: str, value: Any, right: str) -> BadRequest:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return BadRequest(f"{name}: {kinds.get(type(value), 'a number')} is wrong; it must be {right}")


def _model(value: Any) -> str:
    if value is None or value == "":
        raise BadRequest("model is required")
    return _string("model", value)


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _integer(name: str, value: Any) -> int:
    if type(value) is not int:
        raise _wrong(name, value, "an integer")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise _wrong(name, value, "a number")
    return float(value)


def _at_least_one(name: str, value: Any) -> int:
    if _integer(name, value) < 1:
        raise BadRequest(f"{name}: {value} is too small; it must be at least 1")
    return int(value)


def _strings(name: str, value: Any) -> list[str]:
    """A string stands for a list of one."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise _wrong(name, value, "a string or an array of strings")
    return values


def _messages(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _wrong(name, value, "an array of {role, content}")
    return [_message(f"{name}[{place}]", message) for place, message in enumerate(value)]


_MESSAGE: Mapping[str, Check] = {"role": _string, "content": _string, "images": _strings}


def _message(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object {role, content}")
    for key in ("role", "content"):
        if key not in value:
            raise BadRequest(f"{name}.{key}: missing; it is required")
    for key in value:
        if key not in _MESSAGE:
            raise BadRequest(f"{name}.{key[:64]}: unknown field; known are {', '.join(_MESSAGE)}")
    return {key: _MESSAGE[key](f"{name}.{key}", item) for key, item in value.items()}


_PARAMETERS: Mapping[str, tuple[str, Check]] = {"max_tokens": ("num_predict", _at_least_one)}
"""The names that differ from Ollama's option."""

_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_keep")
_SAMPLING = ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")

_OPTIONS: Mapping[str, Check] = {
    "stop": _strings,
    "use_mmap": _boolean,
    **dict.fromkeys((*_INTEGERS, "seed", "num_predict", "top_k", "repeat_last_n"), _integer),
    **dict.fromkeys(_SAMPLING, _number),
}
"""Ollama's options (api/types.go, Options); other plain values pass, for it ignores what it does not know."""


def _options(parameters: Any) -> dict[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _wrong("parameters", parameters, "an object")
    options: dict[str, Any] = {}
    for name, value in parameters.items():
        option, check = _PARAMETERS.get(name, (name, _OPTIONS.get(name, _plain)))
        if option in options:
            raise BadRequest(f"parameters.{name}: max_tokens and num_predict say the same; send one of them")
        if value is not None:
            options[option] = check(f"parameters.{name[:64]}", value)
    return options


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise _wrong(name, value, "a string, a number or a boolean")
    return value


GENERATE = Question(path="/api/generate", fields={"prompt": _string})
CHAT = Question(path="/api/chat", fields={"messages": _messages})
EMBEDDINGS = Question(path="/api/embed", fields={"input": _strings}, streams=False)
