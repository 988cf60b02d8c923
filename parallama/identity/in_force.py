"""The limits that are in force now, of all who have used something lately, and since when: for whoever checks that they
were kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from parallama.db.pool import Database, Row, plain
from parallama.db.query import load
from parallama.identity import grants
from parallama.limits import Limit, effective

_SQL = load("ledger")


class InForce(NamedTuple):
    """A limit that is in force now."""

    limit: Limit
    whose: str
    """Such as `user alice`."""
    since: datetime | None
    """When something has changed last by which it is made; None: not in the time that was asked for."""


async def limits_in_force(database: Database, since: datetime) -> Sequence[InForce]:
    """Of the users and keys that have asked a model since then; changes since then are looked for. Raises
    Unavailable."""
    changes = {row["username"]: row["at"] for row in await database.fetch(_SQL.changed, since)}
    users = await database.fetch(_SQL.limited, since)
    keys = await database.fetch(_SQL.limited_keys, since)
    return [*_of_users(users, changes), *_of_keys(keys, changes)]


def _of_users(rows: Sequence[Row], changes: Mapping[str | None, datetime]) -> Iterator[InForce]:
    for row in rows:
        holding = grants.held(grants.parse(row["grants"]), datetime.now(UTC))
        for limit in effective(plain(row["id"]), grants.limits(row["own"]), (), holding.rules):
            yield InForce(limit, f"user {row['username']}", _latest(changes, row["username"]))


def _of_keys(rows: Sequence[Row], changes: Mapping[str | None, datetime]) -> Iterator[InForce]:
    for row in rows:
        for limit in grants.limits(row["own"]):
            yield InForce(limit, f"key {row['id']} of {row['username']}", _latest(changes, row["username"]))


def _latest(changes: Mapping[str | None, datetime], username: str) -> datetime | None:
    """Of the user's, and of those of roles, which anybody may have."""
    found = [changes[name] for name in (None, username) if name in changes]
    return max(found, default=None)
