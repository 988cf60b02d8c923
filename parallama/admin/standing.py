"""What is in force of a gateway family, as a document for those who look after it, and who has set each value of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from parallama.config.schema import secret_prefix
from parallama.config.secret import MASK, mask_url
from parallama.errors import ConfigError
from parallama.gateway.families import Document, Family, merged


def recorded(family: Family, record: Document) -> dict[str, Any]:
    """`standing` with `record` over the settings file, whatever is in force, and `problem`: why that cannot be; then it
    is the settings file alone that is shown. None: it can."""
    alone = Family(family.name, family.classes, family.base)
    document = merged(family.base, record)
    try:
        family.check(document)
        alone.set(document)
    except ConfigError as error:
        alone.set(family.base)
        return {**standing(alone, {}), "problem": str(error)}
    return {**standing(alone, record), "problem": None}


def standing(family: Family, record: Document) -> dict[str, Any]:
    """`{name, enabled, mounts, endpoints, default_model, model_mappings, options, from}`, where `record` is in force.

    `endpoints` has every switch, `options` every option of the plugin, with the secret ones masked. `from` says of each
    key, as in `places`, whether it was recorded, is in the settings, or is a default.
    """
    settings = family.settings
    found: dict[str, Any] = {
        "name": family.name,
        "enabled": settings.enabled,
        "mounts": [path for one in family.classes for path in one.paths],
        "default_model": settings.default_model,
        "endpoints": {name: settings.endpoints.get(name, True) for name in family.switches},
        "model_mappings": {alias: one.model_dump(mode="json") for alias, one in settings.model_mappings.items()},
        "options": _options(family),
    }
    return {**found, "from": {key: _origin(family, record, place) for key, place, _ in places(found)}}


def places(found: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """What can be set: its dotted key, its place in the section of the family, and its value."""
    for name in ("enabled", "default_model"):
        yield name, (name,), found[name]
    for key in ("endpoints", "model_mappings"):
        for name, value in found[key].items():
            yield f"{key}.{name}", (key, name), value
    for name, value in found["options"].items():
        yield name, (name,), value


def _options(family: Family) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for one in family.mounted:
        given = one.serving.gateway.options
        options |= TypeAdapter(type(given)).dump_python(given, mode="json")
    return {name: _masked(("gateways", family.name, name), value) for name, value in options.items()}


def _masked(key: tuple[str, ...], value: Any) -> Any:
    if value is not None and secret_prefix(key):
        return MASK
    if isinstance(value, dict):
        return {name: _masked((*key, name), inner) for name, inner in value.items()}
    return mask_url(value) if isinstance(value, str) else value


def _origin(family: Family, record: Document, place: tuple[str, ...]) -> str:
    origins = {"recorded": record, "settings": family.base}
    return next((origin for origin, document in origins.items() if _holds(document, place)), "default")


def _holds(document: Any, place: tuple[str, ...]) -> bool:
    first, *rest = place
    return isinstance(document, Mapping) and first in document and (not rest or _holds(document[first], tuple(rest)))
