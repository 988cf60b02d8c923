"""`parallama simulate`: a fake Ollama in the foreground, for trying things out without a model."""

from __future__ import annotations

import asyncio
import os
import signal

import click

from parallama.simulator import Simulator

LOAD_S = 1.0
"""How long a simulated model takes into memory."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=11434, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--speed",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Tokens per second; 0: no limit.",
)
def simulate(host: str, port: int, speed: float) -> None:
    """Run a fake Ollama.

    It has a few models, answers the whole native API and marks every answer with `x-parallama-simulated: 1`.
    """
    asyncio.run(_serve(host, port, speed))


async def _serve(host: str, port: int, speed: float) -> None:
    node = Simulator(tokens_per_s=speed, load_s=LOAD_S if speed else 0, mark=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await node.start(host, port)
    except OSError as error:
        # asyncio's own text names the address a second time
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise click.ClickException(f"cannot listen on {host}:{port}: {why}") from error
    async with node:
        click.echo(f"A simulated Ollama listens on {node.url}")
        await stopped.wait()
