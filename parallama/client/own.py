"""The operations of `/me`: oneself, one's password, and one's own keys. As `operations.py` has those on others."""

from __future__ import annotations

from typing import Unpack
from uuid import UUID

from parallama.admin.keys import NewKey
from parallama.admin.me import Me
from parallama.client.operations import KeyChanges, NewKeyOf
from parallama.client.uses import Use, every, nothing, one, part
from parallama.identity.api_keys import KeyRecord


def get_me() -> Use[Me]:
    """Who is asking, and what they may do."""
    return one(Me, "GET", "/me")


def change_password(current: str, new: str) -> Use[None]:
    """Change one's own password; all of one's sessions end."""
    return nothing("POST", "/me/password", body={"current": current, "new": new})


def list_my_keys(*, ended: bool = False, limit: int | None = None) -> Use[list[KeyRecord]]:
    """One's own keys, as `list_keys`."""
    return every(KeyRecord, "/me/keys", {"ended": ended}, limit)


def create_my_key(**settings: Unpack[NewKeyOf]) -> Use[NewKey]:
    """As `create_key`."""
    return one(NewKey, "POST", "/me/keys", settings)


def get_my_key(key_id: UUID | str) -> Use[KeyRecord]:
    """As `get_key`."""
    return one(KeyRecord, "GET", f"/me/keys/{part(key_id)}")


def update_my_key(key_id: UUID | str, *, version: int | None = None, **changes: Unpack[KeyChanges]) -> Use[KeyRecord]:
    """As `update_key`."""
    return one(KeyRecord, "PATCH", f"/me/keys/{part(key_id)}", changes, version)


def rotate_my_key(key_id: UUID | str, *, grace_s: int = 86_400) -> Use[NewKey]:
    """As `rotate_key`."""
    return one(NewKey, "POST", f"/me/keys/{part(key_id)}/rotate", {"grace_s": grace_s})


def revoke_my_key(key_id: UUID | str, *, version: int | None = None) -> Use[KeyRecord]:
    """As `revoke_key`."""
    return one(KeyRecord, "POST", f"/me/keys/{part(key_id)}/revoke", None, version)


def delete_my_key(key_id: UUID | str, *, version: int | None = None) -> Use[None]:
    """As `delete_key`."""
    return nothing("DELETE", f"/me/keys/{part(key_id)}", version)
