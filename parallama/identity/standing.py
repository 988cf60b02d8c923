"""What the database says of a credential, and what that makes of its bearer at a given moment.

One look-up serves until something changes: what only time changes (expiries, of the credential and of roles) is
judged here again. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from parallama.db.pool import Row, plain
from parallama.exchange import Caller, KeyPolicy, Priority
from parallama.identity import refusals
from parallama.identity.grants import ADMIN, Grant, Held, held, limits, parse
from parallama.identity.refusals import Refusal
from parallama.identity.tokens import Claims
from parallama.limits import Limit, effective
from parallama.networks import networks


class End(NamedTuple):
    """From when on a credential is refused."""

    at: datetime | None
    """None: already."""
    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the database says of a credential and its user."""

    caller: Caller
    """Without what they hold, and without limits; `admin`: by the user's own flag."""
    grants: tuple[Grant, ...]
    own: tuple[Limit, ...] = ()
    """The limits of the user, without those of roles."""
    key: tuple[Limit, ...] = ()
    """The limits of the key."""
    ends: tuple[End, ...] = ()
    """The first of them that has come counts."""


class Verdict(NamedTuple):
    """What a Standing comes to, before `until`."""

    caller: Caller | None
    """None: refused."""
    refusal: Refusal | None
    until: datetime | None
    """None: for ever."""


def judge(standing: Standing, now: datetime) -> Verdict:
    """Who is asking at `now`."""
    for end in standing.ends:
        if end.at is None or end.at <= now:
            return Verdict(None, end.refusal, None)
    holding = held(standing.grants, now)
    moments = [end.at for end in standing.ends if end.at is not None]
    if holding.until is not None:
        moments.append(holding.until)
    caller = replace(
        _with(standing.caller, holding),
        limits=effective(standing.caller.user_id, standing.own, standing.key, holding.rules),
    )
    return Verdict(caller, None, min(moments, default=None))


def _with(caller: Caller, holding: Held) -> Caller:
    if caller.key_id is None and caller.session_id is None:
        # anybody at all can be this one: never an admin, whatever is recorded of the user
        return replace(
            caller,
            roles=tuple(role for role in holding.roles if role != ADMIN),
            permissions=frozenset(p for p in holding.permissions if p.startswith("use_") or p.endswith("_rate_limits")),
        )
    ends = {name: end for name, end in holding.ends.items() if name != ADMIN or not caller.admin}
    admin = caller.admin or holding.admin
    return replace(caller, admin=admin, roles=holding.roles, permissions=holding.permissions, ends=ends)


def of_key(row: Row) -> Standing:
    """From a row of `caller_by_digest`."""
    ends = []
    if not row["active"] or row["revoked"]:
        ends.append(End(None, refusals.ENDED_KEY))
    if not row["enabled"]:
        ends.append(End(None, refusals.DISABLED_KEY))
    if row["expires_at"] is not None:
        ends.append(End(row["expires_at"], refusals.EXPIRED_KEY))
    if row["previous"]:
        ends.append(End(row["previous_until"], refusals.REPLACED_KEY))
    expires_at = min((end.at for end in ends if end.at is not None), default=None)
    caller = _caller(row, admin=row["admin"], key_id=plain(row["key_id"]), policy=_policy(row), expires_at=expires_at)
    return Standing(
        caller=caller,
        grants=parse(row["grants"]),
        own=limits(row["limits"]),
        key=limits(row["key_limits"]),
        ends=tuple(ends),
    )


def of_session(row: Row, claims: Claims) -> Standing:
    """From a row of `caller_by_session`, for a token with these claims."""
    ends = [End(claims.expires_at, refusals.EXPIRED_TOKEN), End(row["expires_at"], refusals.ENDED_SESSION)]
    of_it = (row["user_id"], row["generation"]) == (claims.user_id, claims.generation)
    if not row["active"] or row["revoked"] or not of_it:
        ends.insert(0, End(None, refusals.ENDED_SESSION))
    caller = _caller(row, admin=row["admin"], session_id=claims.session_id)
    return Standing(caller=caller, grants=parse(row["grants"]), own=limits(row["limits"]), ends=tuple(ends))


def of_anonymous(row: Row) -> Standing:
    """From a row of `caller_by_name`."""
    ends = () if row["active"] else (End(None, refusals.ENDED_ANONYMOUS),)
    caller = _caller(row, admin=False)
    return Standing(caller=caller, grants=parse(row["grants"]), own=limits(row["limits"]), ends=ends)


def _caller(
    row: Row,
    *,
    admin: bool,
    key_id: UUID | None = None,
    session_id: UUID | None = None,
    policy: KeyPolicy | None = None,
    expires_at: datetime | None = None,
) -> Caller:
    return Caller(
        user_id=plain(row["user_id"]),
        username=row["username"],
        key_id=key_id,
        session_id=session_id,
        admin=admin,
        policy=policy,
        expires_at=expires_at,
    )


def _policy(row: Row) -> KeyPolicy | None:
    """None when the key is not limited."""
    models, gateways, places, ceiling = (row[name] for name in ("models", "gateways", "networks", "priority_ceiling"))
    policy = KeyPolicy(
        models=None if models is None else tuple(models),
        gateways=None if gateways is None else frozenset(gateways),
        networks=None if places is None else networks(places),
        priority_ceiling=None if ceiling is None else Priority(ceiling),
    )
    return None if policy == KeyPolicy() else policy
