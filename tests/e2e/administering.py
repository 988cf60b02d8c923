"""Every operation of `client.admin` used once for what it is for, one group of them after the other."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from asking import MODEL
from python_client import Using, using

from parallama.admin.gateway_operations import GatewayFigures, GatewayState
from parallama.admin.keys import NewKey, Revoked
from parallama.admin.limits import Deleted, SomeLimits
from parallama.admin.me import Me
from parallama.admin.resets import CountsReset
from parallama.admin.roles import Known
from parallama.admin.sessions import Rotated
from parallama.errors import Conflict, NotAuthenticated, NotFound
from parallama.identity.access import Access
from parallama.identity.api_keys import KeyRecord
from parallama.identity.assignments import AssignmentRecord
from parallama.identity.audit import AuditRecord
from parallama.identity.roles import RoleRecord
from parallama.identity.sessions import SessionRecord
from parallama.identity.terms import LimitRecord
from parallama.identity.users import UserRecord
from parallama.ledger.reports import ReportLine
from parallama.ledger.usage import UsageNow, UsageRow

PASSWORD = "correct horse battery staple"
OTHER = "another horse and another battery"
SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)


async def use_users(admin: Using, bob: str) -> None:
    user = await admin.create_user(bob, password=PASSWORD)
    assert type(user) is UserRecord
    assert (type(user.id), user.created_at.utcoffset(), user.role, user.has_password) == (
        UUID,
        timedelta(0),
        "basic",
        True,
    )
    assert await admin.get_user(str(user.id)) == await admin.get_user(bob.upper()) == user
    changed = await admin.update_user(bob, role="premium", active=False, version=user.version)
    assert (changed.role, changed.active, changed.version > user.version) == ("premium", False, True)
    assert changed in await admin.list_users(role="premium", active=False)
    assert changed not in await admin.list_users(role="premium", active=True)
    assert (await admin.update_user(bob, active=True)).active


async def use_keys(admin: Using, bob: str, url: str, awaited: bool) -> None:
    new = await admin.create_key(bob, description="a", models=("x:*",), networks=["127.0.0.0/8"], expires_at=SOON)
    assert type(new) is NewKey
    assert (new.models, new.networks, new.expires_at) == (["x:*"], ["127.0.0.0/8"], SOON)
    (key,) = await admin.list_keys(bob)
    assert type(key) is KeyRecord
    assert key == await admin.get_key(bob, new.id) == await admin.find_key(str(new.id))
    rotated = await admin.rotate_key(bob, new.id)
    assert rotated.previous_until > datetime.now(UTC) + timedelta(hours=23)
    for secret in (new.key, rotated.key):
        async with using(awaited, base_url=url, api_key=secret) as own:
            assert (await own.get_me()).username == bob
    changed = await admin.update_key(bob, new.id, models=None, enabled=False, version=rotated.version)
    assert (changed.models, changed.networks, changed.enabled) == (None, ["127.0.0.0/8"], False)
    assert (await admin.revoke_key(bob, new.id, version=changed.version)).revoked_at is not None
    assert [await admin.list_keys(bob), len(await admin.list_keys(bob, ended=True))] == [[], 1]
    await admin.create_key(bob, expires_in_days=1)
    assert await admin.revoke_keys(bob) == Revoked(1)
    assert await admin.delete_key(bob, new.id) is None
    with pytest.raises(NotFound):
        await admin.find_key(new.id)


async def use_roles(admin: Using, bob: str) -> None:
    ops = f"ops-{bob}"
    known = await admin.list_permissions()
    assert (type(known), "manage_users" in known.permissions) == (Known, True)
    role = await admin.create_role(ops, permissions=["view_metrics"], parent="basic", description="on call")
    assert (type(role), role.permissions, role.parent) == (RoleRecord, ["view_metrics"], "basic")
    assert role == await admin.get_role(ops)
    assert role in await admin.list_roles()
    changed = await admin.update_role(ops, parent=None, add_permissions={"manage_models"}, version=role.version)
    assert (changed.permissions, changed.parent) == (["manage_models", "view_metrics"], None)
    held = await admin.assign_role(bob, ops, expires_at=SOON)
    assert (type(held), held.expires_at, held.main) == (AssignmentRecord, SOON, False)
    assert held in await admin.list_assignments(bob)
    assert (await admin.change_assignment(bob, held.id, expires_at=None)).expires_at is None
    await admin.end_assignment(bob, held.id)
    assert (await admin.get_assignment(bob, held.id)).ended_at <= datetime.now(UTC)
    assert held.id in [one.id for one in await admin.list_assignments(bob, ended=True)]
    await admin.assign_role(bob, ops)
    with pytest.raises(Conflict):
        await admin.delete_role(ops)
    await admin.delete_role(ops, cascade=True)


async def use_own(admin: Using) -> None:
    me = await admin.get_me()
    assert (type(me), type(me.user_id), me.username) == (Me, UUID, "root")
    new = await admin.create_my_key(description="laptop")
    assert new.id in [key.id for key in await admin.list_my_keys()]
    changed = await admin.update_my_key(new.id, description="notebook", version=new.version)
    assert await admin.get_my_key(new.id) == changed
    rotated = await admin.rotate_my_key(new.id, grace_s=0)
    assert (rotated.key != new.key, rotated.previous_until) == (True, None)
    assert (await admin.revoke_my_key(new.id)).revoked_at is not None
    assert await admin.delete_my_key(new.id) is None


async def use_limits(admin: Using, bob: str) -> None:
    day = await admin.create_limit("requests", "day", 5, user=bob, gateway="ollama", model="x:*", outage="open")
    assert type(day) is LimitRecord
    assert (day.user, day.gateway, day.model, day.amount, day.outage) == (bob, "ollama", "x:*", 5, "open")
    changed = await admin.update_limit(day.id, amount=7, version=day.version)
    assert (changed.amount, changed.outage) == (7, "open")
    assert changed == await admin.get_limit(day.id)
    assert changed in await admin.list_limits(user=bob)
    assert await admin.delete_limit(day.id, version=changed.version) is None
    some = [
        {"meter": "total_tokens", "period": "hour", "amount": 100},
        {"meter": "requests", "period": "day", "amount": 1},
    ]
    made = await admin.set_limits(some, user=bob)
    assert (type(made), {one.amount for one in made.limits}) == (SomeLimits, {1, 100})
    assert (await admin.limits_of_user(bob)).limits == made.limits
    key = await admin.create_key(bob)
    await admin.create_limit("concurrency", "now", 2, key=key.id)
    assert {one.amount for one in (await admin.limits_of_key(key.id)).limits} == {1, 2, 100}
    await admin.create_role(f"few-{bob}", parent="basic")
    await admin.create_limit("requests", "minute", 9, role=f"few-{bob}")
    assert [one.amount for one in (await admin.limits_of_role(f"few-{bob}")).limits] == [9]
    await admin.delete_role(f"few-{bob}")
    assert await admin.reset_counts(user=bob, gateway="ollama", model="x:*") == CountsReset(1)
    assert await admin.reset_limits(user=bob) == Deleted(2)


async def use_usage(admin: Using, own: Using, bob: str) -> None:
    """`own`: bob, who has made one request."""
    now, mine = await admin.get_usage(user=bob), await own.get_my_usage()
    assert (type(now), now) == (UsageNow, mine)
    assert now.gateways["ollama"].current_hour.total_requests == 1
    (line,) = await admin.report_usage(["user", "model"], user=bob, since=date.today() - timedelta(days=1))
    assert (type(line), line.user, line.model, line.requests) == (ReportLine, bob, MODEL, 1)
    assert [one.requests for one in await own.report_my_usage(["gateway"], gateway="ollama")] == [1]
    (row,) = await admin.export_usage(user=bob, model=MODEL)
    assert (type(row), row.username, row.outcome) == (UsageRow, bob, "ok")
    assert await own.export_my_usage() == [row]
    assert await own.export_my_usage(gateway="openai") == []


async def use_settings(admin: Using) -> None:
    access = await admin.get_access()
    assert type(access) is Access
    changed = await admin.update_access(header_name="X-Key", version=access.version)
    assert (changed.header_name, changed.allow_unauthenticated) == ("x-key", False)
    assert (await admin.update_access(header_name=None)).header_name is None
    states = await admin.list_gateways()
    assert {type(one) for one in states} == {GatewayState}
    state = await admin.get_gateway("openai")
    assert state in states
    set_now = await admin.update_gateway("openai", {"default_model": "llama3.2:1b"}, version=state.version)
    assert (set_now.default_model, set_now.origins["default_model"]) == ("llama3.2:1b", "recorded")
    assert await admin.reset_gateway("openai", version=set_now.version) is None
    assert (await admin.get_gateway("openai")).default_model == state.default_model
    figures = await admin.gateway_metrics("openai")
    assert (type(figures), figures.window_s > 0, bool(figures.figures)) == (GatewayFigures, True, True)


async def use_sessions(admin: Using, own: Using, bob: str) -> None:
    """`own`: bob, by login."""
    assert (await own.get_me()).username == bob
    (session,) = await admin.list_sessions(bob)
    assert (type(session), session.username, session.revoked_at) == (SessionRecord, bob, None)
    assert await admin.rotate_tokens(bob) == Rotated(1)
    assert (await own.get_me()).username == bob
    assert await admin.revoke_session(bob, session.id) is None
    (ended,) = await admin.list_sessions(bob, ended=True)
    assert (ended.id, ended.revoked_for) == (session.id, "admin")
    await own.change_password(PASSWORD, OTHER)
    with pytest.raises(NotAuthenticated):
        await own.get_me()
    await admin.update_user(bob, password=PASSWORD)
    await own.get_me()
    assert await admin.revoke_sessions(bob) == Revoked(1)


async def use_audit(admin: Using, bob: str) -> None:
    user, since = await admin.get_user(bob), datetime.now(UTC) - timedelta(hours=1)
    changes = await admin.list_audit(actor="root", action="user", username=bob, target=str(user.id), since=since)
    assert [(type(one), one.actor, one.name) for one in changes[:1]] == [(AuditRecord, "root", bob)]
    assert changes[-1].action == "user.create"
    assert changes[-1].at >= since
    assert await admin.list_audit(username=bob, until=since) == []
    assert await admin.list_audit(username=bob, limit=2) == (await admin.list_audit(username=bob))[:2]
