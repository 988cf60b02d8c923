"""The families of gateways as they are set now: the settings file, and over it what was recorded since.

Sync and without I/O; whoever reads the records hands them to `overlay`. An exchange takes a Serving at its start and
keeps it, so a change never reaches the middle of an exchange.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError, field_validator

from parallama.errors import ConfigError
from parallama.gateway.api import Gateway, Route
from parallama.gateway.mappings import Aliases, ModelMapping, ModelName, Section
from parallama.gateway.options import first_error, make_gateway, option_names, rather, routes_of

Document = Mapping[str, Any]
"""The settings of one family, as below `gateways.<family>` in the settings file."""


class FamilySettings(Section):
    """What the core does for a family; the other keys of its section are options of its plugin."""

    enabled: bool = True
    """False: every path of the family answers 404 in its dialect."""
    default_model: ModelName | None = None
    """Answers requests that name no model; none: they are refused."""
    endpoints: Mapping[str, bool] = Field(default_factory=dict)
    """Switches by endpoint, such as `chat`; one that is off answers 404 in the dialect. Those not named are on."""
    model_mappings: Mapping[ModelName, ModelMapping] = Field(default_factory=dict)
    """Names of models that only this family has, each with the node's model for it."""

    @field_validator("model_mappings")
    @classmethod
    def _distinct(cls, mappings: Mapping[str, ModelMapping]) -> Mapping[str, ModelMapping]:
        Aliases(mappings)
        return mappings


CORE_KEYS = tuple(FamilySettings.model_fields)
_MERGED = ("endpoints", "model_mappings")


def over(base: Document, patch: Document) -> dict[str, Any]:
    """`base` with the values of `patch` in place of its own; of switches and mappings each entry is a value of its
    own."""
    document = dict(base)
    for key, value in patch.items():
        entries = document.get(key)
        if key in _MERGED and isinstance(value, Mapping) and isinstance(entries, Mapping):
            value = {**entries, **value}
        document[key] = value
    return document


def merged(base: Document, record: Document) -> dict[str, Any]:
    """What is in force with `record` over `base`. A null takes a value away, so that the default holds."""
    document = {key: value for key, value in over(base, record).items() if value is not None}
    for key in _MERGED:
        if isinstance(entries := document.get(key), Mapping):
            document[key] = {name: entry for name, entry in entries.items() if entry is not None}
    return document


@dataclass(frozen=True, slots=True)
class Serving:
    """One gateway as it is set now."""

    gateway: Gateway
    settings: FamilySettings
    aliases: Aliases
    routes: Mapping[tuple[str, str], Route]
    """By method and path."""

    def open(self, route: Route) -> bool:
        """Whether the switch of `route` is on."""
        return self.settings.endpoints.get(route.switch, True)


@dataclass(slots=True)
class Mounted:
    """One gateway class on its mounts, from the start to the stop of the server."""

    serving: Serving
    """What is in force; changes at any time between two exchanges."""


@dataclass(slots=True)
class Family:
    """The gateway classes of one name, and what is set for them."""

    name: str
    classes: Sequence[type[Gateway]]
    base: Document
    """From the settings file."""
    document: Document = field(default_factory=dict)
    """What is in force: `base` with what was recorded over it."""
    mounted: list[Mounted] = field(default_factory=list)
    """One a class, in the order of `classes`."""

    @property
    def settings(self) -> FamilySettings:
        """What is in force."""
        return self.mounted[0].serving.settings

    @property
    def switches(self) -> list[str]:
        """The names of its endpoints, in the order of the routes."""
        return list(dict.fromkeys(route.switch for one in self.mounted for route in one.serving.routes.values()))

    def set(self, document: Document) -> None:
        """Put `document` in force. Raises ConfigError, and nothing has changed then."""
        servings = self._make(document)
        if not self.mounted:
            self.mounted = [Mounted(serving) for serving in servings]
        for one, serving in zip(self.mounted, servings, strict=True):
            one.serving = serving
        self.document = document

    def check(self, document: Document) -> None:
        """Raise ConfigError unless `document` could be in force."""
        self._make(document)

    def _make(self, document: Document) -> list[Serving]:
        self._refuse_unknown(document)
        settings = _family_settings(self.name, {key: document[key] for key in document if key in CORE_KEYS})
        options = {key: value for key, value in document.items() if key not in CORE_KEYS}
        gateways = [make_gateway(gateway, options) for gateway in self.classes]
        aliases = Aliases(settings.model_mappings)
        servings = [Serving(gateway, settings, aliases, routes_of(gateway)) for gateway in gateways]
        for one, serving in zip(self.mounted, servings, strict=False):
            if serving.routes.keys() != one.serving.routes.keys():
                raise ConfigError(f"gateways.{self.name}: these options change the routes, which takes a restart")
        switches = {route.switch for serving in servings for route in serving.routes.values()}
        for name in settings.endpoints:
            if name not in switches:
                raise ConfigError(f"gateways.{self.name}.endpoints.{name}: no such endpoint{rather(name, switches)}")
        return servings

    def _refuse_unknown(self, document: Document) -> None:
        known = [*CORE_KEYS, *(name for gateway in self.classes for name in option_names(gateway))]
        for key in document:
            if key not in known:
                raise ConfigError(f"gateways.{self.name}.{key}: no such option{rather(key, known)}")


class Families:
    """All families, by name."""

    def __init__(self, classes: Sequence[type[Gateway]], sections: Mapping[str, Document]) -> None:
        """`sections`: the settings below `gateways`. Raises ConfigError for a family that is not there, and for what
        cannot be in force."""
        grouped: dict[str, list[type[Gateway]]] = {}
        for gateway in classes:
            grouped.setdefault(gateway.name, []).append(gateway)
        for name in sections:
            if name not in grouped:
                raise ConfigError(f"gateways.{name}: no such gateway{rather(name, grouped)}")
        self._families = {name: Family(name, members, sections.get(name, {})) for name, members in grouped.items()}
        for family in self:
            family.set(family.base)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def __getitem__(self, name: str) -> Family:
        """Raises ConfigError when there is none of that name."""
        try:
            return self._families[name]
        except KeyError:
            raise ConfigError(f"there is no gateway {name!r}{rather(name, self._families)}") from None

    def overlay(self, records: Mapping[str, Document]) -> list[str]:
        """Put in force what was recorded, by family; a family that is not here is passed over. What cannot be in force
        is left as it is: the messages say what and why."""
        problems = []
        for family in self:
            document = merged(family.base, records.get(family.name, {}))
            try:
                if document != family.document:
                    family.set(document)
            except ConfigError as error:
                problems.append(str(error))
        return problems


def _family_settings(family: str, given: Document) -> FamilySettings:
    try:
        return FamilySettings.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"gateways.{family}.{first_error(error)}") from None
