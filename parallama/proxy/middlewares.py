"""What surrounds every gateway exchange, outermost first: account, answer_errors, authenticate.

`account` is the outermost because the row of an exchange needs what the error's answer turned out to be. The root
application has `answer_edges`, for every request and above all for paths that no gateway owns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.hdrs import SERVER
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from parallama.arrival import ARRIVAL, Arrival, client_of
from parallama.errors import (
    ApiError,
    ClientLeft,
    NotAllowedMethod,
    NotAuthenticated,
    NotFound,
    OverLimit,
    Unavailable,
)
from parallama.exchange import Exchange, IdGenerator, Outcome
from parallama.gateway.api import Reply
from parallama.gateway.families import Mounted
from parallama.identity.callers import Callers
from parallama.networks import Networks
from parallama.proxy.books import Books
from parallama.proxy.headers import client_request_id, sound
from parallama.proxy.keys import EXCHANGE
from parallama.proxy.security import secure
from parallama.proxy.stalls import Stalls

_error = logging.getLogger("parallama.error")

_REQUEST_ID, _CLIENT_REQUEST_ID = istr("x-request-id"), istr("x-client-request-id")
_CLIENT_LEFT = 499
"""Nobody reads it; the row's status (as nginx and Ollama have it)."""


def put_headers(stalls: Stalls, closing: Callable[[], bool]) -> Callable[[web.Request, web.StreamResponse], Any]:
    """An aiohttp `on_response_prepare` signal: our ids, the headers of security, no server name, and the end of a
    connection whose request body was not read, or of every one once `closing`. A client that has not taken its earlier
    answers is watched."""

    async def put_headers(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.pop(SERVER, None)
        arrival = request.get(ARRIVAL)
        secure(headers, https=arrival is not None and arrival.secure)
        if arrival is not None:
            headers[_REQUEST_ID] = arrival.text
            if arrival.client_id is not None:
                headers[_CLIENT_REQUEST_ID] = arrival.client_id
        if closing() or not request.content.at_eof():
            response.force_close()
            headers["Connection"] = "close"
        stalls.before_answer(request)

    return put_headers


def account(family: str, books: Books, stopping: Callable[[], bool]) -> Middleware:
    """Open the Exchange; whatever happens, it ends in the books.

    `stopping` tells whether it is this process that cuts exchanges off now.
    """
    books.show_under_way(family)

    @web.middleware
    async def account(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrival = request[ARRIVAL]
        request[EXCHANGE] = exchange = Exchange(id=arrival.id, client_request_id=arrival.client_id, gateway=family)
        books.begin(exchange)
        try:
            return await handler(request)
        except ClientLeft:
            _cut(exchange, stopping=False)
            return web.Response(status=_CLIENT_LEFT)
        except asyncio.CancelledError:
            _cut(exchange, stopping=stopping())
            raise
        finally:
            books.end(exchange, request)

    return account


def _cut(exchange: Exchange, *, stopping: bool) -> None:
    """The exchange ended from outside: its client left, or this process stops."""
    if exchange.closed:
        return
    if exchange.streamed and exchange.usage.final:
        # the last line was out: some clients stop reading there
        exchange.status, exchange.outcome, exchange.error = 200, Outcome.OK, None
    elif stopping:
        exchange.status, exchange.outcome, exchange.error = 503, Outcome.FAILED, "stopped"
    else:
        error = "client_stalled" if exchange.stalled else "client_left"
        exchange.status, exchange.outcome, exchange.error = _CLIENT_LEFT, Outcome.CANCELLED, error


def answer_errors(mounted: Mounted) -> Middleware:
    """Turn an ApiError into the dialect's answer, and a bug into a 500 that names only the id."""

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        # answered where it is caught: an error kept by a name here would keep this frame, and the frame the error
        try:
            return await handler(request)
        except ApiError as error:
            return refuse(request, error)
        except web.HTTPException as error:
            return refuse(request, _routing_error(request, error))
        except (ClientLeft, asyncio.CancelledError):
            raise
        except (Exception, SystemExit):  # noqa: BLE001 - the outer edge: logged whole by bug()
            return refuse(request, bug(request))

    def refuse(request: web.Request, error: ApiError) -> web.Response:
        exchange = request[EXCHANGE]
        exchange.status, exchange.error = error.status, error.code
        exchange.outcome = Outcome.REFUSED if error.status < 500 else Outcome.FAILED
        gateway = mounted.serving.gateway
        reply = gateway.render_error(error)
        if request.method != "HEAD":
            exchange.response_bytes += len(reply.body)
        headers = {**reply.headers, **sound(gateway, exchange), **_headers(error)}
        return web.Response(status=reply.status, headers=headers, body=reply.body)

    return answer_errors


def answer_edges(ids: IdGenerator, trusted: Networks) -> Middleware:
    """Give every request its Arrival, and answer errors on paths that no gateway owns: `{"error": {"code",
    "message"}}`. The proxies in `trusted` are believed who the client is."""

    @web.middleware
    async def answer_edges(request: web.Request, handler: Handler) -> web.StreamResponse:
        new = ids()
        client_id = client_request_id(request.headers)
        request[ARRIVAL] = Arrival(new, str(new), client_id, *client_of(request, trusted))
        try:
            return await handler(request)
        except ApiError as error:
            return _edge(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _edge(_routing_error(request, error))
        except (Exception, SystemExit):  # noqa: BLE001 - the outer edge
            return _edge(bug(request))

    return answer_edges


def _edge(error: ApiError) -> web.Response:
    reply = edge_reply(error)
    return web.Response(status=reply.status, headers={**reply.headers, **_headers(error)}, body=reply.body)


def edge_reply(error: ApiError) -> Reply:
    """An error where no gateway speaks: `{"error": {"code", "message"}}`."""
    document: dict[str, Any] = {"error": {"code": error.code, "message": str(error)}}
    if detail := getattr(error, "detail", ()):
        document["error"]["detail"] = detail
    return Reply(error.status, {"Content-Type": "application/json; charset=utf-8"}, orjson.dumps(document))


def bug(request: web.Request) -> ApiError:
    """Log the exception in hand whole; what the client may know of it."""
    _error.exception("bug", extra={"fields": {"request_id": request[ARRIVAL].text, "path": request.path}})
    return ApiError(f"internal error; request id {request[ARRIVAL].text}")


def _routing_error(request: web.Request, error: web.HTTPException) -> ApiError:
    error.__traceback__ = None  # the request holds the error, the traceback the request
    if isinstance(error, web.HTTPMethodNotAllowed):
        return NotAllowedMethod(f"{request.method} is not allowed on {request.path}", allowed=error.allowed_methods)
    return NotFound(f"there is nothing at {request.path}")


def _headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, OverLimit) and error.lasting:
        headers["x-should-retry"] = "false"
    if isinstance(error, NotAllowedMethod):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 section 15.5.2: a 401 must
    return headers


def authenticate(mounted: Mounted, callers: Callers, books: Books) -> Middleware:
    """Find out who is asking, and screen: refuse before a body is read what is switched off or could not be recorded.

    Raises NotAuthenticated, NotFound for a gateway that is off, or Unavailable when the caller cannot be known or the
    usage cannot be recorded now.
    """

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrival = request[ARRIVAL]
        request[EXCHANGE].caller = await callers.identify(
            request.headers, arrival.address, lambda: {"request_id": arrival.text, "remote": arrival.address}
        )
        if not mounted.serving.settings.enabled:
            raise NotFound(f"the gateway {mounted.serving.gateway.name} is switched off")
        if books.full:
            raise Unavailable("usage cannot be recorded now: the journal is full, or its disk")
        return await handler(request)

    return authenticate
