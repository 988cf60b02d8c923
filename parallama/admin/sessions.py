"""Logins of users over HTTP: `/admin/v1/users/{name}/sessions`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from parallama.admin.api import Call, Operation, Page
from parallama.admin.keys import Revoked
from parallama.admin.users import GUARD, TAKING, USER
from parallama.admin.values import Part, after, id_of, page_of, stands
from parallama.config.settings import AuthSettings
from parallama.db.pool import Database
from parallama.errors import NotFound
from parallama.identity.sessions import SessionRecord, Sessions

_SESSIONS = f"{USER}/sessions"


@dataclass(frozen=True, slots=True)
class Rotated:
    """Of how many sessions the access tokens have ended."""

    rotated: int


def session_operations(database: Database, auth: AuthSettings) -> list[Operation]:
    """List the sessions of a user, and end them or their access tokens."""
    on, sessions = partial(Operation, tag="sessions", guard=GUARD, errors=(NotFound,)), _Sessions(database, auth)
    return [
        on(name="list_sessions", method="GET", path=_SESSIONS, summary="Sessions, the oldest first.",
           run=sessions.list, query=Part, answer=Page[SessionRecord]),
        on(name="revoke_session", method="DELETE", path=f"{_SESSIONS}/{{id}}", summary="End a session at once.",
           guard=TAKING, run=sessions.revoke),
        on(name="revoke_sessions", method="POST", path=f"{_SESSIONS}/revoke", summary="End all sessions of a user.",
           guard=TAKING, run=sessions.revoke_all, answer=Revoked),
        on(name="rotate_tokens", method="POST", path=f"{_SESSIONS}/rotate",
           summary="End all access tokens of a user; refresh tokens stay good.",
           guard=TAKING, run=sessions.rotate, answer=Rotated),
    ]  # fmt: skip


class _Sessions:
    def __init__(self, database: Database, auth: AuthSettings) -> None:
        self._database, self._auth = database, auth

    def _records(self, call: Call) -> Sessions:
        return Sessions(self._database, call.actor, self._auth)

    async def list(self, call: Call) -> Page[SessionRecord]:
        query: Part = call.query
        records = await self._records(call).list(
            call.path["name"], ended=query.ended, after=after(query.cursor), limit=query.limit + 1
        )
        return page_of(records, query, lambda session: stands(session.created_at, session.id))

    async def revoke(self, call: Call) -> None:
        await self._records(call).revoke(call.path["name"], id_of(call.path["id"], "session"))

    async def revoke_all(self, call: Call) -> Revoked:
        return Revoked(await self._records(call).revoke_all(call.path["name"]))

    async def rotate(self, call: Call) -> Rotated:
        return Rotated(await self._records(call).rotate_tokens(call.path["name"]))
