"""Operations as aiohttp handlers: who asks, what they send, and how the answer is written.

What can be refused here is refused before an operation runs; `openapi.py` tells clients of each refusal.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from parallama.admin.api import Call, Operation, Shape, Streamed, serialized, validated
from parallama.admin.guards import Guard
from parallama.admin.state import Handler
from parallama.admin.streams import stream
from parallama.arrival import ARRIVAL, Arrival, ask_for_body
from parallama.errors import BadRequest, BodyTooLarge, Invalid, NotFound, UnsupportedMedia
from parallama.exchange import Caller
from parallama.identity.actor import Actor
from parallama.identity.callers import Callers

MAX_BODY_KB = 256
MAX_DEPTH = 32
"""Of arrays and objects within each other."""

_BODY_S = 30.0
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
"""RFC 9110 section 8.8.3."""
_OURS = re.compile(r'"(0|[1-9][0-9]{0,17})"')
_NO_VERSION = -1
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

CALLER = web.RequestKey("caller", Caller)
"""Of a request to a guarded route that is not public."""


def add_operations(
    app: web.Application,
    operations: Iterable[Operation],
    callers: Callers,
    caught_up: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """A route for each operation, and one for HEAD where it is a GET (RFC 9110 section 9.1).

    What changes something is answered once this process has `caught_up` with it: whoever reads the answer finds it so.
    """
    for operation in operations:
        handler = guarded(_handler(operation, caught_up), operation.guard, callers)
        for method in ("GET", "HEAD") if operation.method == "GET" else (operation.method,):
            app.router.add_route(method, operation.path, handler)


def guarded(handler: Handler, guard: Guard, callers: Callers) -> Handler:
    """`handler` for those whom `guard` lets in; the guard is its attribute `guard`."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        if not guard.public:
            request[CALLER] = await _let_in(request, guard, callers)
        answer: web.StreamResponse = await handler(request)
        return answer

    guarded.guard = guard  # type: ignore[attr-defined]
    return guarded


async def _let_in(request: web.Request, guard: Guard, callers: Callers) -> Caller:
    arrival = request[ARRIVAL]
    told = {"path": request.path, "remote": arrival.address, "request_id": arrival.text}
    caller = await callers.identify(request.headers, arrival.address, lambda: told)
    guard.check(caller, request.method)
    return caller


def _handler(operation: Operation, caught_up: Callable[[], Awaitable[None]] | None) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = request.get(CALLER)
        call = Call(
            actor=_actor(caller, request[ARRIVAL]),
            caller=caller,
            path=_path(request),
            query=_query(operation.query, request),
            version=_version(request) if operation.versioned else None,
            body=None if operation.body is None else await _body(operation.body, request),
        )
        answer = await operation.run(call)
        if caught_up is not None and operation.method != "GET":
            await caught_up()
        if isinstance(answer, Streamed):
            return await stream(request, answer)
        return _answer(operation, answer)

    return handle


def _actor(caller: Caller | None, arrival: Arrival) -> Actor:
    if caller is None:
        return Actor(name="nobody", via="login", request_id=arrival.id, address=arrival.address)
    return Actor(
        name=caller.username,
        via="api",
        user_id=caller.user_id,
        request_id=arrival.id,
        address=arrival.address,
        caller=caller,
    )


def _path(request: web.Request) -> Mapping[str, str]:
    """The variables; nothing can be there whose name cannot be stored, or whose `id` is no UUID."""
    variables = dict(request.match_info)
    try:
        if "id" in variables:
            variables["id"] = str(UUID(variables["id"]))
    except ValueError:
        raise NotFound(f"there is nothing at {request.path}: its id is no UUID") from None
    if any(map(_UNSTORABLE.search, variables.values())):
        raise NotFound("there is nothing at a path with such characters")
    return variables


def _query(shape: type[Shape] | None, request: web.Request) -> Any:
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise Invalid("the query has a parameter twice", param=name)
        if _UNSTORABLE.search(name + value):
            raise Invalid("the query has characters that nothing can have")
        given[name] = value
    if shape is None:
        if given:
            raise Invalid(f"the query has an unknown parameter: {request.method} takes none here")
        return None
    return validated(shape, given)


async def _body(shape: type[Shape], request: web.Request) -> Any:
    """Of `shape`; nothing at all stands for `{}` where that has what is needed."""
    if not request.body_exists and not any(one.is_required() for one in shape.model_fields.values()):
        return validated(shape, {})
    if request.content_type != "application/json":
        raise UnsupportedMedia("the body must be JSON: send Content-Type: application/json")
    document = parsed(await _read(request))
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json_shape")
    return validated(shape, document)


async def _read(request: web.Request) -> bytes:
    """The whole body, asked for where the client waits for that; not when it is announced as too large."""
    limit, body = MAX_BODY_KB * 1024, bytearray()
    if (request.content_length or 0) > limit:
        raise _too_large()
    try:
        async with asyncio.timeout(_BODY_S):
            await ask_for_body(request)
            while len(body) <= limit and (part := await request.content.readany()):
                body += part
    except TimeoutError:
        raise BadRequest("the request body did not arrive in time") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadRequest("the request body is not framed as its head says") from None
    if len(body) > limit:
        raise _too_large()
    return bytes(body)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body must not be longer than {MAX_BODY_KB} KiB")


def parsed(body: bytes) -> Any:
    """The JSON document. Raises BadRequest for what readers of JSON take in different ways (RFC 8259 section 4: the
    same name twice), and for one that is nested more than MAX_DEPTH deep."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is not JSON", code="invalid_json") from None
    if _deeper(document, MAX_DEPTH):
        raise BadRequest(f"the body is nested more than {MAX_DEPTH} deep", code="invalid_json")
    json.loads(body, object_pairs_hook=_distinct, parse_int=str)
    return document


def _deeper(document: Any, levels: int) -> bool:
    if not isinstance(document, (dict, list)):
        return False
    inner = document.values() if isinstance(document, dict) else document
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise BadRequest("the body has a name twice in one object", code="invalid_json")


def _version(request: web.Request) -> int | None:
    """Of `If-Match: "3"` (RFC 9110 section 13.1.1); `*` stands for any, as does its absence. One that is not ours, or
    weak, is no version that there can be. Raises BadRequest for several and for what is none."""
    given = ", ".join(request.headers.getall("If-Match", ["*"])).strip()
    if given == "*":
        return None
    if ours := _OURS.fullmatch(given):
        return int(ours[1])
    if _ETAG.fullmatch(given):
        return _NO_VERSION
    raise BadRequest('If-Match must be one ETag as it was answered, such as "3", or *')


def _answer(operation: Operation, answer: Any) -> web.Response:
    if operation.answer is None:
        return web.Response(status=204)
    version = answer.get("version") if isinstance(answer, Mapping) else getattr(answer, "version", None)
    headers = {"Cache-Control": "no-store"} | ({} if version is None else {"ETag": f'"{version}"'})
    body = serialized(answer)
    return web.Response(status=operation.status, body=body, content_type="application/json", headers=headers)
