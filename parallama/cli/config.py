"""`parallama config`: whether the settings are right, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parallama.cli.context import echo_json, echo_rows

if TYPE_CHECKING:
    from parallama.config import Resolved

_PATH = click.Path(path_type=Path)


@click.group()
def config() -> None:
    """Check and show the settings."""


@config.command()
@click.argument("path", type=_PATH, required=False)
@click.option("--config", "option", type=_PATH, help="The settings file.")
def check(path: Path | None, option: Path | None) -> None:
    """Say everything that is wrong with the settings: the file's, and what the environment adds."""
    from parallama.errors import ConfigError
    from parallama.gateway.plugins import Plugins

    resolved = _resolve(path or option)
    try:
        Plugins.load().families(resolved.settings.gateways)
    except ConfigError as error:
        raise click.ClickException(f"{resolved.file or 'the environment'}: {error}") from error
    click.echo(f"{resolved.file or 'no settings file, the defaults are in force'}: ok")


@config.command()
@click.option("--config", "option", type=_PATH, help="The settings file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def show(option: Path | None, as_json: bool) -> None:
    """Show every setting in force and where it came from; secrets are masked."""
    rows = list(_resolve(option).rows())
    if as_json:
        echo_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
        return
    cells = [{"key": row.key, "value": _cell(row.value), "origin": row.origin} for row in rows]
    echo_rows(cells, ["key", "value", "origin"], False)


def _resolve(path: Path | None) -> Resolved:
    from parallama.config import resolve
    from parallama.errors import ConfigError

    try:
        return resolve(path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
