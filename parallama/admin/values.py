"""Values that clients send in bodies, queries, paths and cursors, as the Operations read them, and lists cut to pages.

What a value may be within its form, such as whether there is such a user, is for the records to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BeforeValidator, Field

from parallama.admin.api import Page, Paging, cursor_of, place_of
from parallama.errors import Invalid, NotFound

T = TypeVar("T")

_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"  # PostgreSQL stores no NUL


def moment(given: object) -> datetime:
    """RFC 3339 with an offset, in UTC. Raises ValueError for anything else."""
    if not isinstance(given, str):
        raise ValueError("must be a time such as 2027-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time with its offset, such as 2027-01-31T12:00:00Z") from None


Moment = Annotated[AwareDatetime, BeforeValidator(moment)]
"""RFC 3339, with an offset from UTC; a number is none."""

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]


class Part(Paging):
    """The query of a list that can show what has ended too."""

    ended: bool = False
    """Whether what was revoked, ended or has expired is shown too."""


def id_of(text: str, what: str) -> UUID:
    """The id in a path. Raises NotFound for what can be none: "there is no `what` 'text'"."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no {what} {text!r}") from None


def page_of(records: Sequence[T], query: Paging, place: Callable[[T], tuple[str | int, ...]]) -> Page[T]:
    """The first `limit` of one record more than that; `place` is where a record stands in the list."""
    items = records[: query.limit]
    return Page(items, cursor_of(*place(items[-1])) if len(records) > query.limit else None)


def name_after(cursor: str | None) -> str | None:
    """After which name the next part of a list by name begins. Raises Invalid."""
    place = place_of(cursor, str)
    return None if place is None else str(place[0])


def stands(at: datetime, id: UUID) -> tuple[str, str]:
    """The place of a record in a list by time."""
    return at.isoformat(), str(id)


def after(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Where the next part of a list by time begins. Raises Invalid."""
    place: tuple[Any, ...] | None = place_of(cursor, str, str)
    if place is None:
        return None
    try:
        return moment(place[0]), UUID(place[1])
    except ValueError:
        raise Invalid("cursor is none of this list: leave it out to begin again", param="cursor") from None
