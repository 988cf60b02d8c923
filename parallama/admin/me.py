"""What callers see and change of themselves: `/me`, `/me/password`, `/me/keys`.

A key that is limited or that expires makes and changes nothing here: `guards.py` refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from parallama.admin.api import Call, Operation, Shape
from parallama.admin.guards import KNOWN, Guard
from parallama.admin.keys import Owned, operations_on
from parallama.admin.users import Password
from parallama.config.settings import AuthSettings
from parallama.db.pool import Database
from parallama.errors import NotAllowed, NotFound, OverLimit, Unavailable
from parallama.exchange import EVERY_GATEWAY, Caller
from parallama.identity.passwords import Passwords, require_password
from parallama.identity.roles import Roles
from parallama.identity.throttle import Backoff, require_room
from parallama.identity.users import UserRecord, Users

_SELF = Guard()  # no key for some gateways or models reads here, and none but a full one changes anything


@dataclass(frozen=True, slots=True)
class Me:
    """Who is asking."""

    user_id: UUID
    username: str
    roles: Sequence[str]
    """Held now, those above them in the hierarchy too."""
    permissions: Sequence[str]
    """Held now; `use_*` stands for every gateway."""


class NewPassword(Shape):
    """A password in place of another."""

    current: Password
    """The one that is good now."""
    new: Password
    """The one from now on."""


def me_operations(database: Database, passwords: Passwords, auth: AuthSettings) -> list[Operation]:
    """Read oneself, change one's password, and all there is to do with one's keys."""
    me = _Me(database, passwords, auth)
    on = partial(Operation, tag="me")
    owned = Owned(path="/me/keys", noun="my_key", tag="me", guard=_SELF, taking=_SELF, read=me.user, change=me.user)
    return [
        on(name="get_me", method="GET", path="/me", summary="Who is asking, and what they may do.",
           guard=KNOWN, run=me.get, answer=Me),
        on(name="change_password", method="POST", path="/me/password",
           summary="Change the caller's own password; all of their sessions end.",
           guard=_SELF, run=me.change_password, body=NewPassword, errors=(NotFound, OverLimit, Unavailable)),
        *operations_on(database, owned),
    ]  # fmt: skip


class _Me:
    def __init__(self, database: Database, passwords: Passwords, auth: AuthSettings) -> None:
        self._database, self._passwords, self._auth = database, passwords, auth
        self._tries = Backoff(5, 14_400, 300)

    async def get(self, call: Call) -> Me:
        caller = _caller(call)
        held = {*await Roles(self._database).permissions(), EVERY_GATEWAY} if caller.admin else caller.permissions
        return Me(caller.user_id, caller.username, caller.roles, sorted(held))

    async def user(self, call: Call) -> UserRecord:
        """The caller's own record."""
        return await Users(self._database, call.actor).get(str(_caller(call).user_id))

    async def change_password(self, call: Call) -> None:
        asked: NewPassword = call.body
        user = await self.user(call)
        await self._verify(user, asked.current)
        require_password(asked.new, user.username, self._auth.min_password_length)
        password_hash = await self._passwords.hash(asked.new)
        await Users(self._database, call.actor).set_password(str(user.id), password_hash)

    async def _verify(self, user: UserRecord, password: str) -> None:
        require_room(self._tries.wait_s(user.id), "wrong passwords")
        self._tries.count(user.id)
        known = await Users(self._database).password_of(user.username)
        if not (await self._passwords.verify(None if known is None else known.password, password)).ok:
            raise NotAllowed("the current password is wrong, or there is none")
        self._tries.forget(user.id)


def _caller(call: Call) -> Caller:
    assert call.caller is not None  # none of these operations is public
    return call.caller
