"""The operations of `/admin/v1` on limits. As `operations.py` has those on users, keys and roles.

Whose limits is said by one of `user` (name or id), `key` (id) and `role` (name).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack
from uuid import UUID

from parallama.admin.api import PREFIX
from parallama.admin.limits import Deleted, SomeLimits
from parallama.admin.resets import CountsReset
from parallama.client.uses import Use, at, every, nothing, one, part
from parallama.identity.terms import LimitRecord
from parallama.limits import EVERY

_LIMITS = f"{PREFIX}/limits"


class Whose(TypedDict, total=False):
    """Whose limits: one of them."""

    user: str | None
    key: UUID | str | None
    role: str | None


class LimitChanges(TypedDict, total=False):
    """What can be changed of a limit."""

    amount: int
    admission: str
    outage: str
    max_output_tokens: int | None


class NewLimitOf(Whose, total=False):
    """What can be said of a new limit besides what it counts."""

    gateway: str
    model: str | None
    admission: str
    outage: str
    max_output_tokens: int | None


def list_limits(
    *,
    user: str | None = None,
    key: UUID | str | None = None,
    role: str | None = None,
    gateway: str | None = None,
    limit: int | None = None,
) -> Use[list[LimitRecord]]:
    """Limits by whose they are: of one, or all."""
    return every(LimitRecord, _LIMITS, {"user": user, "key": key, "role": role, "gateway": gateway}, limit)


def create_limit(meter: str, period: str, amount: int, **settings: Unpack[NewLimitOf]) -> Use[LimitRecord]:
    """Make a limit; without a `gateway` one that all share."""
    counted = {"meter": meter, "period": period, "amount": amount}
    return one(LimitRecord, "POST", _LIMITS, {**counted, **_body(settings)})


def set_limits(
    limits: Sequence[Mapping[str, Any]], *, gateway: str = EVERY, model: str | None = None, **whose: Unpack[Whose]
) -> Use[SomeLimits]:
    """Make, change and take away limits of one gateway and model, all or none: each with `meter`, `period`, `amount`
    (None: there is to be none), and perhaps what else can be changed of a limit. Gives those that there then are."""
    body = {"limits": limits, "gateway": gateway, "model": model}
    return one(SomeLimits, "PATCH", _LIMITS, {**body, **_body(whose)})


def reset_limits(
    *, user: str | None = None, key: UUID | str | None = None, role: str | None = None, gateway: str | None = None
) -> Use[Deleted]:
    """Take all limits of somebody away, or those of one gateway: what roles give is in force again."""
    return one(Deleted, "DELETE", at(_LIMITS, {"user": user, "key": key, "role": role, "gateway": gateway}))


def reset_counts(*, gateway: str | None = None, model: str | None = None, **whose: Unpack[Whose]) -> Use[CountsReset]:
    """Let what was used count as nothing from now on, for all limits, or for those of one gateway or pattern."""
    return one(CountsReset, "POST", f"{_LIMITS}/reset", {"gateway": gateway, "model": model, **_body(whose)})


def limits_of_user(name: str, *, gateway: str | None = None) -> Use[SomeLimits]:
    """What is in force for a user, or for requests to one gateway; each with whose limit it is."""
    return one(SomeLimits, "GET", at(f"{PREFIX}/users/{part(name)}/limits", {"gateway": gateway}))


def limits_of_key(key_id: UUID | str, *, gateway: str | None = None) -> Use[SomeLimits]:
    """The same for a key: its own limits, and those of its user."""
    return one(SomeLimits, "GET", at(f"{PREFIX}/keys/{part(key_id)}/limits", {"gateway": gateway}))


def limits_of_role(role: str, *, gateway: str | None = None) -> Use[SomeLimits]:
    """What a role gives: its own limits, and those of the roles above it."""
    return one(SomeLimits, "GET", at(f"{PREFIX}/roles/{part(role)}/limits", {"gateway": gateway}))


def get_limit(limit_id: UUID | str) -> Use[LimitRecord]:
    """A limit."""
    return one(LimitRecord, "GET", _limit(limit_id))


def update_limit(
    limit_id: UUID | str, *, version: int | None = None, **changes: Unpack[LimitChanges]
) -> Use[LimitRecord]:
    """Change a limit."""
    return one(LimitRecord, "PATCH", _limit(limit_id), changes, version)


def delete_limit(limit_id: UUID | str, *, version: int | None = None) -> Use[None]:
    """Take a limit away."""
    return nothing("DELETE", _limit(limit_id), version)


def _limit(limit_id: UUID | str) -> str:
    return f"{_LIMITS}/{part(limit_id)}"


def _body(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in given.items()}
