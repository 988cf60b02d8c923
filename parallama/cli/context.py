"""What the commands share: the settings and state directory, a checked database, questions, errors, tables, JSON."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from parallama.config import Settings
    from parallama.db.pool import Database

T = TypeVar("T")

_WIDE = 1000
"""Columns of a table that no terminal shows: nothing is cut."""

list_json = click.option("--json", "as_json", is_flag=True, help="One JSON array.")
object_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
without_asking = click.option("--yes", is_flag=True, help="Do not ask.")


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on."""

    settings: Settings
    state: Path
    """The state directory; may not exist yet."""
    server: str | None = None
    """The URL of the server that is administered instead of this machine."""
    key: str | None = field(default=None, repr=False)
    """For the server."""


def settings_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --config and --data, and give the command a Context as its first argument."""

    @click.option("--config", type=click.Path(path_type=Path), help="The settings file.")
    @click.option("--data", type=click.Path(path_type=Path), help="The state directory.")
    @functools.wraps(command)
    def wrapped(*args: Any, config: Path | None, data: Path | None, **kwargs: Any) -> T:
        return command(load_context(config, data), *args, **kwargs)

    return wrapped


def load_context(config: Path | None, data: Path | None, flags: Mapping[str, object] | None = None) -> Context:
    """Read the settings; a ConfigError ends the command with its message."""
    from parallama.config import load_settings, state_directory
    from parallama.errors import ConfigError

    try:
        return Context(load_settings(config, flags=flags or {}), state_directory(data))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; what it cannot do is said on one line, exit code 1."""
    from parallama.errors import ApiError, ConfigError

    # a command says itself what is wrong; without a handler Python prints every warning on stderr
    logging.getLogger("parallama").addHandler(logging.NullHandler())
    try:
        return asyncio.run(work)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    except ApiError as error:  # what another server says may have lines
        raise click.ClickException(" ".join(str(error).split())) from error


@asynccontextmanager
async def database_url(ctx: Context) -> AsyncIterator[str]:
    """The DSN of the configured database, or of the embedded one, which runs at least as long as the block."""
    configured = ctx.settings.database.url
    if configured is not None:
        yield configured.get_secret_value()
        return
    from parallama.db.embedded import embedded

    async with embedded(ctx.state) as url:
        yield url


def require_database(ctx: Context) -> None:
    """Raises ConfigError where the state directory has no database yet and none is configured: a command that only
    looks there is not to make one where nobody looks for it again."""
    from parallama.errors import ConfigError

    if ctx.settings.database.url is None and not _exists(ctx.state / "postgres"):
        raise ConfigError(
            f"there is no database in {ctx.state}: give another --data DIR, start `parallama quickstart`, or set "
            "database.url"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # then `embedded` says which directory is closed
        return True


@asynccontextmanager
async def open_database(ctx: Context) -> AsyncIterator[Database]:
    """A running Database whose schema is the one of this program. Raises ConfigError where there is none."""
    from parallama.db.migrate import require_current
    from parallama.db.pool import Database

    require_database(ctx)
    async with database_url(ctx) as url:
        await require_current(url)
        async with Database(url, ctx.settings.database).running() as database:
            yield database


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `yes`; any other answer than yes ends the command, exit code 1."""
    if not yes:
        click.confirm(question, abort=True, err=True)


def echo_json(value: object) -> None:
    """One JSON document on stdout: times in RFC 3339, UUIDs as strings."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    click.echo(orjson.dumps(value, option=options))


def echo_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """The rows as a table of `columns`, or as one JSON array of whole objects."""
    if as_json:
        echo_json([dict(row) for row in rows])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    piped = not sys.stdout.isatty()
    Console(width=_WIDE if piped else None).print(table)


def echo_record(record: Mapping[str, Any], as_json: bool) -> None:
    """One record: its fields below each other, or as one JSON object."""
    if as_json:
        echo_json(dict(record))
    else:
        echo_rows([{"field": key, "value": value} for key, value in record.items()], ("field", "value"), False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(value) or "none"
    return value.isoformat(" ", "seconds") if hasattr(value, "isoformat") else str(value)
