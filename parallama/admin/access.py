"""How callers may come in over HTTP: `/admin/v1/auth`, recorded over the section `auth` of the settings file."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated

from pydantic import Field, StrictBool

from parallama.admin.api import PREFIX, Call, Operation, Shape
from parallama.admin.guards import needs
from parallama.config.settings import AuthSettings
from parallama.db.pool import Database
from parallama.errors import Outdated
from parallama.identity.access import Access, AuthRecords

_PATH = f"{PREFIX}/auth"


class AccessChange(Shape):
    """What to change; what is not named stays as it is."""

    header_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A header that may carry a key besides Authorization and x-api-key; null: only those."""
    allow_unauthenticated: StrictBool = Field(default_factory=bool)
    """Whether callers without a key or token become the user `anonymous`."""


def access_operations(database: Database, auth: AuthSettings, forwarded: Collection[str]) -> list[Operation]:
    """Read and change how callers may come in. `forwarded`: the headers that nodes get to see."""

    def records(call: Call) -> AuthRecords:
        return AuthRecords(database, auth, forwarded, call.actor)

    async def get(call: Call) -> Access:
        return await records(call).get()

    async def update(call: Call) -> Access:
        return await records(call).change(call.body.model_dump(exclude_unset=True), call.version)

    on = partial(Operation, path=_PATH, tag="settings", guard=needs("manage_models", "manage_users"), answer=Access)
    return [
        on(name="get_access", method="GET", summary="How callers may come in.", run=get),
        on(name="update_access", method="PATCH", summary="Change how callers may come in.", run=update,
           body=AccessChange, versioned=True, errors=(Outdated,)),
    ]  # fmt: skip
