"""A node's models as a family lists them: without those that an alias hides, and with its aliases behind them.

For the lists of every dialect; how an entry is told is the dialect's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from parallama.errors import UpstreamFailed
from parallama.gateway.fields import writable
from parallama.gateway.names import canonical

Entry = Mapping[str, Any]
"""What a node tells of a model: `{name, model, modified_at, size, digest, details, ...}`, any of them missing."""


def listed(tags: Entry, aliases: Mapping[str, str]) -> list[tuple[str, Entry]]:
    """The models that clients of a family may ask for, each with its name, of a node's answer to `/api/tags`.

    First those of the node, in its order, but for models with the name of an alias, which nobody can ask for. Then the
    `aliases` (`Models.aliases`) of its models, with the model's entry under their own name. Raises UpstreamFailed for
    an answer in another shape.
    """
    models = [(_name(entry), entry) for entry in _entries(tags)]
    found = {canonical(name): entry for name, entry in models}
    hidden = {canonical(alias) for alias in aliases}
    own = [(name, entry) for name, entry in models if canonical(name) not in hidden]
    targets = {alias: found.get(canonical(target)) for alias, target in aliases.items()}
    named = [(alias, {**entry, "name": alias, "model": alias}) for alias, entry in targets.items() if entry is not None]
    return [*own, *named]


def modified(entry: Entry) -> datetime | None:
    """When the model was changed, in UTC and to the second; None: the node does not tell."""
    try:
        moment = datetime.fromisoformat(str(entry.get("modified_at")))
        return moment.astimezone(UTC).replace(microsecond=0) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _entries(tags: Entry) -> list[Entry]:
    entries = tags.get("models") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not writable(tags):
        raise UpstreamFailed("the node sent a list of models in another shape")
    return entries


def _name(entry: Entry) -> str:
    return str(entry.get("name") or entry.get("model") or "")
