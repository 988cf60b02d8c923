"""What an operation of the API is: its place, its guard, the shapes of what goes in and out, and who runs it.

The table of operations is the one source of the routes, of the OpenAPI document and of the checks on what clients send.
Without HTTP: `http.py` has the adapter.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from parallama.admin.guards import Guard
from parallama.errors import ApiError, Invalid
from parallama.exchange import Caller
from parallama.identity.actor import Actor

PREFIX = "/admin/v1"

_MAX_DETAILS = 20

T = TypeVar("T")


class Shape(BaseModel):
    """What a client sends: unknown keys are refused, and nothing of it is quoted in an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True, defer_build=True
    )


class Paging(Shape):
    """The query of a list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most items of the answer."""
    cursor: Annotated[str, Field(max_length=1000)] | None = None
    """`next_cursor` of the answer before; none: from the beginning."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One part of a list."""

    items: Sequence[T]
    next_cursor: str | None
    """For the next part; null: this was the last."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that is sent while it is made, of any length."""

    media: str
    """Its type."""
    parts: AsyncGenerator[bytes, None]
    """Closed by who sends them. What the first raises can still be answered; later the connection breaks."""
    name: str
    """Of the file that browsers make of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One use of an operation."""

    actor: Actor
    caller: Caller | None
    """None: the operation is public."""
    path: Mapping[str, str]
    """The variables of the path."""
    query: Any
    """An instance of the operation's `query`; None: it has none."""
    body: Any
    """An instance of the operation's `body`; None: it has none."""
    version: int | None
    """Of `If-Match`: what is changed must still be that version; None: whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One endpoint."""

    name: str
    """Its `operationId`, such as `list_users`."""
    method: str
    path: str
    """Whole, such as `/admin/v1/users/{name}`."""
    tag: str
    """The resource that it belongs to."""
    summary: str
    guard: Guard
    run: Callable[[Call], Awaitable[Any]]
    """Gives the answer: a frozen dataclass, a Page of them, a mapping, or Streamed; None where `answer` is None. Raises
    ApiError."""
    query: type[Shape] | None = None
    body: type[Shape] | None = None
    answer: Any = None
    """Its type, for `pydantic.TypeAdapter`; None: there is no body, 204. One with a `version` has an ETag."""
    streams: tuple[str, ...] = ()
    """Media types of what is answered in place of JSON where that is asked for."""
    status: int = 200
    """Of a good answer with a body."""
    errors: tuple[type[ApiError], ...] = ()
    """What `run` raises beside what follows from guard, query and body."""
    versioned: bool = False
    """Whether `If-Match` is heeded."""


def validated(shape: type[Shape], given: Mapping[str, Any]) -> Any:
    """An instance of `shape`. Raises Invalid, which names the fields and quotes nothing."""
    try:
        return TypeAdapter(shape).validate_python(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        detail = [
            {"field": ".".join(map(str, one["loc"])), "message": one["msg"].removeprefix("Value error, ")}
            for one in wrong[:_MAX_DETAILS]
        ]
        field, message = detail[0]["field"], detail[0]["message"]
        text = f"{field}: {message}" if field else message
        raise Invalid(text, param=field or None, detail=detail) from None


def serialized(answer: Any) -> bytes:
    """JSON of what an operation gives: times in RFC 3339, UTC."""
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC)


def cursor_of(*place: str | int) -> str:
    """What tells where the next part of a list begins; opaque to clients."""
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def place_of(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The place that `cursor_of` was given, of these types; None for None. Raises Invalid for anything else."""
    if cursor is None:
        return None
    try:
        place = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error):
        place = None
    if not isinstance(place, list) or [type(step) for step in place] != list(kinds):
        raise Invalid("cursor is none of this list: leave it out to begin again", param="cursor")
    return tuple(place)
