"""Finds the plugins through their entry points and makes their gateways.

Entry points are loaded one by one, so that a broken plugin is named and the others work.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import click
import pluggy
from pydantic import TypeAdapter, ValidationError

from parallama.errors import ConfigError
from parallama.gateway import hookspecs
from parallama.gateway.api import API, Gateway

GROUP = "parallama"
"""The entry point group; also the name of the pluggy project."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOUNT = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(slots=True)
class Plugins:
    """The plugins of this installation."""

    manager: pluggy.PluginManager
    problems: list[str] = field(default_factory=list)
    """What could not be used, each naming its plugin and what is wrong."""

    @classmethod
    def load(cls, found: Iterable[EntryPoint] | None = None) -> Plugins:
        """Import and register every plugin (default: those installed). Never raises for a plugin's fault."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        plugins = cls(manager)
        for entry in sorted(entry_points(group=GROUP) if found is None else found, key=lambda e: e.name):
            plugins._register(entry)
        return plugins

    def _register(self, entry: EntryPoint) -> None:
        try:
            module = entry.load()
            self.manager.register(module, name=entry.name)
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            self._problem(entry.name, f"cannot be loaded: {type(error).__name__}: {error}")
            return
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.manager.unregister(module)
            self._problem(entry.name, f"{error}; the hooks are register_gateways and register_commands")

    def _problem(self, plugin: str, what: str) -> None:
        self.problems.append(f"plugin {plugin!r}: {what}")

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands."""
        for hook in self.manager.hook.register_commands.get_hookimpls():
            try:
                hook.function(cli)
            except Exception as error:  # noqa: BLE001 - a stranger's hook may raise anything
                self._problem(hook.plugin_name, f"register_commands failed: {type(error).__name__}: {error}")

    def classes(self) -> list[type[Gateway]]:
        """The usable gateway classes, in the order of their plugins' names."""
        found: list[type[Gateway]] = []
        mounts: dict[str, str] = {}
        for hook in self.manager.hook.register_gateways.get_hookimpls():
            try:
                offered = list(cast("Iterable[Any]", hook.function()))
            except Exception as error:  # noqa: BLE001 - a stranger's hook may raise anything
                self._problem(hook.plugin_name, f"register_gateways failed: {type(error).__name__}: {error}")
                continue
            for gateway in offered:
                if fault := next(_faults(gateway, mounts), None):
                    self._problem(hook.plugin_name, fault)
                    continue
                mounts.update(dict.fromkeys(gateway.paths, hook.plugin_name))
                found.append(gateway)
        return found


def _faults(gateway: Any, mounts: Mapping[str, str]) -> Iterator[str]:
    if not (isinstance(gateway, type) and issubclass(gateway, Gateway)):
        yield f"{gateway!r} is no subclass of parallama.Gateway"
        return
    called = gateway.__name__
    if gateway.api != API:
        yield f"{called} was written for generation {gateway.api} of the gateway API; this is generation {API}"
    if not _NAME.fullmatch(gateway.name):
        yield f"{called}.name {gateway.name!r} must be lower-case letters, digits and _"
    for path in gateway.paths:
        if not _MOUNT.fullmatch(path):
            yield f"{called}.paths: {path!r} must begin with a slash and end without one"
        if path in mounts:
            yield f"{called} wants {path}, which plugin {mounts[path]!r} has already"


def make_gateways(classes: Sequence[type[Gateway]], options: Mapping[str, Mapping[str, Any]]) -> list[Gateway]:
    """One gateway a class, with the options of its family from the settings section `gateways`.

    Raises ConfigError for a family that is not installed, an unknown option, or a wrong value.
    """
    families = sorted({gateway.name for gateway in classes})
    for family in options.keys() - set(families):
        raise ConfigError(f"gateways.{family}: no such gateway{_rather(family, families)}")
    for family, given in options.items():
        known = sorted({name for gateway in classes if gateway.name == family for name in _fields(gateway.Options)})
        for key in given.keys() - set(known):
            raise ConfigError(f"gateways.{family}.{key}: no such option{_rather(key, known)}")
    return [gateway(_options(gateway, options.get(gateway.name, {}))) for gateway in classes]


def _rather(wrong: str, right: Sequence[str]) -> str:
    if not right:
        return "; there are none"
    near = difflib.get_close_matches(wrong, right, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(right)}"


def _fields(options: type) -> Iterable[str]:
    return getattr(options, "__annotations__", {})


def _options(gateway: type[Gateway], given: Mapping[str, Any]) -> Any:
    known = set(_fields(gateway.Options))
    try:
        return TypeAdapter(gateway.Options).validate_python({k: v for k, v in given.items() if k in known})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"gateways.{gateway.name}.{where}: {first['msg']}") from None
