"""The audit trail, to be read: who changed what, and how it was before.

The rows are written by triggers of the tables, in the transaction of the change itself; no statement changes or deletes
them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from parallama.db.pool import Database, Row, plain
from parallama.db.query import load
from parallama.errors import Invalid

_SQL = load("audit")
_LAST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One change. Secrets in it are masked."""

    id: int
    """Rises with time."""
    at: datetime
    actor: str
    """The name of who made the change, as it was then."""
    actor_id: UUID | None
    """None: no user, but the server, an operator at the machine, or somebody in SQL."""
    via: str
    """`api`, `login`, `command`, `server` or `sql`."""
    request_id: UUID | None
    address: str | None
    """Of the client."""
    action: str
    """The kind of the record with `create`, `change` or `delete`: `user.create`."""
    target: str
    """The id of the record; the name of one that has none."""
    name: str | None
    """What the record was called."""
    username: str | None
    """Whose it was; None: no user's."""
    before: dict[str, Any] | None
    """Columns with their values: of a change only what has changed. None: it is new."""
    after: dict[str, Any] | None
    """None: it is gone."""


class AuditTrail:
    """Every change that was made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        username: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[AuditRecord]:
        """Changes, newest first, at most `limit`; None: all.

        By `actor` and of the user `username`, in whatever case; of an `action`, or of a kind such as `user`; of the
        record `target`; made at `since` or later, before `until` (both aware), and before the one with the id `before`.
        Raises Invalid for a moment that is out of reach, Unavailable.
        """
        words = (actor, action, username, target)
        if not all(word is None or word.isprintable() for word in words):
            return []  # nothing is called that, and PostgreSQL refuses some of it
        place = None if before is None else max(0, min(before, _LAST_ID))
        rows = await self._database.fetch(
            _SQL.entries, *words, _moment("since", since), _moment("until", until), place, limit
        )
        return [_record(row) for row in rows]


def _moment(name: str, value: datetime | None) -> datetime | None:
    try:
        return value and value.astimezone(UTC)
    except OverflowError as error:
        raise Invalid(f"`{name}` must lie in the years 1 to 9999 UTC", param=name) from error


def _record(row: Row) -> AuditRecord:
    return AuditRecord(**{field.name: _value(field.name, row[field.name]) for field in fields(AuditRecord)})


def _value(name: str, value: Any) -> Any:
    if name in ("before", "after"):
        return value and orjson.loads(value)
    return plain(value)
