"""Finds the plugins through their entry points and judges what they offer.

Entry points are loaded one by one, so that a broken plugin is named and the others work. It is fatal only where the
settings ask for it (`Plugins.require`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import pluggy

from parallama.errors import ConfigError
from parallama.gateway import hookspecs
from parallama.gateway.api import Gateway
from parallama.gateway.families import Document, Families
from parallama.gateway.fitness import Fit, Unfit, judged, words

GROUP = "parallama"
"""The entry point group; also the name of the pluggy project, and of the distribution whose plugins come first."""

_HOOKS = ("register_gateways", "register_commands")


@dataclass(slots=True)
class Plugin:
    """One entry point, and what came of it."""

    name: str
    """Of the entry point."""
    distribution: str | None = None
    """The package that was installed; None: unknown."""
    version: str | None = None
    """Of the package."""
    api: int | None = None
    """The generation of the gateway API that it was written for; None: it has told of no gateway."""
    families: list[str] = field(default_factory=list)
    """The names of the gateways that it offers, also of those that cannot be used."""
    gateways: list[type[Gateway]] = field(default_factory=list)
    """Those that can be used."""
    problems: list[str] = field(default_factory=list)
    """Why something of it cannot be used; each says what would be right. Empty: all is well."""
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """Its functions, by the names of the hooks."""

    @property
    def mounts(self) -> list[str]:
        """The paths of the gateways that can be used."""
        return [path for gateway in self.gateways for path in gateway.paths]

    def __str__(self) -> str:
        release = " ".join(filter(None, (self.distribution, self.version)))
        return f"plugin {self.name!r} ({release})" if release else f"plugin {self.name!r}"

    @contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Whatever is raised in the block becomes a problem; only Ctrl-C passes. `what` says what failed."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except Unfit as error:
            self.problems.append(str(error))
        except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything, SystemExit too
            self.problems.append(f"{what}: {words(error)}")


@dataclass(slots=True)
class Plugins:
    """The plugins of this installation: those that come with it first, then by name."""

    found: list[Plugin] = field(default_factory=list)

    @classmethod
    def load(cls, found: Iterable[EntryPoint] | None = None) -> Plugins:
        """Import and judge every plugin (default: those installed). Never raises for a plugin's fault."""
        plugins, fits = cls(), list[Fit]()
        for entry in sorted(entry_points(group=GROUP) if found is None else found, key=_order):
            plugin = Plugin(entry.name)
            plugins.found.append(plugin)
            _import(plugin, entry)
            _judge(plugin, fits)
        return plugins

    @property
    def problems(self) -> list[str]:
        """What cannot be used, each naming its plugin."""
        return [f"{plugin}: {problem}" for plugin in self.found for problem in plugin.problems]

    def classes(self) -> list[type[Gateway]]:
        """The gateway classes that can be used."""
        return [gateway for plugin in self.found for gateway in plugin.gateways]

    def require(self, families: Iterable[str]) -> None:
        """Insist on the plugins that the settings mount: `families` are the names of the sections below `gateways`, of
        families or of entry points. Raises ConfigError, which names the plugin and its problems."""
        wanted = dict.fromkeys(families)
        faults = [
            f"gateways.{name}: {plugin} cannot be used: {'; '.join(plugin.problems)}"
            for name in wanted
            for plugin in self.found
            if plugin.problems and name in (plugin.name, *plugin.families)
        ]
        if faults:
            raise ConfigError("\n".join(faults))

    def families(self, sections: Mapping[str, Document]) -> Families:
        """The families as the settings below `gateways` have them. Raises ConfigError for what cannot be in force, and
        for a plugin that cannot be used though its section asks for it; one that is switched off is left alone."""
        wanted = {name for name, section in sections.items() if section.get("enabled") is not False}
        self.require(wanted)
        names = {gateway.name for gateway in self.classes()}
        broken = {name for plugin in self.found if plugin.problems for name in (plugin.name, *plugin.families)}
        return Families(self.classes(), {k: v for k, v in sections.items() if k in names or k not in broken})

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin add its commands."""
        for plugin in self.found:
            if register := plugin.hooks.get("register_commands"):
                with plugin.blamed("register_commands failed"):
                    register(cli)


def _order(entry: EntryPoint) -> tuple[bool, str]:
    """What comes with Parallama is never pushed out by a stranger."""
    return getattr(entry.dist, "name", None) != GROUP, entry.name


def _import(plugin: Plugin, entry: EntryPoint) -> None:
    with plugin.blamed("cannot be loaded"):
        if entry.dist:
            plugin.distribution, plugin.version = entry.dist.name, entry.dist.version
        module = entry.load()
        # a manager of its own, so that what is wrong with one plugin is never told of another
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(module)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise Unfit(f"{' '.join(str(error).split())}; the hooks are {' and '.join(_HOOKS)}") from None
        plugin.hooks = {hook: one.function for hook in _HOOKS for one in getattr(manager.hook, hook).get_hookimpls()}
        if not plugin.hooks:
            raise Unfit(f"it registers nothing; mark its {' or '.join(_HOOKS)} with @parallama.hookimpl")


def _judge(plugin: Plugin, fits: list[Fit]) -> None:
    """Ask for its gateways; those that can be mounted beside `fits` join them."""
    offered: list[Any] = []
    if register := plugin.hooks.get("register_gateways"):
        with plugin.blamed("register_gateways failed"):
            offered = list(register())
    for gateway in offered:
        with plugin.blamed(f"{_called(gateway)} cannot be made"):
            _introduce(plugin, gateway)
            fit = judged(gateway, plugin.name, fits)
            plugin.gateways.append(fit.gateway)
            fits.append(fit)


def _called(offered: Any) -> str:
    return str(offered.__name__) if issubclass(type(offered), type) else "what it offers"


def _introduce(plugin: Plugin, gateway: Any) -> None:
    """Take down what it says of itself, also when it cannot be used."""
    api, name = getattr(gateway, "api", None), getattr(gateway, "name", None)
    if plugin.api is None and type(api) is int:
        plugin.api = api
    if isinstance(name, str) and name not in plugin.families:
        plugin.families.append(name)
