"""How the operations of the API are used: requests made, and answers read into records. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from parallama.admin.api import Page
from parallama.client.session import Answered, Request, Step, Steps, foreign
from parallama.errors import NotFound

T = TypeVar("T")

Ask = Callable[[Request], Steps]
"""Sends a request, and gives its good answer."""

Use = Callable[[Ask], Generator[Step, Any, T]]
"""One use of an operation, which gives a T; raises ApiError."""

_MOST = 1000
"""Items of one part of a list."""


def one(
    kind: type[T], method: str, path: str, body: Mapping[str, Any] | None = None, version: int | None = None
) -> Use[T]:
    """A request whose answer is read into a `kind`. `version`: what is changed must still be that one."""

    def use(ask: Ask) -> Generator[Step, Any, T]:
        answered = yield from ask(_request(method, path, body, version))
        answer: T = _read(kind, answered)
        return answer

    return use


def nothing(method: str, path: str, version: int | None = None, *, body: Mapping[str, Any] | None = None) -> Use[None]:
    """A request whose answer has no body."""

    def use(ask: Ask) -> Generator[Step, Any, None]:
        answered = yield from ask(_request(method, path, body, version))
        if answered.body:
            raise foreign()

    return use


def every(kind: type[T], path: str, filters: Mapping[str, Any], limit: int | None) -> Use[list[T]]:
    """The items of a list, part after part, at most `limit`."""

    def use(ask: Ask) -> Generator[Step, Any, list[T]]:
        found: list[T] = []
        cursor = None
        while limit is None or len(found) < limit:
            most = _MOST if limit is None else min(_MOST, limit - len(found))
            request = Request(method="GET", path=at(path, {**filters, "limit": most, "cursor": cursor}))
            answered = yield from ask(request)
            page: Page[T] = _read(Page[kind], answered)  # type: ignore[valid-type]
            found += page.items
            if (cursor := page.next_cursor) is None:
                break
        return found

    return use


def _request(method: str, path: str, body: Mapping[str, Any] | None, version: int | None) -> Request:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    plain = None if body is None else {name: _plain(value) for name, value in body.items()}
    return Request(method=method, path=path, body=plain, headers=headers, changes=method != "GET")


def part(name: UUID | str) -> str:
    """A name or id as one part of a path. Raises NotFound for those that no path can hold: nothing is called so."""
    text = str(name)
    if text in ("", ".", ".."):  # taken out of paths on the way: RFC 3986 section 5.2.4
        raise NotFound(f"there is nothing called {text!r}")
    return quote(text, safe="")


def at(path: str, query: Mapping[str, Any]) -> str:
    """The path with a query, of which None is left out."""
    given = {name: _text(_plain(value)) for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """For JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value


def _read(kind: Any, answered: Answered) -> Any:
    try:
        return _reader(kind).validate_json(answered.body)
    except ValidationError:
        raise foreign() from None


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
