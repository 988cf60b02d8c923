"""The OpenAPI 3.1 document of the operations, made of the same table as their routes.

Every operation has exactly the answers that it can give: those of its guard, of what it reads, and of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from parallama.admin.api import PREFIX, Operation, Shape
from parallama.admin.guards import Guard
from parallama.admin.state import Handler
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
from parallama.version import __version__

PATH = f"{PREFIX}/openapi.json"

Schema = dict[str, Any]
Schemas = Mapping[tuple[str, str], Schema]
"""By operation and place: `query`, `body` or `answer`."""

_VARIABLE = re.compile(r"{(\w+)}")
_ERROR: Schema = {
    "type": "object",
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
                    "items": {"type": "object", "properties": {"field": {"type": "string"},
                                                               "message": {"type": "string"}}},
                },
            },
        }
    },
}  # fmt: skip
_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}


def openapi(operations: Sequence[Operation]) -> Handler:
    """`GET /admin/v1/openapi.json`: the document, made once."""
    body = orjson.dumps(describe(operations))

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return openapi


def describe(operations: Sequence[Operation]) -> Schema:
    """The document."""
    schemas, shared = _schemas(operations)
    paths: dict[str, Schema] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parallama", "version": __version__},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in operations)],
        "paths": paths,
        "components": {"schemas": {**shared, "Error": _ERROR}, "securitySchemes": _SCHEMES},
    }


def refusals(operation: Operation) -> set[int]:
    """The statuses of the errors that it can answer, beside those that only a bug has."""
    return {error.status for error in _errors(operation)}


def _errors(operation: Operation) -> Iterator[type[ApiError]]:
    yield from (Invalid, Unavailable, *operation.errors)
    if not operation.guard.public:
        yield from (NotAuthenticated, NotAllowed)
    if _VARIABLE.search(operation.path):
        yield NotFound
    if operation.body is not None:
        yield from (BadRequest, BodyTooLarge, UnsupportedMedia)
    if operation.versioned:
        yield from (BadRequest, Outdated)


def _schemas(operations: Iterable[Operation]) -> tuple[Schemas, Mapping[str, Schema]]:
    """Those of the operations, and those that they refer to, by name."""
    inputs: list[tuple[tuple[str, str], Literal["validation", "serialization"], TypeAdapter[Any]]] = []
    for one in operations:
        inputs += [((one.name, "query"), "validation", TypeAdapter(one.query))] if one.query else []
        inputs += [((one.name, "body"), "validation", TypeAdapter(one.body))] if one.body else []
        inputs += [((one.name, "answer"), "serialization", TypeAdapter(one.answer))] if one.answer is not None else []
    found, whole = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    shared: dict[str, Schema] = whole.get("$defs", {})
    schemas = {key: schema for (key, _), schema in found.items()}
    return {key: _resolved(schema, shared) if key[1] == "query" else schema for key, schema in schemas.items()}, shared


def _resolved(schema: Schema, shared: Mapping[str, Schema]) -> Schema:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return shared[name] if name else schema


def _operation(operation: Operation, schemas: Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": _who(operation.guard),
        "security": [] if operation.guard.public else [{scheme: []} for scheme in _SCHEMES],
        "parameters": [*_variables(operation), *_query(operation, schemas), *_conditions(operation)],
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.name, "body"]}}
        described["requestBody"] = {"required": _is_needed(operation.body), "content": content}
    return described


def _who(guard: Guard) -> str:
    if guard.public:
        return "For everybody."
    if not guard.permissions:
        return "For everybody who has a key or a token."
    return f"Needs {(' or ' if guard.any else ' and ').join(guard.permissions)}."


def _is_needed(shape: type[Shape]) -> bool:
    return any(field.is_required() for field in shape.model_fields.values())


def _variables(operation: Operation) -> Iterator[Schema]:
    for name in _VARIABLE.findall(operation.path):
        schema = {"type": "string", "format": "uuid"} if name == "id" else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query(operation: Operation, schemas: Schemas) -> Iterator[Schema]:
    shape = schemas.get((operation.name, "query"), {})
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
        "content": {"application/json": {"schema": schemas[operation.name, "answer"]}},
    }
    if "version" in TypeAdapter(operation.answer).json_schema(mode="serialization").get("properties", {}):
        answer["headers"] = {"ETag": _header("string", "Its version, for If-Match.")}
    return {str(operation.status): answer}


def _refusal(status: int) -> Schema:
    answer: Schema = {
        "description": f"{HTTPStatus(status).phrase}.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        answer["headers"] = {"Retry-After": _header("integer", "Seconds after which to try again.")}
    return answer


def _header(kind: str, description: str) -> Schema:
    return {"description": description, "schema": {"type": kind}}
