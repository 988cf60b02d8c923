"""`parallama serve`: the gateway on an existing, migrated database."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import click

from parallama.cli.context import Context, load_context


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """--config, --data, --host and --port."""
    for option in (
        click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on; 0: any free one."),
        click.option("--host", help="The address to listen on."),
        click.option("--data", type=click.Path(path_type=Path), help="The state directory."),
        click.option("--config", type=click.Path(path_type=Path), help="The settings file."),
    ):
        command = option(command)
    return command


@click.command()
@server_options
def serve(config: Path | None, data: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway. The database must have the schema of this program (`parallama db migrate`)."""
    from parallama.server import bind

    ctx = load_context(config, data, {"server.host": host, "server.port": port})
    run_server(ctx, lambda: bind(ctx.settings.server.host, ctx.settings.server.port), _serve)


def run_server(ctx: Context, bound: Callable[[], socket.socket], work: Callable[..., object]) -> None:
    """Bind, then run the coroutine function `work(ctx, socket)` on uvloop with logs as the settings say.

    What cannot be done is said on one line, exit code 1.
    """
    import asyncio

    import uvloop

    from parallama.config import secrets
    from parallama.errors import ApiError, ConfigError
    from parallama.logs import logging_to

    try:
        with bound() as listening, logging_to(ctx.settings.logs, secrets(ctx.settings)):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(work(ctx, listening))  # type: ignore[arg-type]
    except (ConfigError, ApiError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error


async def _serve(ctx: Context, listening: socket.socket) -> None:
    from parallama.cli.context import database_url
    from parallama.db.embedded import only_server
    from parallama.db.migrate import require_current
    from parallama.server import run

    with only_server(ctx.state):
        async with database_url(ctx) as url:
            await require_current(url)
            await run(ctx.settings, url, listening, ctx.state)
