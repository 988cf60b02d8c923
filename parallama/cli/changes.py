"""What `gateway config` is asked to change, as a patch of what is recorded for a family. Without I/O but for the file.

Of an alias the whole mapping is recorded, so that what is not named stays as it is in force. A null takes a value away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from parallama.config import Level, Origin
from parallama.config.document import Document
from parallama.config.layers import Key, Tree, refusal
from parallama.errors import ConfigError
from parallama.gateway.families import CORE_KEYS, FamilySettings, merged, over
from parallama.gateway.names import canonical
from parallama.gateway.options import first_error, rather

Pairs = Iterable[tuple[str, str]]
"""Name and text of a value, which is YAML; an empty one takes the value away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The flags of `gateway config`, as they were given."""

    section: Mapping[str, Any] = field(default_factory=dict)
    """What a file holds, see `read_section`."""
    default_model: str | None = None
    no_default_model: bool = False
    endpoints: Iterable[tuple[str, bool]] = ()
    options: Pairs = ()
    model_mappings: Iterable[tuple[str, str]] = ()
    no_model_mappings: Iterable[str] = ()
    num_ctx: Pairs = ()
    keep_alive: Pairs = ()
    parameters: Iterable[tuple[str, str, str]] = ()
    """Alias, path, and the text of a value."""
    forced: Iterable[tuple[str, str, str]] = ()
    """Likewise; for parameters that clients cannot override."""

    def patch(self, family: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """What is to be recorded over `document`, which is in force; empty: nothing changes. Raises ConfigError for
        an alias that is not there, and for values that cannot be stored."""
        patch = dict(self.section)
        if patch:
            _check(family, merged(document, patch))
        if self.default_model is not None or self.no_default_model:
            patch["default_model"] = self.default_model
        if endpoints := dict(self.endpoints):
            patch = over(patch, {"endpoints": endpoints})
        patch |= {name: _option(family, name, text) for name, text in self.options}
        if mappings := self._mappings(merged(document, patch), family):
            patch = over(patch, {"model_mappings": mappings})
        return _stored(patch, family)

    def _mappings(self, document: Mapping[str, Any], family: str) -> Mapping[str, Any]:
        aliases = _Aliases(document.get("model_mappings", {}), family)
        for alias in self.no_model_mappings:
            aliases.remove(alias)
        for alias, model in self.model_mappings:
            aliases.point(alias, model)
        for name in ("num_ctx", "keep_alive"):
            for alias, text in getattr(self, name):
                aliases.put(alias, name, text)
        for allow_override, given in ((True, self.parameters), (False, self.forced)):
            for alias, path, text in given:
                aliases.put_parameter(alias, path, text, allow_override=allow_override)
        return aliases.changed


def _check(family: str, document: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the flags can be laid over it; the server checks the rest."""
    try:
        FamilySettings.model_validate({key: document[key] for key in CORE_KEYS if key in document})
    except ValidationError as error:
        raise ConfigError(f"gateways.{family}.{first_error(error)}") from None


def _option(family: str, name: str, text: str) -> Any:
    if name in CORE_KEYS:
        raise ConfigError(f"gateways.{family}.{name} is no option of the plugin; it has a flag of its own")
    return _value(text, f"--option {name}", ("gateways", family, name))


class _Aliases:
    """The mappings of a family while they are changed."""

    def __init__(self, mappings: Mapping[str, Any], family: str) -> None:
        self._entries = {alias: _long(entry) for alias, entry in mappings.items()}
        self._family = family
        self.changed: dict[str, Any] = {}
        """By alias, as it is to be recorded."""

    def remove(self, alias: str) -> None:
        known = self._known(alias)
        del self._entries[known]
        self.changed[known] = None

    def point(self, alias: str, model: str) -> None:
        known = self._find(alias) or alias
        self._entries[known] = self.changed[known] = {**self._entries.get(known, {}), "model": model}

    def put(self, alias: str, field: str, text: str) -> None:
        known = self._known(alias)
        self._put(known, field, self._value(text, known, field))

    def put_parameter(self, alias: str, path: str, text: str, *, allow_override: bool) -> None:
        known = self._known(alias)
        value = self._value(text, known, path)
        kept = {name: one for name, one in self._entries[known].get("parameters", {}).items() if name != path}
        added = {} if value is None else {path: {"value": value, "allow_override": allow_override}}
        self._put(known, "parameters", {**kept, **added} or None)

    def _put(self, known: str, field: str, value: Any) -> None:
        """Without `field` where the value is None."""
        kept = {name: one for name, one in self._entries[known].items() if name != field}
        self._entries[known] = self.changed[known] = kept if value is None else {**kept, field: value}

    def _value(self, text: str, alias: str, name: str) -> Any:
        return _value(text, f"{alias}: {name}", ("gateways", self._family, "model_mappings", alias, name))

    def _find(self, alias: str) -> str | None:
        """As it is written where it is set."""
        return next((known for known in self._entries if canonical(known) == canonical(alias)), None)

    def _known(self, alias: str) -> str:
        if (known := self._find(alias)) is None:
            raise ConfigError(f"there is no alias {alias!r}{rather(alias, self._entries)}")
        return known


def _long(entry: Any) -> dict[str, Any]:
    """A mapping in its long form."""
    return dict(entry) if isinstance(entry, Mapping) else {"model": entry}


def _value(text: str, source: str, key: Key) -> Any:
    return _tree(Document(Origin(Level.FLAG, source)).read(text, key)).get(key)


def _tree(document: Document) -> Tree:
    if document.problems:
        raise refusal(document.problems)
    tree = Tree({})
    for leaf in document.leaves:
        tree.put(leaf)
    return tree


def read_section(path: Path, family: str) -> dict[str, Any]:
    """What a file holds for `family`, written as in the settings file below `gateways.<family>`. Raises ConfigError."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it must be UTF-8 text") from None
    key: Key = ("gateways", family)
    section = _tree(Document(Origin(Level.FILE, str(path)), os.environ).read(text, key)).get(key)
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: it must hold what stands below gateways.{family}: lines `key: value`")
    return section or {}


def _stored(patch: Mapping[str, Any], family: str) -> dict[str, Any]:
    """`patch` as the database gives it back."""
    try:
        text = orjson.dumps(patch)
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"gateways.{family}: this cannot be stored: {error}") from None
    stored: dict[str, Any] = orjson.loads(text)
    if stored != patch or rb"\u0000" in text.replace(rb"\\", b""):
        raise ConfigError(f"gateways.{family}: this cannot be stored: NaN, an infinite number, or a NUL in a text")
    return stored
