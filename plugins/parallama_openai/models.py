"""`GET /models` and `GET /models/{model}`: what the node has, and the family's own names for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from parallama.errors import ModelUnknown, UpstreamFailed
from parallama.gateway.api import Codec, Inbound, Outbound
from parallama.gateway.fields import shown
from parallama.gateway.names import canonical
from parallama.gateway.ndjson import NdjsonCodec
from parallama_openai.answers import JSON


def open_models(inbound: Inbound) -> Codec:
    """The list."""
    return Models(inbound)


def open_model(inbound: Inbound) -> Codec:
    """The one that the path names."""
    return Model(inbound)


class Models(NdjsonCodec):
    """`{object: "list", data: [{id, object, created, owned_by}]}`, in the node's order, aliases last."""

    reply = JSON
    max_line = 64 * 1024 * 1024

    def __init__(self, inbound: Inbound) -> None:
        super().__init__(inbound, Outbound(method="GET", path="/api/tags"))
        self._aliases = inbound.models.aliases()

    def is_last(self, message: dict[str, Any]) -> bool:
        return True

    def line(self, message: dict[str, Any]) -> bytes:
        return orjson.dumps({"object": "list", "data": list(self._listed(message))})

    def _listed(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """An alias takes the place of a model of the same name, which nobody can ask for."""
        created = {_name(entry): _unix(entry.get("modified_at")) for entry in _entries(message)}
        at = {canonical(name): time for name, time in created.items()}
        aliases = {alias: at[canonical(target)] for alias, target in self._aliases.items() if canonical(target) in at}
        hidden = {canonical(alias) for alias in aliases}
        found = {name: time for name, time in created.items() if canonical(name) not in hidden}
        for name, time in (found | aliases).items():
            yield {"id": name, "object": "model", "created": time, "owned_by": "parallama"}


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


def _entries(message: dict[str, Any]) -> list[dict[str, Any]]:
    entries = message.get("models") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UpstreamFailed("the node sent a list of models in another shape")
    return entries


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or entry.get("model") or "")


def _unix(time: Any) -> int:
    """Unix seconds of an RFC 3339 time; 0 for what is none."""
    try:
        moment = datetime.fromisoformat(str(time))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0
