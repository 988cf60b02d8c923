"""What a user holds at a moment: the assignments of roles that have not expired, put together.

Pure. The rows come of the SQL functions `grants(user)`, which leaves out what was ended and knows no clock, and
`limits_of(id)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from parallama.limits import Limit, Meter, Period, Rules, Scope

ADMIN = "admin"
"""The role that may do everything, and so may every role below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one assignment gives."""

    roles: tuple[str, ...]
    """The role that is assigned, then those above it."""
    permissions: tuple[str, ...]
    expires_at: datetime | None
    """Aware; None: never."""
    limits: tuple[tuple[Limit, ...], ...] = ()
    """Of each of the roles, in their order."""

    def live(self, now: datetime) -> bool:
        """Whether it still counts. At the moment of its expiry it does not."""
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """All that a user holds at one moment."""

    roles: tuple[str, ...]
    """Sorted, those above the assigned ones too."""
    permissions: frozenset[str]
    rules: tuple[Rules, ...]
    """The limits of the assigned roles."""
    until: datetime | None
    """When the first of it expires; None: nothing does."""
    ends: Mapping[str, datetime]
    """Until when those permissions and roles are held that are not held for good."""

    @property
    def admin(self) -> bool:
        """Whether a role among them makes the user an admin."""
        return ADMIN in self.roles


def parse(text: str) -> tuple[Grant, ...]:
    """The grants in the JSON of `grants(user)`: `[{"roles": [], "limits": [[]], "permissions": [], "expires_at": iso or
    null}]`; the limits as `limits` has them, a list for each role."""
    return tuple(
        Grant(
            roles=tuple(one["roles"]),
            permissions=tuple(one["permissions"]),
            expires_at=one["expires_at"] and datetime.fromisoformat(one["expires_at"]),
            limits=tuple(_limits(of_role) for of_role in one.get("limits", ())),
        )
        for one in orjson.loads(text)
    )


def limits(text: str) -> tuple[Limit, ...]:
    """The limits in the JSON of `limits_of(id)`: `[{"subject": id, "gateway": "*", "model": null, "meter": "requests",
    "period": "day", "amount": 1, "strict": true, "open": false, "max_output_tokens": null}]`."""
    return _limits(orjson.loads(text))


def _limits(rows: Iterable[Mapping[str, Any]]) -> tuple[Limit, ...]:
    return tuple(
        Limit(
            subject=UUID(one["subject"]),
            scope=Scope(one["gateway"], one["model"], Meter(one["meter"]), Period(one["period"])),
            **{name: one[name] for name in ("amount", "strict", "open", "max_output_tokens")},
        )
        for one in rows
    )


def held(grants: Iterable[Grant], now: datetime) -> Held:
    """What `grants` come to at `now`."""
    live = [grant for grant in grants if grant.live(now)]
    return Held(
        roles=tuple(sorted({role for grant in live for role in grant.roles})),
        permissions=frozenset(permission for grant in live for permission in grant.permissions),
        rules=tuple(Rules(grant.roles[0], grant.limits) for grant in live),
        until=min((grant.expires_at for grant in live if grant.expires_at), default=None),
        ends=_ends(live),
    )


def _ends(live: Iterable[Grant]) -> Mapping[str, datetime]:
    found: dict[str, datetime | None] = {}
    for grant in live:
        for name in (*grant.permissions, *grant.roles):
            known = found.get(name, grant.expires_at)
            found[name] = None if known is None or grant.expires_at is None else max(known, grant.expires_at)
    return {name: end for name, end in found.items() if end is not None}
