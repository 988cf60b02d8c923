"""How callers may come in, as recorded over the settings file: the further header for keys, and callers without one.

`Callers` follows what is recorded here through NOTIFY.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from parallama.config import AuthSettings
from parallama.config.values import key_header
from parallama.db.pool import Database, Row
from parallama.db.query import load
from parallama.errors import Invalid, Outdated
from parallama.identity.actor import SERVER, Actor
from parallama.identity.users import Users

ANONYMOUS = "anonymous"
"""The user that callers without a credential are, where the settings allow them."""

SETTING = "auth"
"""The name of the record."""

_QUERIES = load("settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is in force."""

    header_name: str | None
    """A header that may carry a key besides Authorization and x-api-key, in lower case; None: only those."""
    allow_unauthenticated: bool
    """Whether callers without a credential become the user `anonymous`."""
    version: int
    """0: nothing was recorded, and the settings file is in force."""


class AuthRecords:
    """The record `auth` of the table `settings`, over the settings file. Methods raise Unavailable when the database
    does not answer.

    `forwarded` are the headers of clients that nodes get to see: none of them may carry keys.
    """

    def __init__(
        self, database: Database, auth: AuthSettings, forwarded: Collection[str] = (), actor: Actor = SERVER
    ) -> None:
        self._database, self._auth, self._forwarded, self._actor = database, auth, forwarded, actor

    async def get(self, *, limit_s: float | None = None) -> Access:
        """What is in force, in at most `limit_s` seconds."""
        return self._access(await self._database.fetchrow(_QUERIES.setting, SETTING, limit_s=limit_s))

    async def change(self, changes: Mapping[str, Any], version: int | None = None) -> Access:
        """Set `header_name` (None: there is none) or `allow_unauthenticated`, and return what is then in force.

        Raises Invalid for a value that cannot be, Outdated when the version is no longer `version`.
        """
        value = orjson.dumps({name: self._valid(name, given) for name, given in changes.items()}).decode()
        if changes.get("allow_unauthenticated"):
            await Users(self._database, self._actor).ensure(ANONYMOUS)
        async with self._database.change(self._actor.told()) as one:
            row = await one.fetchrow(_QUERIES.change_setting.sql, SETTING, value, version)
        if row is None:
            raise Outdated("somebody else has changed the auth settings meanwhile: read them again")
        return self._access(row)

    def _access(self, row: Row | None) -> Access:
        value = orjson.loads(row["value"]) if row else {}
        return Access(
            header_name=value.get("header_name", self._auth.key_header),
            allow_unauthenticated=value.get("allow_unauthenticated", self._auth.allow_anonymous),
            version=row["version"] if row else 0,
        )

    def _valid(self, name: str, given: Any) -> str | bool | None:
        match name, given:
            case "allow_unauthenticated", bool():
                return given
            case "header_name", None:
                return None
            case "header_name", str():
                return self._header(given)
        raise Invalid(f"{name} is no auth setting, or cannot be that: there are header_name, the name of a header or "
                      "null, and allow_unauthenticated, true or false", param=name)  # fmt: skip

    def _header(self, given: str) -> str:
        try:
            name = key_header(given)
        except ValueError as error:
            raise Invalid(f"header_name {error}", param="header_name") from None
        if name in self._forwarded:
            raise Invalid(
                f"header_name must not be {name}: relay.forward_headers hands that one to the nodes, which must not "
                "see keys",
                param="header_name",
            )
        return name
