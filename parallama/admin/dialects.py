"""The gateways' own routes in the OpenAPI document: their places, and what the core asks of who calls them.

What goes in and out is the dialect's; it is described where the dialect is.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from parallama.gateway.api import Body, Gateway, Route, Use
from parallama.gateway.families import Family

Schema = dict[str, Any]

_PATTERN = re.compile(r"{([a-zA-Z_]\w*):[^{}]*(?:{[^{}]*}[^{}]*)*}")
"""A variable with what it may hold, in which braces may stand too, as aiohttp reads it."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_VARIABLE = re.compile(r"{(\w+)}")
_MEDIA = {Body.JSON: "application/json", Body.STREAM: "application/octet-stream"}
_ANSWERS: Schema = {
    "2XX": {"description": "The answer as the dialect has it."},
    "default": {"description": "An error as the dialect has it; 404 too while the gateway or this endpoint is off."},
}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A route on one of the mounts of its gateway."""

    gateway: Gateway
    route: Route
    path: str


def plain(path: str) -> str:
    """A route's path without what its variables may hold: `/{name:.+}` is `/{name}`."""
    return _PATTERN.sub(r"{\1}", path)


def dialect_tags(families: Iterable[Family]) -> Iterator[Schema]:
    """One for each family, which says whose dialect it is."""
    for family in families:
        told = dict.fromkeys(inspect.cleandoc(one.__doc__ or one.__name__) for one in family.classes)
        whose = f"The gateway `{family.name}`, in its own dialect."
        yield {"name": family.name, "description": "\n\n".join([whose, *told])}


def dialect_paths(families: Iterable[Family], security: list[Schema]) -> dict[str, Schema]:
    """The operations by path and method, in lower case. Gateways that share a place share its entry, whatever its
    variables are called."""
    shared: dict[str, dict[str, list[_Endpoint]]] = {}
    places: dict[str, str] = {}
    for one in _endpoints(families):
        path = places.setdefault(_VARIABLE.sub("{}", one.path), one.path)
        shared.setdefault(path, {}).setdefault(one.route.method.lower(), []).append(one)
    names: Counter[str] = Counter()
    return {
        path: {method: _operation(path, endpoints, security, names) for method, endpoints in methods.items()}
        for path, methods in shared.items()
    }


def _endpoints(families: Iterable[Family]) -> Iterator[_Endpoint]:
    """All but those that stand for another one, with a slash at its end, and those whose method OpenAPI cannot say."""
    for serving in (one.serving for family in families for one in family.mounted):
        for (method, path), route in serving.routes.items():
            if method not in _METHODS or (path.endswith("/") and (method, path.rstrip("/")) in serving.routes):
                continue
            for mount in serving.gateway.paths:
                yield _Endpoint(serving.gateway, route, plain(mount + path))


def _operation(path: str, endpoints: list[_Endpoint], security: list[Schema], taken: Counter[str]) -> Schema:
    names = list(dict.fromkeys(one.gateway.name for one in endpoints))
    method, use = endpoints[0].route.method, endpoints[0].route.use
    described: Schema = {
        "operationId": _name([names[0], method.lower(), *re.findall(r"\w+", path)], taken),
        "tags": names,
        "summary": f"{method} {path}: {use}, in the dialect of {' or '.join(names)}",
        "description": "\n\n".join(map(_who, endpoints)),
        "security": security,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _VARIABLE.findall(path)
        ],
        "responses": _ANSWERS,
    }
    content = {_MEDIA[one.route.body]: _body(one) for one in endpoints if one.route.body in _MEDIA}
    return described | ({"requestBody": {"content": content}} if content else {})


def _name(words: list[str], taken: Counter[str]) -> str:
    """Of the words; with a number where paths differ by what stands between their words alone."""
    name = "_".join(words)
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def _who(endpoint: _Endpoint) -> str:
    gateway = endpoint.gateway
    needed = f"use_{gateway.name}" + (" and manage_models" if endpoint.route.use is Use.MANAGE else "")
    header = gateway.required_header
    return f"Needs {needed}{f', for requests with the header {header}' if header else ''}."


def _body(endpoint: _Endpoint) -> Schema:
    if endpoint.route.body is Body.STREAM:
        return {"schema": {"type": "string", "format": "binary"}}
    return {"schema": {"type": "object", "description": f"As the dialect of {endpoint.gateway.name} has it."}}
