"""`parallama doctor`: looks at everything the gateway needs, and asks a node for one token."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parallama.cli.context import Context, database_url, require_database, run, settings_options

if TYPE_CHECKING:
    from parallama.config import NodeSettings

Check = Callable[[], Awaitable[str]]


_HELLO_S = 120.0
"""A model may have to be loaded first."""


@click.command()
@settings_options
def doctor(ctx: Context) -> None:
    """Check the database, Redis and the nodes, list the models, and send a hello request. Exit code 1 on a failure."""
    if not run(_examine(ctx)):
        raise click.exceptions.Exit(1)


async def _examine(ctx: Context) -> bool:
    running = _running_server(ctx.state)
    nodes = _nodes(ctx, running)
    healthy = await _report("database", lambda: _database(ctx))
    redis = ctx.settings.redis.url
    if redis is not None:
        healthy &= await _report("redis", lambda: _redis(redis.get_secret_value()))
    if running is not None:
        healthy &= await _report("gateway", lambda: _gateway(running["url"]))
    else:
        click.echo("-    gateway   does not run on this state directory")
    for node in nodes:
        healthy &= await _report(f"node {node.name}", lambda node=node: _node(node))  # type: ignore[misc]
    return healthy


async def _report(what: str, check: Check) -> bool:
    from parallama.errors import ApiError, ConfigError

    try:
        found = await check()
    except (ConfigError, ApiError) as error:
        click.echo(f"FAIL {what:<9} {error}")
        return False
    click.echo(f"ok   {what:<9} {found}")
    return True


def _running_server(state: Path) -> dict[str, Any] | None:
    """What the server on this state directory has told of itself; None: there is none."""
    from parallama.server import STATE_FILE

    try:
        facts: dict[str, Any] = json.loads((state / STATE_FILE).read_text("utf-8"))
        os.kill(facts["pid"], 0)
    except PermissionError:
        return facts
    except (OSError, ValueError, KeyError):
        return None
    return facts


def _nodes(ctx: Context, running: dict[str, Any] | None) -> list[NodeSettings]:
    """The nodes of the running server (quickstart finds its own), else those of the settings."""
    if running is None:
        return list(ctx.settings.nodes)
    known = {node.name: node for node in ctx.settings.nodes}
    first = ctx.settings.nodes[0]
    return [known.get(n["name"], first).model_copy(update=n) for n in running["nodes"]]


async def _database(ctx: Context) -> str:
    from parallama.db.migrate import require_current

    require_database(ctx)
    async with database_url(ctx) as url:
        await require_current(url)
    return (
        f"answers; schema current; {'the embedded one' if ctx.settings.database.url is None else 'the configured one'}"
    )


async def _redis(url: str) -> str:
    from parallama.db.redis import ping

    await ping(url)
    return "answers"


async def _gateway(url: str) -> str:
    from parallama.config import NodeSettings
    from parallama.errors import UpstreamFailed
    from parallama.nodes.upstream import Upstream

    upstream = Upstream(NodeSettings(name="gateway", url=url))
    async with upstream.running():
        with await upstream.send("GET", "/readyz", {}, limit_s=5) as answer:
            if answer.head.status != 200:
                raise UpstreamFailed(f"{url}/readyz answers {answer.head.status}")
    return f"ready at {url}"


async def _node(node: NodeSettings) -> str:
    from parallama.errors import UpstreamFailed
    from parallama.metrics import Metrics
    from parallama.nodes.pool import Node

    one = Node(node, Metrics())
    async with one.upstream.running():
        if not await one.health.check():
            raise UpstreamFailed(f"{node.url} does not answer")
        names = one.catalog.names()
        able = one.catalog.answering()
        hello = await _hello(one, able[0]) if able else "no model to say hello to"
    shown = ", ".join(names) or "none"
    return f"answers at {node.url}; models: {shown}; {hello}"


async def _hello(node: Any, model: str) -> str:
    from parallama.errors import UpstreamFailed

    started = time.monotonic()
    ask = {"model": model, "prompt": "hello", "stream": False, "options": {"num_predict": 1}}
    body = json.dumps(ask).encode()
    headers = {"Content-Type": "application/json"}
    with await node.upstream.send("POST", "/api/generate", headers, body, limit_s=_HELLO_S) as answer:
        await answer.read(1024 * 1024)
        if answer.head.status != 200:
            raise UpstreamFailed(f"{model} answered {answer.head.status} to a hello request")
    return f"{model} said hello in {time.monotonic() - started:.2f} s"
