"""The node's models in Anthropic's shape, page by page or one by one, and the aliases of those that it has."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import orjson

from parallama.errors import BadRequest, ModelUnknown
from parallama.gateway.api import Codec, Inbound, Outbound
from parallama.gateway.fields import shown
from parallama.gateway.listing import Entry, listed, modified, require_usable
from parallama.gateway.names import canonical
from parallama.gateway.ndjson import NdjsonCodec
from parallama.gateway.sse import JSON

_LIMIT = 20
_MOST = 1000
_LONGEST_LIST = 256 * 1024 * 1024

_EPOCH = "1970-01-01T00:00:00Z"
"""What Anthropic tells for a date that is not known."""


def open_models(inbound: Inbound) -> Codec:
    """Raises BadRequest."""
    return ListModels(inbound, _limit(inbound.query))


def open_model(inbound: Inbound) -> Codec:
    """The model of the path, under the name that the client has for it. Raises NotAllowed."""
    require_usable(inbound.models, inbound.params["model"])
    return OneModel(inbound)


class _Models(NdjsonCodec):
    """Asks the node for its models, and answers when all of them are there."""

    max_line = _LONGEST_LIST
    reply = JSON

    def __init__(self, inbound: Inbound) -> None:
        super().__init__(inbound, Outbound(method="GET", path="/api/tags"))
        self._inbound = inbound
        self._found: dict[str, dict[str, Any]] = {}

    def is_last(self, message: dict[str, Any]) -> bool:
        """The answer is one document."""
        return True

    def line(self, message: dict[str, Any]) -> bytes:
        """Keep the models for the end."""
        models = self._inbound.models
        found = [_told(name, entry) for name, entry in listed(message, models.aliases(), models.usable)]
        self._found = {canonical(model["id"]): model for model in found}
        return b""

    def finish(self) -> bytes:
        """The whole answer. Raises ModelUnknown, or BadRequest for a page of which the model has gone."""
        super().finish()
        return orjson.dumps(self.answer())

    @abstractmethod
    def answer(self) -> dict[str, Any]:
        """The document."""


class ListModels(_Models):
    """`{data, has_more, first_id, last_id}`: at most `limit` models after one, or before another."""

    def __init__(self, inbound: Inbound, limit: int) -> None:
        super().__init__(inbound)
        self._limit = limit

    def answer(self) -> dict[str, Any]:
        """The page."""
        models = list(self._found.values())
        after, before = self._place("after_id"), self._place("before_id")
        left = models[0 if after is None else after + 1 : before]
        backwards = before is not None and after is None
        page = left[-self._limit :] if backwards else left[: self._limit]
        return {
            "data": page,
            "has_more": len(left) > len(page),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }

    def _place(self, name: str) -> int | None:
        id = self._inbound.query.get(name)
        if not id:
            return None
        try:
            return list(self._found).index(canonical(id))
        except ValueError:
            what = f"{name}: there is no model {shown(id)!r}"
            raise BadRequest(what, code="invalid_parameter", param=name) from None


class OneModel(_Models):
    """`{id, type, display_name, created_at, lifecycle}`."""

    def answer(self) -> dict[str, Any]:
        """The model."""
        name = self._inbound.params["model"]
        model = self._found.get(canonical(name))
        if model is None:
            raise ModelUnknown(f"model '{shown(name)}' not found")
        return {**model, "id": name, "display_name": name}


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit")
    if not given:
        return _LIMIT
    if not re.fullmatch("[0-9]{1,4}", given) or not 1 <= int(given) <= _MOST:
        what = f"limit: it must be a whole number from 1 to {_MOST}"
        raise BadRequest(what, code="invalid_parameter", param="limit")
    return int(given)


def _told(name: str, entry: Entry) -> dict[str, Any]:
    time = modified(entry)
    created_at = time.isoformat().replace("+00:00", "Z") if time else _EPOCH
    return {"type": "model", "id": name, "display_name": name, "created_at": created_at, "lifecycle": "active"}
