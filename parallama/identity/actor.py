"""Who changes a record, for the audit trail, and what they may hand on to others.

An actor never gives away more than they hold: neither in a role, nor by changing somebody who may more; and nothing for
longer than they hold it. Pure.
"""

from __future__ import annotations

import getpass
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

from parallama.errors import NotAllowed
from parallama.exchange import EVERY_GATEWAY, Caller, holds
from parallama.identity.grants import ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes a record."""

    name: str
    via: str
    """`api`, `login`, `command` or `server`."""
    user_id: UUID | None = None
    request_id: UUID | None = None
    address: str | None = None
    caller: Caller | None = None
    """None: an operator at the machine itself, or the server, who may do everything."""

    def told(self) -> str:
        """For `Database.change`."""
        named = {"name": self.name, "via": self.via, "address": self.address}
        ids = {"user_id": self.user_id, "request_id": self.request_id}
        return orjson.dumps({**named, **{key: str(value) for key, value in ids.items() if value}}).decode()

    def may_grant(self, permissions: Collection[str]) -> bool:
        """Whether the actor holds all of `permissions`."""
        return self.caller is None or self.caller.admin or all(holds(self.caller.permissions, p) for p in permissions)

    def require(self, permissions: Collection[str], *, admin: bool, what: str) -> None:
        """Raise NotAllowed when `permissions`, or being an `admin`, is more than the actor holds. `what` is done:
        "change the user bob"."""
        if admin and not (self.caller is None or self.caller.admin):
            raise NotAllowed(f"only an admin may {what}")
        if not self.may_grant(permissions):
            assert self.caller is not None
            lacking = sorted(p for p in permissions if not holds(self.caller.permissions, p))
            raise NotAllowed(f"to {what} you need the permissions that this gives: you lack {', '.join(lacking)}")

    def require_other(self, *, user_id: UUID | None = None, role: str | None = None, what: str) -> None:
        """Raise NotAllowed when the user, or one who has the role, is the actor, unless they are an admin."""
        if self.caller is None or self.caller.admin:
            return
        if user_id == self.caller.user_id:
            raise NotAllowed(f"only an admin may {what}: that is you")
        if role in self.caller.roles:
            raise NotAllowed(f"only an admin may {what}: you have it yourself")

    def require_to_give(
        self, permissions: Collection[str], *, admin: bool, what: str, until: datetime | None = None
    ) -> None:
        """As `require`, and when the actor holds some of it only for a while that ends before `until` (None: for
        good)."""
        self.require(permissions, admin=admin, what=what)
        if self.caller is None:
            return
        for permission in (*sorted(permissions), *((ADMIN,) if admin else ())):
            ends = _ends(self.caller, permission)
            if ends is not None and (until is None or until > ends):
                held = "are an admin" if permission == ADMIN else f"hold {permission}"
                raise NotAllowed(f"you may not {what} for longer than that: you {held} until {ends:%Y-%m-%dT%H:%M:%SZ}")


def _ends(caller: Caller, permission: str) -> datetime | None:
    """Until when the caller, who holds the permission, does; None: for good."""
    ways = {permission} & {*caller.permissions, ADMIN}
    ways |= {EVERY_GATEWAY} & caller.permissions if permission.startswith("use_") else set()
    ways |= {ADMIN} if caller.admin else set()
    ends = [caller.ends.get(way) for way in ways]
    return None if None in ends else max((end for end in ends if end is not None), default=None)


SERVER = Actor(name="server", via="server")
"""The program itself."""


def operator() -> Actor:
    """Whoever runs a command on this machine."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        name = "operator"
    return Actor(name=name, via="command")
