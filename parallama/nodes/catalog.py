"""What the nodes have, as last heard: the sync view of models that codecs and the model rules look at.

Filled by the health checks from `/api/tags`, `/api/ps` and `/api/show`; it asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from parallama.gateway.described import Model, described
from parallama.gateway.names import canonical


@dataclass(frozen=True, slots=True)
class _Listed:
    """One model on disk."""

    name: str
    digest: str
    capabilities: frozenset[str]
    remote: bool
    """Its answers come from another host (a stub of a cloud model)."""
    longest_context: int | None
    """Tokens for which it was trained; None: unknown."""


class Catalog:
    """The models of the node."""

    def __init__(self) -> None:
        self._models: dict[str, _Listed] = {}
        self._contexts: dict[str, int] = {}
        self._described: dict[str, Model] = {}
        """By digest, under which a model never changes."""
        self.heard = False
        """Whether the node has told its models at least once."""

    def fill(self, tags: Mapping[str, Any], ps: Mapping[str, Any]) -> None:
        """Take over the answers of `/api/tags` and `/api/ps`."""
        models = [_listed(entry) for entry in _entries(tags)]
        self._models = {canonical(model.name): model for model in models}
        by_digest = {
            str(entry.get("digest")): entry["context_length"]
            for entry in _entries(ps)
            if isinstance(entry.get("context_length"), int)
        }
        # ps names only the first of several names of one file
        self._contexts = {
            name: by_digest[model.digest] for name, model in self._models.items() if model.digest in by_digest
        }
        digests = {model.digest for model in models}
        self._described = {digest: model for digest, model in self._described.items() if digest in digests}
        self.heard = True

    def describe(self, digest: str, show: Mapping[str, Any]) -> None:
        """Take over what `/api/show` answered for the model of that digest."""
        self._described[digest] = described(show)

    def undescribed(self) -> Mapping[str, str]:
        """By digest, a name of each model whose description is missing; stubs of cloud models have none."""
        models = self._models.values()
        missing = [one for one in models if one.digest and not one.remote and one.digest not in self._described]
        return {model.digest: model.name for model in missing}

    def described(self, name: str) -> Model:
        """What bears on the cost of asking a model, as far as the node has told it."""
        listed = self._models.get(canonical(name))
        if listed is None:
            return Model()
        shown = self._described.get(listed.digest, Model())
        if shown.longest_context and shown.capabilities:
            return shown
        return replace(
            shown,
            longest_context=shown.longest_context or listed.longest_context,
            capabilities=shown.capabilities or listed.capabilities,
        )

    def exists(self, name: str) -> bool:
        """Whether the node has a model of that name."""
        return canonical(name) in self._models

    def name_of(self, name: str) -> str | None:
        """The node's own spelling of a name; None when it has no such model."""
        model = self._models.get(canonical(name))
        return model.name if model else None

    def capabilities(self, name: str) -> frozenset[str]:
        """Such as `completion` or `embedding`; empty when unknown."""
        model = self._models.get(canonical(name))
        return model.capabilities if model else frozenset()

    def context(self, name: str) -> int | None:
        """Tokens of context with which the model is loaded; None when it is not, or unknown."""
        return self._contexts.get(canonical(name))

    def longest_context(self, name: str) -> int | None:
        """Tokens of context for which the model was trained; None: unknown."""
        model = self._models.get(canonical(name))
        return model.longest_context if model else None

    def remote(self, name: str) -> bool:
        """Whether the model is a stub whose answers come from another host."""
        model = self._models.get(canonical(name))
        return model is not None and model.remote

    def answering(self) -> list[str]:
        """The models that answer prompts, on the node itself; newest first."""
        models = self._models.values()
        return [model.name for model in models if "completion" in model.capabilities and not model.remote]

    def names(self) -> list[str]:
        """Every model, newest first."""
        return [model.name for model in self._models.values()]


def _entries(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    found = document.get("models")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _listed(entry: Mapping[str, Any]) -> _Listed:
    capabilities, details = entry.get("capabilities"), entry.get("details")
    longest = details.get("context_length") if isinstance(details, dict) else None
    return _Listed(
        name=str(entry.get("name", "")),
        digest=str(entry.get("digest", "")),
        capabilities=frozenset(map(str, capabilities)) if isinstance(capabilities, list) else frozenset(),
        remote=bool(entry.get("remote_host") or entry.get("remote_model")),
        longest_context=longest if isinstance(longest, int) and longest > 0 else None,
    )
