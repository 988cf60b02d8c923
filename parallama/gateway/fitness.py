"""Whether a gateway class can be mounted: its attributes, its options, its routes, its place among the others.

`judged` says no with Unfit, whose message is for the operator: what is wrong; what would be right. What a stranger's
class raises while it is looked at passes: the caller blames its plugin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from inspect import iscoroutinefunction
from typing import Any

from pydantic import BaseModel

from parallama.errors import ConfigError
from parallama.gateway.api import API, Body, Gateway, Route, Use
from parallama.gateway.families import CORE_KEYS
from parallama.gateway.options import make_gateway, option_names

OURS = frozenset({"admin", "auth", "discovery", "healthz", "me", "metrics", "readyz", "status", "ui"})
"""First segments of the paths that the server itself answers, beside `/` and `/ollama`."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOUNT = re.compile(r"(/(?!\.+(/|$))[A-Za-z0-9._~-]+)+")
_METHOD = re.compile(r"[A-Z]+")
_HEADER = re.compile(r"[A-Za-z0-9-]*")
_ROUTE = re.compile(r"(/([^/{}\s]|\{[A-Za-z_]\w*(:[^{}]+)?\})*)*")
_VARIABLE = re.compile(r"\{[^{}]*\}")


_LONGEST = 500
"""Characters of what a stranger's exception says."""


class Unfit(Exception):
    """A gateway class that cannot be mounted; the message says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A gateway class that can be."""

    plugin: str
    """By the name of its entry point."""
    gateway: type[Gateway]
    routes: Sequence[Route]


def judged(offered: Any, plugin: str, others: Iterable[Fit]) -> Fit:
    """What `plugin` offers as a gateway class, beside those that are mounted already. Raises Unfit."""
    if not (isinstance(offered, type) and issubclass(offered, Gateway)):
        raise Unfit(f"{offered!r} is no subclass of parallama.Gateway; register_gateways returns a list of classes")
    _judge_attributes(offered)
    fit = Fit(plugin, offered, _routes(_made(offered)))
    for other in others:
        _judge_neighbours(fit, other)
    return fit


def _is_paths(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(path, str) for path in value)


def _is_roles(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(role, str) for role in value)


def _is_options(value: Any) -> bool:
    return isinstance(value, type) and (is_dataclass(value) or issubclass(value, BaseModel))


_ATTRIBUTES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda name: isinstance(name, str) and bool(_NAME.fullmatch(name)),
        'be lower-case letters, digits and _, such as "notes"',
    ),
    "paths": (_is_paths, 'be a tuple of mounts, such as ("/notes",)'),
    "required_header": (
        lambda name: isinstance(name, str) and bool(_HEADER.fullmatch(name)),
        'be the name of a header, or ""',
    ),
    "roles": (_is_roles, 'be a tuple of roles, such as ("basic",)'),
    "Options": (_is_options, "be a dataclass or a pydantic model"),
}
"""What each class attribute must be, as a check and in words."""


def _judge_attributes(gateway: type[Gateway]) -> None:
    called = gateway.__name__
    if gateway.api != API or type(gateway.api) is not int:
        raise Unfit(
            f"{called} was written for generation {gateway.api!r} of the gateway API; this is generation {API}:"
            " install a release of the plugin for it"
        )
    for attribute, (right, words) in _ATTRIBUTES.items():
        value = getattr(gateway, attribute, None)
        if not right(value):
            raise Unfit(f"{called}.{attribute} is {value!r}; it must {words}")
    _judge_paths(gateway)


def _judge_paths(gateway: type[Gateway]) -> None:
    called = gateway.__name__
    for number, path in enumerate(gateway.paths):
        if not _MOUNT.fullmatch(path):
            raise Unfit(f"{called}.paths: {path!r} must begin with a slash and end without one, such as '/notes'")
        if path in gateway.paths[:number]:
            raise Unfit(f"{called}.paths: {path} is there twice")
        if path.split("/")[1] in OURS or path == "/ollama":
            raise Unfit(f"{called} wants {path}, which is the server's own; take another path")


def _made(gateway: type[Gateway]) -> Gateway:
    """As it is for whoever sets nothing."""
    called = gateway.__name__
    if missing := sorted(gateway.__abstractmethods__):
        raise Unfit(f"{called} lacks {', '.join(missing)}; a gateway has routes() and render_error()")
    for name in option_names(gateway):
        if name in CORE_KEYS:
            raise Unfit(f"{called}.Options.{name}: that is a setting of every family; take another name")
    try:
        return make_gateway(gateway, {})
    except ConfigError as error:
        why = f"{str(error).rpartition(': ')[0]}: {words(error.__cause__)}" if error.__cause__ else error
        raise Unfit(f"{called} cannot be made without settings ({why}); its options need defaults that work") from None


def _routes(gateway: Gateway) -> Sequence[Route]:
    called, found = type(gateway).__name__, list(gateway.routes())
    seen: set[tuple[str, str]] = set()
    for route in found:
        if not isinstance(route, Route):
            raise Unfit(f"{called}.routes() gives {route!r}; it must give parallama.Route and nothing else")
        if wrong := next(_wrong(route), None):
            raise Unfit(f"{called}: the route {route.method} {route.path}: {wrong}")
        alike = route.method, _VARIABLE.sub("{}", route.path)
        if alike in seen:
            raise Unfit(f"{called} has two routes for {route.method} {route.path}; leave one out")
        seen.add(alike)
    return found


def _wrong(route: Route) -> Iterator[str]:
    if not (isinstance(route.method, str) and _METHOD.fullmatch(route.method)):
        yield "its method must be in capitals, such as 'POST'"
    if not (isinstance(route.path, str) and _ROUTE.fullmatch(route.path)):
        yield "its path must be '' or begin with a slash; a variable segment is '{name}'"
    elif wrong := _wrong_variables(route.path):
        yield wrong
    if not isinstance(route.use, Use):
        yield "its use must be one of parallama.Use"
    if not isinstance(route.body, Body):
        yield "its body must be one of parallama.Body"
    if not (callable(route.open) and (route.wants is None or callable(route.wants))):
        yield "its open, and its wants if it has one, must be functions of an Inbound"
    if iscoroutinefunction(route.open) or iscoroutinefunction(route.wants):
        yield "its open, and its wants if it has one, must be plain functions: a gateway waits for nothing"
    if not isinstance(route.endpoint, str):
        yield "its endpoint must be a name, or ''"


def _wrong_variables(path: str) -> str | None:
    """What is wrong with the variables of a path; None: nothing."""
    variables = [variable[1:-1].partition(":") for variable in _VARIABLE.findall(path)]
    names = [name for name, _, _ in variables]
    if len(set(names)) < len(names):
        return "two of its variables have one name"
    for name, _, expression in variables:
        try:
            re.compile(expression)
        except re.error as error:
            return f"the expression of {name} is none: {error}"
    return None


def _judge_neighbours(fit: Fit, other: Fit) -> None:
    called = fit.gateway.__name__
    if fit.plugin != other.plugin and fit.gateway.name == other.gateway.name:
        raise Unfit(
            f"{called} is of the family {fit.gateway.name!r}, which plugin {other.plugin!r} has already;"
            " uninstall one of them"
        )
    for path in fit.gateway.paths:
        if path in other.gateway.paths:
            raise Unfit(f"{called} wants {path}, which plugin {other.plugin!r} has already; take another path")
    for hidden in _hidden(fit, other):
        raise Unfit(f"{called} lies in the way of {hidden} of plugin {other.plugin!r}; take another path")
    for hidden in _hidden(other, fit):
        raise Unfit(f"{called} cannot be reached at {hidden}, where plugin {other.plugin!r} is; take another path")


def _hidden(above: Fit, below: Fit) -> Iterator[str]:
    """The routes of `below` whose requests would come to a mount of `above`, the longer path, and be lost there.

    None are where `above` requires a header: whoever lacks it is passed on.
    """
    if above.gateway.required_header:
        return
    for mount in above.gateway.paths:
        for path in below.gateway.paths:
            if mount.startswith(f"{path}/"):
                yield from (path + route.path for route in below.routes if _matches(path + route.path, mount))


def _matches(pattern: str, mount: str) -> bool:
    """Whether a path that `pattern` describes may lie at or below `mount`."""
    segments, wanted = pattern.split("/"), mount.split("/")
    for segment, literal in zip(segments, wanted, strict=False):
        if ":" in segment and "{" in segment:
            return True  # an expression may take in slashes
        if "{" not in segment and segment != literal:
            return False
    return len(segments) >= len(wanted)


def words(error: BaseException) -> str:
    """What a stranger's exception is and says."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - nor need it be able to say what it is
        said = ""
    return f"{type(error).__name__}: {said[:_LONGEST]}" if said else type(error).__name__
