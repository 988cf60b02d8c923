"""The models as one family's codecs see them: those of the nodes, and the family's own names for some."""

from __future__ import annotations

from collections.abc import Mapping

from parallama.exchange import KeyPolicy
from parallama.gateway.mappings import Aliases
from parallama.gateway.names import matches
from parallama.nodes.catalog import Catalog
from parallama.proxy.ratios import TokenRatios


class FamilyModels:
    """What `parallama.gateway.api.Models` promises."""

    __slots__ = ("_aliases", "_catalog", "_patterns", "_ratios")

    def __init__(self, catalog: Catalog, aliases: Aliases, ratios: TokenRatios, policy: KeyPolicy | None) -> None:
        self._catalog, self._aliases, self._ratios = catalog, aliases, ratios
        self._patterns = None if policy is None else policy.models

    def exists(self, name: str) -> bool:
        return not self._catalog.heard or self._catalog.exists(self._aliases.target(name))

    def capabilities(self, name: str) -> frozenset[str]:
        return self._catalog.capabilities(self._aliases.target(name))

    def context(self, name: str) -> int | None:
        return self._catalog.context(self._aliases.target(name))

    def longest_context(self, name: str) -> int | None:
        return self._catalog.longest_context(self._aliases.target(name))

    def aliases(self) -> Mapping[str, str]:
        return self._aliases.names

    def limited(self) -> bool:
        return self._patterns is not None

    def usable(self, name: str) -> bool:
        return self._patterns is None or matches(self._patterns, self._aliases.target(name))

    def tokens(self, name: str, text_bytes: int) -> int:
        return self._ratios.tokens(self._aliases.target(name), text_bytes)
