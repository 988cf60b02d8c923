"""`parallama gateway`: what is set for each family, what is to be set, and the figures of a running server.

What is set here is recorded in the database, over the settings file; every running server follows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import Context, echo_json, echo_rows

if TYPE_CHECKING:
    from parallama.admin.gateway_operations import GatewayState
    from parallama.cli.changes import Changes
    from parallama.client.admin import AsyncAdmin

Flag = Callable[[Callable[..., None]], Callable[..., None]]

_COLUMNS = ["gateway", "key", "value", "from"]


def _named(value: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, sign, text = value.partition("=")
    if not sign or not name.strip():
        raise click.BadParameter(f"{value!r} is no NAME=VALUE")
    return name.strip(), text.strip()


def _plain(value: str) -> tuple[str, str]:
    """NAME=VALUE without a further `=`, which would have to be one of the name."""
    if value.count("=") > 1:
        raise click.BadParameter(f"{value!r} has more than one '='; names with it can only be set with --from")
    return _named(value)


def _switch(value: str) -> tuple[str, bool]:
    """NAME=on/off."""
    name, text = _plain(value)
    return name, _on_off(text)


def _on_off(text: str) -> bool:
    """on/off, true/false; an empty text is neither."""
    if not text.strip():
        raise click.BadParameter("it is empty; it must be on or off")
    return bool(click.BOOL.convert(text, None, None))


def _parameter(value: str) -> tuple[str, str, str]:
    """ALIAS:PATH=VALUE; an alias may have colons, a path has none."""
    left, text = _named(value)
    alias, _, path = left.rpartition(":")
    if not alias or not path:
        raise click.BadParameter(f"{value!r} is no ALIAS:PATH=VALUE")
    return alias, path, text


def _many(flag: str, name: str, metavar: str, convert: Callable[[str], object], text: str) -> Flag:
    return click.option(flag, name, multiple=True, metavar=metavar, type=convert, help=text)


_FLAGS = (
    _many("--model-mapping", "model_mappings", "ALIAS=MODEL", _plain, "A name of the family for a node's model."),
    _many("--no-model-mapping", "no_model_mappings", "ALIAS", str, "Take the name away."),
    _many("--num-ctx", "num_ctx", "ALIAS=N", _plain, "Its tokens of context; empty: the node's own."),
    _many("--keep-alive", "keep_alive", "ALIAS=T", _plain, "How long it stays loaded: seconds, or such as 30m."),
    _many("--parameter", "parameters", "ALIAS:PATH=VALUE", _parameter, "Its default, such as options.seed."),
    _many("--force-parameter", "forced", "ALIAS:PATH=VALUE", _parameter, "Whatever the client says."),
    click.option("--default-model", metavar="MODEL", help="Answers requests that name none."),
    click.option("--no-default-model", is_flag=True, help="Refuse requests that name none."),
    _many("--endpoint", "endpoints", "NAME=on/off", _switch, "One that is off answers 404."),
    _many("--option", "options", "NAME=VALUE", _named, "An option of the plugin; the value is YAML."),
    click.option("--from", "from_file", type=click.Path(path_type=Path), help="A file with a section for the family."),
    click.option("--reset", is_flag=True, help="Forget what was recorded: the settings file alone is in force."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object."),
)


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


@click.group()
def gateway() -> None:
    """Gateways: what is set for them, and their figures."""


@gateway.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@administration_options
def status(ctx: Context, as_json: bool) -> None:
    """Show what is in force for every gateway, and where it came from."""
    reports = [_report(state) for state in administer(ctx, lambda api: api.list_gateways(), gateways=True)]
    if as_json:
        echo_json(reports)
    else:
        echo_rows([row for report in reports for row in _rows(report)], _COLUMNS, False)


@gateway.command()
@click.argument("name", metavar="GATEWAY")
@click.option("--enabled", type=_on_off, metavar="true/false", required=True, help="true or false.")
@administration_options
def toggle(ctx: Context, name: str, enabled: bool) -> None:
    """Switch a gateway on or off, in every running server."""
    state = administer(ctx, lambda api: api.update_gateway(name, {"enabled": enabled}), gateways=True)
    mounts = ", ".join(state.mounts)
    click.echo(f"gateway {name} is now " + (f"enabled at {mounts}" if enabled else f"disabled: {mounts} answer 404"))


@gateway.command()
@click.argument("name", metavar="GATEWAY")
@_config_options
@administration_options
def config(ctx: Context, name: str, reset: bool, as_json: bool, **flags: Any) -> None:
    """Change what is set for a gateway, in every running server; without a change, show it.

    What is not named stays as it is, also the other parameters of an alias. An empty VALUE takes a value away.
    """
    if flags["default_model"] is not None and flags["no_default_model"]:
        raise click.UsageError("give --default-model or --no-default-model")
    if flags["default_model"] == "":
        raise click.UsageError("--default-model is empty; without one: --no-default-model")
    if reset and any(flags.values()):
        raise click.UsageError("--reset goes with no other change")
    changes = _changes(name, **flags) if any(flags.values()) else None
    report = _report(administer(ctx, lambda api: configured(api, name, changes, reset=reset), gateways=True))
    if as_json:
        echo_json(report)
    else:
        echo_rows(list(_rows(report)), _COLUMNS, False)


@gateway.command()
@click.option("--gateway", "name", help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@administration_options
def metrics(ctx: Context, name: str | None, as_json: bool) -> None:
    """Show the figures of the running server: counts since its start, rate and latency over the last minute."""
    found = _figures_here(ctx, name) if ctx.server is None else administer(ctx, lambda api: _figures(api, name))
    rows = [{"gateway": one, **figures} for one, figures in found.items()]
    echo_rows(rows, list(rows[0]) if rows else ["gateway"], as_json)


def _changes(name: str, from_file: Path | None, **flags: Any) -> Changes:
    from parallama.cli.changes import Changes, read_section
    from parallama.errors import ConfigError

    try:
        return Changes(section=read_section(from_file, name) if from_file else {}, **flags)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


async def configured(api: AsyncAdmin, name: str, changes: Changes | None, *, reset: bool) -> GatewayState:
    """What is set for the gateway in the end. Raises Outdated when somebody else has changed it twice meanwhile."""
    from parallama.errors import Outdated

    if reset:
        await api.reset_gateway(name)
    if changes is None:
        return await api.get_gateway(name)
    try:
        return await _changed(api, name, changes)
    except Outdated:  # somebody else was faster
        return await _changed(api, name, changes)


async def _changed(api: AsyncAdmin, name: str, changes: Changes) -> GatewayState:
    state = await api.get_gateway(name)
    patch = changes.patch(name, _in_force(state))
    return await api.update_gateway(name, patch, version=state.version) if patch else state


def _in_force(state: GatewayState) -> dict[str, Any]:
    """As the section of a settings file, without the options, of which the secret ones are masked."""
    mappings = {
        alias: {field: value for field, value in mapping.items() if value not in (None, {})}
        for alias, mapping in state.model_mappings.items()
    }
    return {"default_model": state.default_model, "endpoints": state.endpoints, "model_mappings": mappings}


def _figures_here(ctx: Context, name: str | None) -> dict[str, Mapping[str, Any]]:
    """By family, of the server that runs on the state directory."""
    from parallama.admin.control import asked
    from parallama.errors import ApiError
    from parallama.gateway.options import rather

    try:
        found = asked(ctx.state, "/gateways/metrics")["gateways"]
    except ApiError as error:
        raise click.ClickException(str(error)) from error
    if name is not None and name not in found:
        raise click.ClickException(f"there is no gateway {name!r}{rather(name, found)}")
    return {one: figures for one, figures in found.items() if name in (None, one)}


async def _figures(api: AsyncAdmin, name: str | None) -> dict[str, Mapping[str, Any]]:
    """The same, of the server that answers."""
    names = [state.name for state in await api.list_gateways()] if name is None else [name]
    return {one: (await api.gateway_metrics(one)).figures for one in names}


def _report(state: GatewayState) -> dict[str, Any]:
    return state.model_dump(by_alias=True, exclude={"version"})


def _rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A table's rows: of the endpoints only those that are off."""
    from parallama.admin.standing import places

    name, origins = report["name"], report["from"]
    yield {"gateway": name, "key": "mounts", "value": ", ".join(report["mounts"]), "from": "plugin"}
    for key, place, value in places(report):
        if place[0] != "endpoints" or value is False:
            yield {"gateway": name, "key": key, "value": _words(value, place), "from": origins[key]}
    if report["problem"]:
        yield {"gateway": name, "key": "problem", "value": report["problem"], "from": "recorded"}


def _words(value: Any, place: tuple[str, ...]) -> str | None:
    import orjson

    if place[0] == "endpoints":
        return "off"
    if place[0] == "model_mappings":
        return ", ".join(_mapping_words(value))
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _mapping_words(mapping: Mapping[str, Any]) -> Iterator[str]:
    import orjson

    yield mapping["model"]
    for name in ("num_ctx", "keep_alive"):
        if mapping[name] is not None:
            yield f"{name} {mapping[name]}"
    for path, one in mapping["parameters"].items():
        forced = "" if one["allow_override"] else " (forced)"
        yield f"{path} {orjson.dumps(one['value']).decode()}{forced}"
