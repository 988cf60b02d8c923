"""The operations of `/admin/v1` on users, keys, sessions, roles and access: what each asks, and what its answer is read
into, which is the very record that the server has written it from.

Each has the name of its `operationId` in the OpenAPI document. What is left out of a change stays as it is. With
`version=`, the one of the record as it was read, a change is refused with Outdated when somebody was faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict, Unpack
from uuid import UUID

from parallama.admin.api import PREFIX
from parallama.admin.keys import NewKey, Revoked
from parallama.admin.roles import Known
from parallama.admin.sessions import Rotated
from parallama.client.uses import Use, at, every, nothing, one, part
from parallama.identity.access import Access
from parallama.identity.api_keys import KeyRecord
from parallama.identity.assignments import AssignmentRecord
from parallama.identity.audit import AuditRecord
from parallama.identity.roles import RoleRecord
from parallama.identity.sessions import SessionRecord
from parallama.identity.users import UserRecord


class UserChanges(TypedDict, total=False):
    """What can be changed of a user."""

    username: str
    role: str
    """The main one."""
    admin: bool
    active: bool
    password: str | None
    """None: no more logins."""


class KeyLimits(TypedDict, total=False):
    """What a key can be limited to; None: not."""

    models: Sequence[str] | None
    gateways: Sequence[str] | None
    networks: Sequence[str] | None
    priority_ceiling: str | None
    expires_at: datetime | None


class NewKeyOf(KeyLimits, total=False):
    """What can be said of a new key."""

    description: str
    expires_in_days: int


class KeyChanges(KeyLimits, total=False):
    """What can be changed of a key."""

    description: str
    enabled: bool


class RoleChanges(TypedDict, total=False):
    """What can be changed of a role."""

    name: str
    description: str
    parent: str | None
    permissions: Sequence[str]
    add_permissions: Sequence[str]
    remove_permissions: Sequence[str]


class AccessChanges(TypedDict, total=False):
    """What can be changed of how callers come in."""

    header_name: str | None
    allow_unauthenticated: bool


def list_users(
    *, role: str | None = None, active: bool | None = None, limit: int | None = None
) -> Use[list[UserRecord]]:
    """Users, by name, at most `limit`."""
    return every(UserRecord, f"{PREFIX}/users", {"role": role, "active": active}, limit)


def create_user(
    username: str, *, role: str = "basic", admin: bool = False, password: str | None = None
) -> Use[UserRecord]:
    """Make a user."""
    body = {"username": username, "role": role, "admin": admin, "password": password}
    return one(UserRecord, "POST", f"{PREFIX}/users", body)


def get_user(name: str) -> Use[UserRecord]:
    """A user, by name or id, as everywhere below."""
    return one(UserRecord, "GET", _user(name))


def update_user(name: str, *, version: int | None = None, **changes: Unpack[UserChanges]) -> Use[UserRecord]:
    """Change a user."""
    return one(UserRecord, "PATCH", _user(name), changes, version)


def delete_user(name: str, *, version: int | None = None) -> Use[None]:
    """Delete a user with their keys; usage is kept."""
    return nothing("DELETE", _user(name), version)


def list_keys(name: str, *, ended: bool = False, limit: int | None = None) -> Use[list[KeyRecord]]:
    """Keys of a user, the oldest first; with `ended` also those that are revoked or expired."""
    return every(KeyRecord, f"{_user(name)}/keys", {"ended": ended}, limit)


def create_key(name: str, **settings: Unpack[NewKeyOf]) -> Use[NewKey]:
    """Make a key for a user; its text is `key`, and cannot be had again."""
    return one(NewKey, "POST", f"{_user(name)}/keys", settings)


def find_key(key_id: UUID | str) -> Use[KeyRecord]:
    """A key, whosever it is."""
    return one(KeyRecord, "GET", f"{PREFIX}/keys/{part(key_id)}")


def get_key(name: str, key_id: UUID | str) -> Use[KeyRecord]:
    """A key of a user."""
    return one(KeyRecord, "GET", _key(name, key_id))


def update_key(
    name: str, key_id: UUID | str, *, version: int | None = None, **changes: Unpack[KeyChanges]
) -> Use[KeyRecord]:
    """Change a key of a user."""
    return one(KeyRecord, "PATCH", _key(name, key_id), changes, version)


def rotate_key(name: str, key_id: UUID | str, *, grace_s: int = 86_400) -> Use[NewKey]:
    """Give a key a new text; the old one is good for `grace_s` seconds more."""
    return one(NewKey, "POST", f"{_key(name, key_id)}/rotate", {"grace_s": grace_s})


def revoke_key(name: str, key_id: UUID | str, *, version: int | None = None) -> Use[KeyRecord]:
    """End a key for ever; its record stays."""
    return one(KeyRecord, "POST", f"{_key(name, key_id)}/revoke", None, version)


def revoke_keys(name: str) -> Use[Revoked]:
    """End all keys of a user."""
    return one(Revoked, "POST", f"{_user(name)}/keys/revoke")


def delete_key(name: str, key_id: UUID | str, *, version: int | None = None) -> Use[None]:
    """Delete a key with its record."""
    return nothing("DELETE", _key(name, key_id), version)


def list_sessions(name: str, *, ended: bool = False, limit: int | None = None) -> Use[list[SessionRecord]]:
    """Logins of a user, the oldest first."""
    return every(SessionRecord, f"{_user(name)}/sessions", {"ended": ended}, limit)


def revoke_session(name: str, session_id: UUID | str) -> Use[None]:
    """End a session."""
    return nothing("DELETE", f"{_user(name)}/sessions/{part(session_id)}")


def revoke_sessions(name: str) -> Use[Revoked]:
    """End all sessions of a user."""
    return one(Revoked, "POST", f"{_user(name)}/sessions/revoke")


def rotate_tokens(name: str) -> Use[Rotated]:
    """End all access tokens of a user; refresh tokens stay good."""
    return one(Rotated, "POST", f"{_user(name)}/sessions/rotate")


def list_assignments(name: str, *, ended: bool = False, limit: int | None = None) -> Use[list[AssignmentRecord]]:
    """Roles of a user, the oldest first."""
    return every(AssignmentRecord, f"{_user(name)}/roles", {"ended": ended}, limit)


def assign_role(name: str, role: str, *, expires_at: datetime | None = None) -> Use[AssignmentRecord]:
    """Give a user a role, until then."""
    return one(AssignmentRecord, "POST", f"{_user(name)}/roles", {"role": role, "expires_at": expires_at})


def get_assignment(name: str, assignment_id: UUID | str) -> Use[AssignmentRecord]:
    """One role that a user has or had."""
    return one(AssignmentRecord, "GET", f"{_user(name)}/roles/{part(assignment_id)}")


def change_assignment(name: str, assignment_id: UUID | str, *, expires_at: datetime | None) -> Use[AssignmentRecord]:
    """Change when a user loses a role; None: never."""
    return one(AssignmentRecord, "PATCH", f"{_user(name)}/roles/{part(assignment_id)}", {"expires_at": expires_at})


def end_assignment(name: str, assignment_id: UUID | str) -> Use[None]:
    """Take a role from a user; the history stays."""
    return nothing("DELETE", f"{_user(name)}/roles/{part(assignment_id)}")


def list_roles(*, limit: int | None = None) -> Use[list[RoleRecord]]:
    """Roles, by name."""
    return every(RoleRecord, f"{PREFIX}/roles", {}, limit)


def create_role(
    name: str, *, permissions: Sequence[str] = (), parent: str | None = None, description: str = ""
) -> Use[RoleRecord]:
    """Make a role."""
    body = {"name": name, "permissions": permissions, "parent": parent, "description": description}
    return one(RoleRecord, "POST", f"{PREFIX}/roles", body)


def get_role(role: str) -> Use[RoleRecord]:
    """A role."""
    return one(RoleRecord, "GET", _role(role))


def update_role(role: str, *, version: int | None = None, **changes: Unpack[RoleChanges]) -> Use[RoleRecord]:
    """Change a role."""
    return one(RoleRecord, "PATCH", _role(role), changes, version)


def delete_role(role: str, *, cascade: bool = False, version: int | None = None) -> Use[None]:
    """Delete a role; with `cascade` also one that somebody has, or that has roles below it."""
    return nothing("DELETE", at(_role(role), {"cascade": cascade}), version)


def list_permissions() -> Use[Known]:
    """What there is to be permitted."""
    return one(Known, "GET", f"{PREFIX}/permissions")


def get_access() -> Use[Access]:
    """How callers may come in."""
    return one(Access, "GET", f"{PREFIX}/auth")


def update_access(*, version: int | None = None, **changes: Unpack[AccessChanges]) -> Use[Access]:
    """Change how callers may come in."""
    return one(Access, "PATCH", f"{PREFIX}/auth", changes, version)


def list_audit(
    *,
    actor: str | None = None,
    action: str | None = None,
    username: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Use[list[AuditRecord]]:
    """Who changed what, the latest first: by `actor`, of an `action` or a kind of record, what concerns a user, of the
    record with the id `target`, from `since` on and before `until`."""
    filters = {"actor": actor, "action": action, "username": username, "target": target}
    return every(AuditRecord, f"{PREFIX}/audit", {**filters, "since": since, "until": until}, limit)


def _user(name: str) -> str:
    return f"{PREFIX}/users/{part(name)}"


def _key(name: str, key_id: UUID | str) -> str:
    return f"{_user(name)}/keys/{part(key_id)}"


def _role(role: str) -> str:
    return f"{PREFIX}/roles/{part(role)}"
