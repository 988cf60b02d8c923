"""The native Ollama API, byte for byte: its routes, and errors in its shape.

What a request means is judged in requests.py, what an answer tells is watched in answers.py; both pass unchanged
wherever nothing has to change.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlencode

import orjson

from parallama.errors import ApiError, NotAllowedMethod, NotFound
from parallama.gateway.api import Body, Codec, Gateway, Head, Inbound, Outbound, Reply, Route, Use
from parallama_ollama import requests
from parallama_ollama.answers import Answer, Plain, Progress, Running, Tags
from parallama_ollama.requests import Request, node_path

_WITHOUT_BODY = (
    ("GET", "/version", Use.LIST),
    ("HEAD", "/version", Use.LIST),
    ("GET", "/status", Use.LIST),
    ("GET", "/experimental/model-recommendations", Use.LIST),
    ("HEAD", "/blobs/{digest}", Use.MANAGE),
    ("POST", "/me", Use.MANAGE),
    ("POST", "/signout", Use.MANAGE),
    ("DELETE", "/user/keys/{encodedKey}", Use.MANAGE),
)

_WITH_BODY: tuple[tuple[str, str, Use, Request, type[Answer] | None], ...] = (
    ("POST", "/generate", Use.GENERATE, requests.GENERATE, Answer),
    ("POST", "/chat", Use.CHAT, requests.CHAT, Answer),
    ("POST", "/embed", Use.EMBED, requests.EMBED, Answer),
    ("POST", "/embeddings", Use.EMBED, requests.EMBEDDINGS, Answer),
    ("POST", "/show", Use.SHOW, requests.SHOW, None),
    ("POST", "/pull", Use.MANAGE, requests.PULL, Progress),
    ("POST", "/push", Use.MANAGE, requests.PUSH, Progress),
    ("POST", "/create", Use.MANAGE, requests.CREATE, Progress),
    ("POST", "/copy", Use.MANAGE, requests.COPY, None),
    ("DELETE", "/delete", Use.MANAGE, requests.DELETE, None),
)

_WEB = (("/experimental/web_search", requests.SEARCH), ("/experimental/web_fetch", requests.FETCH))

_UPLOAD = ("POST", "/blobs/{digest}", Use.MANAGE)


class OllamaNative(Gateway):
    """`/ollama/api` and `/api`: unmodified Ollama clients work."""

    name = "ollama"
    paths = ("/ollama/api", "/api")
    roles = ("admin", "premium", "basic")

    def routes(self) -> Sequence[Route]:
        routes = [_route(*entry, Body.NONE, _open_plain) for entry in _WITHOUT_BODY]
        routes += [_route(method, path, Use.LIST, Body.NONE, open) for method, path, open in _LISTS]
        routes.append(_route(*_UPLOAD, Body.STREAM, _open_plain))
        for method, path, use, request, codec in _WITH_BODY:
            routes.append(_route(method, path, use, Body.JSON, partial(_open, request, codec)))
        for path, request in _WEB:
            route = _route("POST", path, Use.CHAT, Body.JSON, partial(_open, request, None))
            routes.append(replace(route, endpoint="web"))
        return [*routes, *(_with_slash(route) for route in routes)]

    def render_error(self, error: ApiError) -> Reply:
        """Text for a path or a method that does not exist, else `{"error": "<message>"}`."""
        if isinstance(error, NotFound):
            return Reply(error.status, {"Content-Type": "text/plain"}, b"404 page not found")
        if isinstance(error, NotAllowedMethod):
            return Reply(error.status, {"Content-Type": "text/plain"}, b"405 method not allowed")
        return error_reply(error)


def error_reply(error: ApiError) -> Reply:
    """`{"error": "<message>"}`, the shape of every error of Ollama's that has one."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(error.status, headers, orjson.dumps({"error": str(error)}))


def _route(method: str, path: str, use: Use, body: Body, open: Callable[[Inbound], Codec]) -> Route:
    return Route(method=method, path=path, use=use, open=open, body=body)


def _with_slash(route: Route) -> Route:
    return replace(route, path=route.path + "/", open=Moved, body=Body.NONE)


def _open_plain(inbound: Inbound) -> Codec:
    # gin routes the decoded path: to Ollama an encoded slash separates segments too
    if any("/" in value for value in inbound.params.values()):
        raise NotFound(f"there is nothing at {inbound.path}")
    return Plain(Outbound(method=inbound.method, path=node_path(inbound)))


def _open_tags(inbound: Inbound) -> Codec:
    outbound = Outbound(method=inbound.method, path="/api/tags")
    aliases = inbound.models.aliases() if inbound.method == "GET" else ()
    return Tags(inbound, outbound) if aliases or inbound.models.limited() else Plain(outbound)


def _open_running(inbound: Inbound) -> Codec:
    outbound = Outbound(method="GET", path="/api/ps")
    return Running(inbound, outbound) if inbound.models.limited() else Plain(outbound)


_LISTS = (("GET", "/tags", _open_tags), ("HEAD", "/tags", _open_tags), ("GET", "/ps", _open_running))


def _open(request: Request, codec: type[Answer] | None, inbound: Inbound) -> Codec:
    outbound = request.understand(inbound)
    return codec(inbound, outbound) if codec else Plain(outbound)


class Moved(Codec):
    """Sends a path with a slash at its end to the one without, as gin (RedirectTrailingSlash) and net/http do."""

    def __init__(self, inbound: Inbound) -> None:
        super().__init__()
        self._get = inbound.method == "GET"
        self._status = HTTPStatus.MOVED_PERMANENTLY if self._get else HTTPStatus.TEMPORARY_REDIRECT
        query = f"?{urlencode(inbound.query)}" if inbound.query else ""
        self._location = quote(inbound.mount + inbound.path.rstrip("/"), safe="/:") + query
        headers = [("Location", self._location)]
        if inbound.method in ("GET", "HEAD"):
            headers.insert(0, ("Content-Type", "text/html; charset=utf-8"))
        self.reply = Head(self._status, headers)

    def feed(self, chunk: bytes) -> bytes:
        """Never called: no node is asked."""
        return b""

    def finish(self) -> bytes:
        if not self._get:
            return b""
        return f'<a href="{html.escape(self._location)}">{self._status.phrase}</a>.\n\n'.encode()
