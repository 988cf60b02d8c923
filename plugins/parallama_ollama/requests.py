"""The request types of Ollama's native API as data, and what a request means: its model, and where it leads.

The fields are those of Ollama's api/types.go; what is not listed there Ollama ignores, and it passes through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from parallama.errors import ApiError, BadRequest, ModelUnknown
from parallama.gateway.api import Inbound, Outbound
from parallama_ollama.gojson import ANY, BOOL, INT, MAP, OPTIONAL_BOOL, RAW, STRING, STRINGS, Reading, Struct, read

_plain = re.compile("[A-Za-z0-9/:._~-]*").fullmatch
"""What stands in a path as it is."""

Missing = Callable[[], ApiError]


def _not_found() -> ApiError:
    return ModelUnknown("model '' not found")


def _required() -> ApiError:
    return BadRequest("model is required")


def _invalid() -> ApiError:
    return BadRequest("invalid model name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request type, and where it names models."""

    struct: Struct
    missing: Missing | None = _required
    """Ollama's answer to a request without a model; None: it needs none."""
    default: bool = False
    """Whether the default model, if there is one, stands in for a missing one."""
    model: str = "model"
    """The field with the model."""
    alias: str | None = None
    """Another field for the same, read when `model` is empty."""
    names: tuple[str, ...] = ()
    """Fields with further model names."""
    required_names: bool = False
    """Whether the further names may not be empty."""
    leaves_node: bool = False

    def understand(self, inbound: Inbound) -> Outbound:
        """The body of `inbound`, judged as Ollama judges it. Raises BadRequest or ModelUnknown."""
        reading = read(inbound.raw, self.struct)
        key = self._model_key(reading)
        if self.default and inbound.default_model and not reading.body.get(key):
            reading = Reading({**reading.body, key: inbound.default_model}, None)
        body = reading.body
        model = (body.get(key) or None) if key in self.struct.fields else None  # else of any type at all
        names = tuple([body.get(name, "") for name in self.names])
        if self.missing and (model is None or (self.required_names and "" in names)):
            raise self.missing()
        return Outbound(
            method=inbound.method,
            path=node_path(inbound),
            model=model,
            model_key=key,
            body=body,
            raw=reading.raw,
            names=tuple(filter(None, names)),
            leaves_node=self.leaves_node or bool(body.get("remote_host")),
        )

    def _model_key(self, reading: Reading) -> str:
        """The field that names the model; the other one, which can only say the same, is taken out of the body."""
        if self.alias is None:
            return self.model
        model, alias = reading.body.get(self.model), reading.body.get(self.alias)
        if model and alias and model != alias:
            raise BadRequest(f"{self.alias!r} and {self.model!r} name different models: send {self.model!r} alone")
        key = self.model if model or not alias else self.alias
        reading.body.pop(self.alias if key == self.model else self.model, None)
        return key


def node_path(inbound: Inbound) -> str:
    """The path on the node."""
    path = inbound.path
    return "/api" + (path if _plain(path) else quote(path, safe="/:"))


_MODEL = {"model": STRING}
_EITHER = {"model": STRING, "name": STRING}
_RUN = {"keep_alive": ANY, "options": MAP}
_GENERATION = {
    **_MODEL,
    **_RUN,
    "stream": OPTIONAL_BOOL,
    "format": RAW,
    "think": ANY,
    "truncate": OPTIONAL_BOOL,
    "shift": OPTIONAL_BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
}
_TRANSFER = {**_EITHER, "insecure": BOOL, "username": STRING, "password": STRING, "stream": OPTIONAL_BOOL}

_GENERATE = {
    **_GENERATION,
    "prompt": STRING,
    "suffix": STRING,
    "system": STRING,
    "template": STRING,
    "context": ANY,
    "raw": BOOL,
    "images": ANY,
}
_CREATE = {
    **_EITHER,
    "stream": OPTIONAL_BOOL,
    "from": STRING,
    "remote_host": STRING,
    "files": STRINGS,
    "adapters": STRINGS,
    "template": STRING,
    "license": ANY,
    "system": STRING,
    "parameters": MAP,
    "messages": ANY,
    "quantize": STRING,
    "quantization": STRING,
    "renderer": STRING,
    "parser": STRING,
    "requires": STRING,
    "info": MAP,
    "draft_files": STRINGS,
    "draft_quantize": STRING,
}
_EMBED = {**_MODEL, **_RUN, "input": ANY, "truncate": OPTIONAL_BOOL, "dimensions": INT}
_SHOW = {**_EITHER, "system": STRING, "template": STRING, "verbose": BOOL, "options": MAP}

GENERATE = Request(struct=Struct("GenerateRequest", _GENERATE), missing=_not_found, default=True)
CHAT = Request(struct=Struct("ChatRequest", {**_GENERATION, "messages": ANY, "tools": ANY}), default=True)
EMBED = Request(struct=Struct("EmbedRequest", _EMBED), missing=_not_found, default=True)
EMBEDDINGS = Request(struct=Struct("EmbeddingRequest", {**_MODEL, **_RUN, "prompt": STRING}), default=True)
SHOW = Request(struct=Struct("ShowRequest", _SHOW), alias="name", default=True)
PULL = Request(struct=Struct("PullRequest", _TRANSFER), alias="name", missing=_invalid)
PUSH = Request(struct=Struct("PushRequest", _TRANSFER), alias="name", missing=_invalid)
CREATE = Request(struct=Struct("CreateRequest", _CREATE), alias="name", missing=_invalid, names=("from",))
DELETE = Request(struct=Struct("DeleteRequest", _EITHER), alias="name", missing=_invalid)
COPY = Request(
    struct=Struct("CopyRequest", {"source": STRING, "destination": STRING}),
    model="source",
    names=("destination",),
    required_names=True,
    missing=_invalid,
)
SEARCH = Request(
    struct=Struct("WebSearchRequest", {"query": STRING, "max_results": INT}), missing=None, leaves_node=True
)
FETCH = Request(struct=Struct("WebFetchRequest", {"url": STRING}), missing=None, leaves_node=True)
