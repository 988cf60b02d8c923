"""`parallama quickstart`: everything on this machine at once. What `make run` runs.

A private database, its schema, on the first run an admin with a key, and a node: the Ollama that answers, or else the
built-in simulator.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parallama.cli.context import Context, database_url, load_context
from parallama.cli.serve import run_server, server_options
from parallama.version import __version__

if TYPE_CHECKING:
    from parallama.config import NodeSettings, Settings

ADMIN = "admin"
_PROMPT = "Why is the sky blue?"

_log = logging.getLogger("parallama.gateway")


@dataclass(frozen=True, slots=True)
class FoundNode:
    """The node of this start."""

    settings: NodeSettings
    line: str
    """What to say about it."""
    model: str | None
    """One that can answer a prompt."""


@click.command()
@server_options
def quickstart(config: Path | None, data: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway with a database of its own, a first key, and a simulated node where no Ollama answers."""
    from parallama.server import bind

    ctx = load_context(config, data, {"server.host": host, "server.port": port})
    server = ctx.settings.server
    run_server(ctx, lambda: bind(server.host, server.port, "make run ARGS='{}'"), _quickstart)


async def _quickstart(ctx: Context, listening: socket.socket) -> None:
    from parallama.db.embedded import only_server
    from parallama.db.migrate import migrate
    from parallama.server import run, url_of

    with only_server(ctx.state):
        async with database_url(ctx) as url, _node(ctx.settings) as node:
            await migrate(url)
            _say(f"Parallama {__version__}", f"  state    {ctx.state}", f"  node     {node.line}")
            _say(f"  gateway  {url_of(listening)}", "")
            key = await _first_key(ctx.settings, url)
            _say(*_welcome(url_of(listening), key, node.model, _new_key(ctx)))
            settings = ctx.settings.model_copy(update={"nodes": (node.settings,)})
            await run(settings, url, listening, ctx.state)


def _say(*lines: str) -> None:
    """Print; a stdout that nobody reads does not stop the gateway."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        # what is still buffered would fail again at the exit of the interpreter
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _log.warning("stdout is closed; a key that was not seen can be made again: parallama key generate %s", ADMIN)


def _new_key(ctx: Context) -> str:
    """The command that makes another key."""
    from parallama.config import state_directory

    called = "parallama" if sys.argv[0].endswith(".py") else sys.argv[0]
    data = [] if ctx.state == state_directory(None) else ["--data", str(ctx.state)]
    return shlex.join([called, "key", "generate", ADMIN, *data])


async def _first_key(settings: Settings, url: str) -> str | None:
    """The key of the first admin, made where there is none; None on later runs."""
    from parallama.db.pool import Database
    from parallama.identity.actor import operator
    from parallama.identity.api_keys import ApiKeys
    from parallama.identity.users import Users

    async with Database(url, settings.database).running() as database:
        users = Users(database, operator())
        if any(user.admin or user.username.lower() == ADMIN for user in await users.list()):
            return None
        await users.create(ADMIN, role="admin", admin=True)
        key, _ = await ApiKeys(database, operator()).create(ADMIN, description="made by quickstart")
        return key


def _welcome(url: str, key: str | None, model: str | None, new_key: str) -> list[str]:
    lines = [f"The API key of user {ADMIN}, shown only this once:", "", key, ""] if key else []
    if key is None:
        lines = [f"Users and keys are kept. A new key: {new_key}", ""]
    shown = key or "$PARALLAMA_KEY"
    if model is None:
        pull = _curl(url, "pull", shown, {"model": "llama3.2:1b"})
        return [*lines, "The node has no model yet. Pull one (as admin):", "", pull, ""]
    curl = _curl(url, "generate", shown, {"model": model, "prompt": _PROMPT})
    return [*lines, "Try it:", "", curl, "", _client(url, shown, model), ""]


def _curl(url: str, call: str, key: str, body: Mapping[str, str]) -> str:
    return f'curl {url}/api/{call} -H "Authorization: Bearer {key}" -d {shlex.quote(json.dumps(body))}'


def _client(url: str, key: str, model: str) -> str:
    python = shlex.quote(sys.executable)
    code = f"import ollama; print(ollama.generate({json.dumps(model)}, {json.dumps(_PROMPT)}).response)"
    return (
        f'{python} -m pip install -q ollama && OLLAMA_HOST={url} OLLAMA_API_KEY="{key}" {python} -c {shlex.quote(code)}'
    )


@asynccontextmanager
async def _node(settings: Settings) -> AsyncIterator[FoundNode]:
    """The configured node, else the Ollama of OLLAMA_HOST or localhost, else the simulator, for the block."""
    from parallama.config import NodeSettings
    from parallama.config import Settings as Defaults
    from parallama.simulator import Simulator

    given = settings.nodes[0]
    configured = settings.nodes != Defaults().nodes
    node = given if configured else _local_node(given)
    found = await _look(node)
    if found is not None or configured:
        yield found or FoundNode(node, f"{node.url} (configured; does not answer now)", None)
        return
    async with Simulator(mark=True, tokens_per_s=30) as simulator:
        standin = await _look(NodeSettings(name="simulator", url=simulator.url))
        assert standin is not None
        line = f"the built-in simulator: no Ollama answers at {node.url}"
        yield FoundNode(standin.settings, line, standin.model)


def _local_node(given: NodeSettings) -> NodeSettings:
    from pydantic import ValidationError

    from parallama.config import NodeSettings, ollama_host
    from parallama.errors import ConfigError

    try:
        return NodeSettings(name=given.name, url=ollama_host(os.environ.get("OLLAMA_HOST")))
    except ValidationError:
        # without its value, which may hold a password
        raise ConfigError(
            "OLLAMA_HOST names no Ollama: it must be host, host:port or http://host:port/path, without a user or query"
        ) from None


async def _look(node: NodeSettings) -> FoundNode | None:
    """Ask a node for its models; None when it does not answer."""
    from parallama.metrics import Metrics
    from parallama.nodes.pool import Node

    found = Node(node, Metrics())
    async with found.upstream.running():
        if not await found.health.check():
            return None
    names = found.catalog.names()
    return FoundNode(node, f"{node.url} ({len(names)} models)", next(iter(found.catalog.answering() or names), None))
