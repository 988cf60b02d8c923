"""What commands administer: the records of this machine, with or without a running server, or a server elsewhere.

Both go through the operations of the API: over HTTP to `--server`, else without it, as an operator who may do
everything.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import click

from parallama.cli.context import Context, open_database, run, settings_options

if TYPE_CHECKING:
    from parallama.admin.api import Call, Operation
    from parallama.client import AsyncParallamaClient
    from parallama.client.admin import AsyncAdmin
    from parallama.client.session import Answered, Request, Steps
    from parallama.client.uses import Use
    from parallama.db.pool import Database
    from parallama.identity.passwords import Passwords

T = TypeVar("T")

KEY_VARIABLE = "PARALLAMA_API_KEY"

_LAST_PORT = 65_535
_VARIABLE = re.compile(r"{(\w+)}")


def administration_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --server and --key-file to what `settings_options` adds; the Context has the server."""

    @click.option("--server", metavar="URL", help="Administer the server there, not this machine.")
    @click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"Holds a key or access token for --server; default: the variable {KEY_VARIABLE}.",
    )
    @settings_options
    @functools.wraps(command)
    def wrapped(ctx: Context, *args: Any, server: str | None, key_file: Path | None, **kwargs: Any) -> T:
        return command(_to(ctx, server, key_file), *args, **kwargs)

    return wrapped


def _to(ctx: Context, server: str | None, key_file: Path | None) -> Context:
    if server is None:
        if key_file is not None:
            raise click.UsageError("--key-file is for --server URL; on this machine no key is needed")
        return ctx
    if click.get_current_context().params["data"] is not None:
        raise click.UsageError("--data is a directory of this machine, and --server another one: give one of them")
    _require_url(server)
    return replace(ctx, server=server, key=_key(key_file))


def _require_url(server: str) -> None:
    from httpx2 import URL, InvalidURL

    try:
        url = URL(server)
    except (InvalidURL, ValueError):
        url = URL()
    more = url.userinfo or url.query or url.fragment
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > _LAST_PORT or more:
        raise click.UsageError("--server must be such as https://ollama.example.org or http://127.0.0.1:8000")


def _key(key_file: Path | None) -> str:
    given = key_file.read_bytes().decode("ascii", "replace") if key_file else os.environ.get(KEY_VARIABLE, "")
    key = given.strip()
    if not key or not key.isascii() or not key.isprintable():
        where = str(key_file) if key_file else KEY_VARIABLE
        raise click.UsageError(f"{where} must hold the API key, or an access token, of somebody who may administer")
    return key


def administer(ctx: Context, work: Callable[[AsyncAdmin], Awaitable[T]], *, gateways: bool = False) -> T:
    """What `work` gives; ends the command as `run` does. `gateways`: whether it is about those."""

    async def administered() -> T:
        async with _administration(ctx, gateways) as admin:
            return await work(admin)

    try:
        return run(administered())
    except UnicodeEncodeError:  # Python takes bytes of arguments that are no UTF-8 for lone surrogates
        raise click.UsageError("what is given must be UTF-8 text") from None


def client_of(ctx: Context) -> AsyncParallamaClient:
    """Of the server that is given. To be closed."""
    from parallama.client import AsyncParallamaClient

    assert ctx.server is not None
    return AsyncParallamaClient(base_url=ctx.server, api_key=ctx.key, timeout_s=60)


@asynccontextmanager
async def _administration(ctx: Context, gateways: bool) -> AsyncIterator[AsyncAdmin]:
    if ctx.server is not None:
        async with client_of(ctx) as client:
            yield client.admin
        return
    from parallama.client.admin import AsyncAdmin
    from parallama.identity.passwords import Passwords

    async with open_database(ctx) as database, Passwords().running() as passwords:
        every = [*_operations(ctx, database, passwords), *(_on_gateways(ctx, database) if gateways else ())]
        yield AsyncAdmin(_Here(every).carry)


def _operations(ctx: Context, database: Database, passwords: Passwords) -> list[Operation]:
    from parallama.admin.resets import reset_operations
    from parallama.admin.table import administration
    from parallama.admin.usage import usage_operations

    settings = ctx.settings
    return [
        *administration(database, settings.auth, settings.relay.forward_headers, passwords),
        *usage_operations(database, settings.timezone, settings.limits.weights),
        # a server writes what has ended within one of its turns
        *reset_operations(database, partial(asyncio.sleep, 2 * settings.usage.flush_ms / 1000)),
    ]


def _on_gateways(ctx: Context, database: Database) -> list[Operation]:
    from parallama.admin.gateway_operations import gateway_operations
    from parallama.gateway.plugins import Plugins

    def figures(gateway: str) -> Mapping[str, float | None]:
        from parallama.admin.control import asked

        found: Mapping[str, float | None] = asked(ctx.state, "/gateways/metrics")["gateways"][gateway]
        return found

    return gateway_operations(database, Plugins.load().families(ctx.settings.gateways), figures)


class _Here:
    """Runs operations in this process."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = [(_pattern(one.path), one) for one in operations]

    async def carry(self, use: Use[T]) -> T:
        steps, told = use(_once), None
        while True:
            try:
                request = cast("Request", steps.send(told))  # `_once` asks for nothing else
            except StopIteration as end:
                done: T = end.value
                return done
            told = await self._answer(request)

    async def _answer(self, request: Request) -> Answered:
        from parallama.admin.api import Streamed, serialized
        from parallama.client.session import Answered

        operation, call = self._called(request)
        answer = await operation.run(call)
        if isinstance(answer, Streamed):
            body = b"".join([part async for part in answer.parts])
        else:
            body = b"" if operation.answer is None else serialized(answer)
        return Answered(operation.status, {}, body, None)

    def _called(self, request: Request) -> tuple[Operation, Call]:
        from parallama.admin.api import Call, validated
        from parallama.identity.actor import operator

        target = urlsplit(request.path)
        operation, path = self._find(request.method, target.path)
        version = request.headers.get("If-Match")
        return operation, Call(
            actor=operator(),
            caller=None,
            path=path,
            query=None
            if operation.query is None
            else validated(operation.query, dict(parse_qsl(target.query, keep_blank_values=True))),
            body=None if operation.body is None else validated(operation.body, request.body or {}),
            version=None if version is None else int(version.strip('"')),
        )

    def _find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]]:
        for pattern, operation in self._operations:
            if operation.method == method and (found := pattern.fullmatch(path)):
                return operation, {name: unquote(text) for name, text in found.groupdict().items()}
        raise LookupError(f"no operation: {method} {path}")


def _once(request: Request) -> Steps:
    answered: Answered = yield request
    return answered


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", path))
