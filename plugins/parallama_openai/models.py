"""`GET /models` and `GET /models/{model}`: what the node has, and the family's own names for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from parallama.errors import ModelUnknown
from parallama.gateway.api import Codec, Inbound, Outbound
from parallama.gateway.fields import shown
from parallama.gateway.listing import Entry, listed, modified, require_usable
from parallama.gateway.names import canonical
from parallama.gateway.ndjson import NdjsonCodec
from parallama.gateway.sse import JSON


def open_models(inbound: Inbound) -> Codec:
    """The list."""
    return Models(inbound)


def open_model(inbound: Inbound) -> Codec:
    """The one that the path names. Raises NotAllowed."""
    require_usable(inbound.models, inbound.params["model"])
    return Model(inbound)


class Models(NdjsonCodec):
    """`{object: "list", data: [{id, object, created, owned_by}]}`, in the node's order, aliases last."""

    reply = JSON
    max_line = 64 * 1024 * 1024

    def __init__(self, inbound: Inbound) -> None:
        super().__init__(inbound, Outbound(method="GET", path="/api/tags"))

    def is_last(self, message: dict[str, Any]) -> bool:
        return True

    def line(self, message: dict[str, Any]) -> bytes:
        return orjson.dumps({"object": "list", "data": list(self._listed(message))})

    def _listed(self, tags: Entry) -> Iterator[dict[str, Any]]:
        for name, entry in listed(tags, self._models.aliases(), self._models.usable):
            time = modified(entry)
            created = int(time.timestamp()) if time else 0
            yield {"id": name, "object": "model", "created": created, "owned_by": "parallama"}


class Model(Models):
    """`{id, object, created, owned_by}`, with the id as the client wrote it."""

    def __init__(self, inbound: Inbound) -> None:
        super().__init__(inbound)
        self._name = inbound.params["model"]
        self._found: dict[str, Any] | None = None

    def line(self, message: dict[str, Any]) -> bytes:
        wanted = canonical(self._name)
        self._found = next((model for model in self._listed(message) if canonical(model["id"]) == wanted), None)
        return b""

    def finish(self) -> bytes:
        """Raises ModelUnknown."""
        super().finish()
        if self._found is None:
            raise ModelUnknown(f"the model {shown(self._name)!r} does not exist")
        return orjson.dumps({**self._found, "id": self._name})
