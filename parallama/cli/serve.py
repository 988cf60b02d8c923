"""`parallama serve`: the gateway on an existing, migrated database."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from parallama.cli.context import Context, load_context

Work = Callable[[Context, socket.socket], Coroutine[Any, Any, None]]


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
    server = ctx.settings.server
    run_server(ctx, lambda: bind(server.host, server.port), _serve)


def run_server(ctx: Context, bound: Callable[[], socket.socket], work: Work) -> None:
    """Bind, then run `work(ctx, socket)` on uvloop with logs as the settings say.

    What cannot be done is said on one line, exit code 1. A signal during the start ends it in order.
    """
    import asyncio

    import uvloop

    from parallama.config import secrets
    from parallama.errors import ApiError, ConfigError
    from parallama.gateway.plugins import Plugins
    from parallama.logs import logging_to

    try:
        Plugins.load().families(ctx.settings.gateways)  # before anything is started for them
        with bound() as listening, logging_to(ctx.settings.logs, secrets(ctx.settings)):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_until_signal(work(ctx, listening)))
    except asyncio.CancelledError:
        return
    except (ConfigError, ApiError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Cancel `work` at SIGTERM or SIGINT, so that it stops what it has started; the server puts its own drain there."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await work


async def _serve(ctx: Context, listening: socket.socket) -> None:
    from parallama.cli.context import database_url
    from parallama.db.embedded import only_server
    from parallama.db.migrate import require_current
    from parallama.server import run

    with only_server(ctx.state):
        async with database_url(ctx) as url:
            await require_current(url)
            await run(ctx.settings, url, listening, ctx.state)
