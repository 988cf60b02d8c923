"""The OpenAPI 3.1 document of all routes, made of what they are made of: operations, views, and gateways.

Every operation has exactly the answers that it can give: those of its guard, of what it reads, and of its own. What the
gateways answer is their dialects': `dialects.py` has those routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from http import HTTPStatus

import orjson
from aiohttp import web

from parallama.admin.api import PREFIX, Operation
from parallama.admin.dialects import dialect_paths, dialect_tags
from parallama.admin.guards import KNOWN, Guard
from parallama.admin.schemas import Schema, Schemas
from parallama.admin.views import View, page
from parallama.errors import (
    ApiError,
    BadRequest,
    BodyTooLarge,
    Invalid,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Outdated,
    Unavailable,
    UnsupportedMedia,
)
from parallama.gateway.families import Family
from parallama.version import __version__

PATH = f"{PREFIX}/openapi.json"

_VARIABLE = re.compile(r"{(\w+)}")
_ERROR: Schema = {
    "type": "object",
    "description": "What was refused, and why.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "For programs."},
                "message": {"type": "string", "description": "For people: what was wrong, and what would be right."},
                "detail": {
                    "type": "array",
                    "description": "What is wrong with the values that were sent, where that may be several things.",
                    "items": {"type": "object", "required": ["field", "message"],
                              "properties": {"field": {"type": "string"}, "message": {"type": "string"}}},
                },
            },
        }
    },
}  # fmt: skip
_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}


def openapi(operations: Sequence[Operation], views: Sequence[View], families: Iterable[Family]) -> View:
    """`GET /admin/v1/openapi.json`: the document, made when it is first asked for; it tells of itself too."""

    @cache
    def document() -> bytes:
        return orjson.dumps(describe(operations, [*views, view], families))

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=document(), content_type="application/json")

    view = View(
        name="get_openapi",
        path=PATH,
        tag="docs",
        summary="This document.",
        guard=KNOWN,
        handler=openapi,
        answers=page("application/json", dict[str, object], "OpenAPI 3.1."),
    )
    return view


def describe(operations: Sequence[Operation], views: Sequence[View] = (), families: Iterable[Family] = ()) -> Schema:
    """The document. `families`: whose gateways are served; what they have mounted is theirs, whatever else is there."""
    schemas = Schemas(operations, views)
    paths: dict[str, Schema] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    for view in views:
        paths.setdefault(view.path, {})["get"] = _view(view, schemas)
    own = dict.fromkeys([*(one.tag for one in operations), *(view.tag for view in views)])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parallama", "version": __version__},
        "servers": [{"url": "/"}],
        "tags": [*({"name": tag} for tag in own), *dialect_tags(families)],
        "paths": paths | dialect_paths(families, _security(KNOWN)),
        "components": {"schemas": {**schemas.shared, "Error": _ERROR}, "securitySchemes": _SCHEMES},
    }


def refusals(operation: Operation) -> set[int]:
    """The statuses of the errors that it can answer, beside those that only a bug has."""
    return {error.status for error in _errors(operation)}


def _errors(operation: Operation) -> Iterator[type[ApiError]]:
    yield from (Invalid, Unavailable, *operation.errors, *_strangers(operation.guard))
    if _VARIABLE.search(operation.path):
        yield NotFound
    if operation.body is not None:
        yield from (BadRequest, BodyTooLarge, UnsupportedMedia)
    if operation.versioned:
        yield from (BadRequest, Outdated)


def _strangers(guard: Guard) -> tuple[type[ApiError], ...]:
    """What those are told who are not let in."""
    return () if guard.public else (NotAuthenticated, NotAllowed, Unavailable)


def _operation(operation: Operation, schemas: Schemas) -> Schema:
    described: Schema = {
        **_head(operation, operation.method),
        "parameters": [*_variables(operation), *_query(operation, schemas), *_conditions(operation)],
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.name, "body")}}
        described["requestBody"] = {"required": _is_needed(schemas.whole(operation.name, "body")), "content": content}
    return described


def _view(view: View, schemas: Schemas) -> Schema:
    answers: Schema = {}
    for status, content in view.answers.items():
        found = {media: {"schema": schemas.of(view.name, f"{status} {media}")} for media in content.shapes}
        answers[str(status)] = {"description": content.description, "content": found, **_retry(status)}
    refused = {str(status): _refusal(status) for status in sorted({one.status for one in _strangers(view.guard)})}
    return {**_head(view, "GET"), "parameters": [], "responses": refused | answers}


def _head(one: Operation | View, method: str) -> Schema:
    return {
        "operationId": one.name,
        "tags": [one.tag],
        "summary": one.summary,
        "description": _who(one.guard) + _shortfall(one.guard, method),
        "security": _security(one.guard),
    }


def _security(guard: Guard) -> list[Schema]:
    return [] if guard.public else [{scheme: []} for scheme in _SCHEMES]


def _who(guard: Guard) -> str:
    if guard.public:
        return "For everybody."
    if not guard.permissions:
        return "For everybody who has a key or a token."
    return f"Needs {(' or ' if guard.any else ' and ').join(guard.permissions)}."


def _shortfall(guard: Guard, method: str) -> str:
    """Which keys are not enough."""
    if guard.needs_full(method):
        return " A key that is limited or expires is not enough."
    return "" if guard.public or guard.limited else " A key that is limited to gateways or models is not enough."


def _is_needed(body: Schema) -> bool:
    """Whether nothing at all is too little; `allOf` is how a shape says that one of two names is needed."""
    return bool(body.get("required") or body.get("allOf"))


def _variables(operation: Operation) -> Iterator[Schema]:
    for name in _VARIABLE.findall(operation.path):
        schema = {"type": "string", "format": "uuid"} if name == "id" else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query(operation: Operation, schemas: Schemas) -> Iterator[Schema]:
    shape = schemas.whole(operation.name, "query")
    for name, schema in shape.get("properties", {}).items():
        required = name in shape.get("required", ())
        yield {"name": name, "in": "query", "required": required, "schema": _said(schema)} | _description(schema)


def _said(schema: Schema) -> Schema:
    """Without null, which no query can say: a parameter that is not there stands for it."""
    some = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    plain = {key: value for key, value in schema.items() if key not in ("anyOf", "description") and value is not None}
    return {**plain, **some[0]} if len(some) == 1 else {**plain, **({"anyOf": some} if some else {})}


def _conditions(operation: Operation) -> Iterator[Schema]:
    if operation.versioned:
        text = 'The ETag that it had, such as `"3"`: 412 if it has changed since. `*`: whatever it is.'
        yield {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": text}


def _description(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _responses(operation: Operation, schemas: Schemas) -> Schema:
    refused = {str(status): _refusal(status) for status in sorted(refusals(operation))}
    return {**_success(operation, schemas), **refused}


def _success(operation: Operation, schemas: Schemas) -> Schema:
    if operation.answer is None:
        return {"204": {"description": "Done."}}
    answer: Schema = {
        "description": operation.summary,
        "content": {
            "application/json": {"schema": schemas.of(operation.name, "answer")},
            **{media: {"schema": {"type": "string"}} for media in operation.streams},
        },
    }
    if "version" in schemas.whole(operation.name, "answer").get("properties", {}):
        answer["headers"] = {"ETag": _header("string", "Its version, for If-Match.")}
    return {str(operation.status): answer}


def _refusal(status: int) -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": f"{HTTPStatus(status).phrase}.", "content": content, **_retry(status)}


def _retry(status: int) -> Schema:
    if status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return {}
    return {"headers": {"Retry-After": _header("integer", "Seconds after which to try again.")}}


def _header(kind: str, description: str) -> Schema:
    return {"description": description, "schema": {"type": kind}}
