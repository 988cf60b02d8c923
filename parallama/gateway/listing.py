"""A node's models as a family lists them: without those that an alias hides, and with its aliases behind them; and
only those that the caller's key is for.

For the lists of every dialect; how an entry is told is the dialect's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from parallama.errors import NotAllowed, UpstreamFailed
from parallama.gateway.api import Models
from parallama.gateway.fields import shown, writable
from parallama.gateway.names import canonical

Entry = Mapping[str, Any]
"""What a node tells of a model: `{name, model, modified_at, size, digest, details, ...}`, any of them missing."""


def listed(
    tags: Entry, aliases: Mapping[str, str], usable: Callable[[str], bool] = lambda _name: True
) -> list[tuple[str, Entry]]:
    """The models that a client of a family may ask for, each with its name, of a node's answer to `/api/tags`.

    First those of the node, in its order, but for models with the name of an alias, which nobody can ask for. Then the
    `aliases` (`Models.aliases`) of its models, with the model's entry under their own name. Of both those that are
    `usable` (`Models.usable`). Raises UpstreamFailed for an answer in another shape.
    """
    models = [(name_of(entry), entry) for entry in entries(tags)]
    found = {canonical(name): entry for name, entry in models}
    hidden = {canonical(alias) for alias in aliases}
    own = [(name, entry) for name, entry in models if canonical(name) not in hidden]
    targets = {alias: found.get(canonical(target)) for alias, target in aliases.items()}
    named = [(alias, {**entry, "name": alias, "model": alias}) for alias, entry in targets.items() if entry is not None]
    return [(name, entry) for name, entry in (*own, *named) if usable(name)]


def require_usable(models: Models, name: str) -> None:
    """Raise NotAllowed for a model that the caller's key is not for. For what asks no node for the model by name: of
    all else the core sees to that."""
    if not models.usable(name):
        raise not_for(name)


def not_for(model: str) -> NotAllowed:
    """The error for a key that is limited to other models."""
    return NotAllowed(f"this key is not for the model {shown(model)!r}", code="model_access_denied")


def modified(entry: Entry) -> datetime | None:
    """When the model was changed, in UTC and to the second; None: the node does not tell."""
    try:
        moment = datetime.fromisoformat(str(entry.get("modified_at")))
        return moment.astimezone(UTC).replace(microsecond=0) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def entries(tags: Entry) -> list[Entry]:
    """The models in a node's answer to `/api/tags` or `/api/ps`. Raises UpstreamFailed for one in another shape."""
    found = tags.get("models") or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found) or not writable(tags):
        raise UpstreamFailed("the node sent a list of models in another shape")
    return found


def name_of(entry: Entry) -> str:
    """The node's name for the model; empty: it tells none."""
    return str(entry.get("name") or entry.get("model") or "")
