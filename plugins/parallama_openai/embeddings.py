"""`POST /embeddings`: the vectors of `/api/embed`, as numbers or as the bytes of them, which SDKs ask for."""

from __future__ import annotations

import base64
import struct
from typing import Any, Protocol

import orjson

from parallama.errors import UpstreamFailed
from parallama.gateway.api import Codec, Inbound, Outbound
from parallama.gateway.fields import Fields, read_body
from parallama.gateway.ndjson import NdjsonCodec
from parallama.gateway.sse import JSON
from parallama_openai.parameters import end_user

_ODD = "the node sent embeddings in another shape"


class Limits(Protocol):
    """Those of the gateway's options that bind here."""

    @property
    def max_embedding_inputs(self) -> int:
        """Texts that one request may hold."""
        ...


def open_embedding(inbound: Inbound, options: Limits) -> Codec:
    """The codec of a request to embed. Raises BadRequest."""
    given = read_body(inbound.raw)
    name, texts = given.model(inbound), _texts(given, options.max_embedding_inputs)
    packed = given.string("encoding_format", among=("float", "base64")) == "base64"
    dimensions = given.integer("dimensions", least=1)
    body = {"model": name, "input": texts, **({"dimensions": dimensions} if dimensions else {})}
    codec = Embedding(inbound, Outbound(method="POST", path="/api/embed", model=name, body=body), packed=packed)
    codec.ignored = [name for name in ("user",) if name in given]
    codec.end_user = end_user(given)
    return codec


def _texts(given: Fields, most: int) -> list[str]:
    value = given.any("input", required=True)
    entries = [value] if isinstance(value, str) else value
    if isinstance(entries, list) and entries and isinstance(entries[0], int | float | list):
        given.refuse("input", "arrays of tokens are not supported; send texts")
    texts = given.strings("input") or []
    if not texts or not all(texts):
        given.refuse("input", "it must be a text, or an array of texts, and none may be empty")
    if len(texts) > most:
        given.refuse("input", f"{len(texts)} texts are too many; one request may hold {most}")
    return texts


class Embedding(NdjsonCodec):
    """`{object: "list", data: [{object: "embedding", index, embedding}], model, usage}`, in the order of the texts."""

    max_line = 256 * 1024 * 1024
    reply = JSON

    def __init__(self, inbound: Inbound, outbound: Outbound, *, packed: bool) -> None:
        super().__init__(inbound, outbound)
        self._model = outbound.model
        self._encode = pack if packed else _numbers
        self._count = len((outbound.body or {})["input"])

    def is_last(self, message: dict[str, Any]) -> bool:
        return True

    def line(self, message: dict[str, Any]) -> bytes:
        """The answer for the node's one document."""
        vectors = message.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != self._count:
            raise UpstreamFailed(_ODD)
        data = [{"object": "embedding", "index": at, "embedding": self._encode(v)} for at, v in enumerate(vectors)]
        tokens = self._usage.prompt_tokens or 0
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._model, "usage": usage})


def _numbers(vector: Any) -> list[float]:
    if not isinstance(vector, list) or not {type(number) for number in vector} <= {float, int}:
        raise UpstreamFailed(_ODD)
    return vector


def pack(vector: Any) -> str:
    """A vector as the base64 of its 32-bit floats, little-endian. Raises UpstreamFailed for what is none."""
    try:
        packed = struct.pack(f"<{len(vector)}f", *vector)
    except (TypeError, struct.error, OverflowError):
        raise UpstreamFailed(_ODD) from None
    return base64.b64encode(packed).decode()
