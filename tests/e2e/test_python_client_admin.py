"""Administration with the Python client, waiting and awaited, of a real server with a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import uuid4

import pytest
import pytest_asyncio
from administering import (
    PASSWORD,
    use_audit,
    use_keys,
    use_limits,
    use_own,
    use_roles,
    use_sessions,
    use_settings,
    use_usage,
    use_users,
)
from asking import MODEL
from databases import fresh_database
from python_client import Using, awaited, using
from running import RunningGateway, early_in_an_hour, running_gateway

from parallama.admin.sessions import Rotated
from parallama.client.admin import Admin
from parallama.errors import Conflict, Invalid, NotAllowed, NotAuthenticated, NotFound, Outdated
from parallama.testing import fake_ollama

__all__ = ["awaited"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(postgres: str) -> AsyncIterator[RunningGateway]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url) as gateway,
    ):
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def admin(gateway: RunningGateway, awaited: bool) -> AsyncIterator[Using]:
    """As the admin root, by key."""
    async with using(awaited, base_url=gateway.url, api_key=gateway.admin_key) as admin:
        yield admin


@pytest.fixture
def bob() -> str:
    """A name that nobody has."""
    return f"bob-{uuid4().hex}"


async def ask(gateway: RunningGateway, key: str) -> None:
    """One request with `key`, until it is among the usage."""
    body = {"model": MODEL, "prompt": "Hi", "stream": False}
    async with gateway.http.post(
        f"{gateway.url}/api/generate", json=body, headers={"Authorization": f"Bearer {key}"}
    ) as answer:
        assert answer.status == 200
    await gateway.rows(1)


async def test_every_operation_works(admin: Using, gateway: RunningGateway, awaited: bool, bob: str) -> None:
    await use_users(admin, bob)
    await use_keys(admin, bob, gateway.url, awaited)
    await use_roles(admin, bob)
    await use_limits(admin, bob)
    await use_own(admin)
    await use_settings(admin)
    given = {"base_url": gateway.url, "username": bob, "password": PASSWORD}
    async with using(awaited, **given) as own:
        await early_in_an_hour()
        await ask(gateway, (await admin.create_key(bob)).key)
        await use_usage(admin, own, bob)
        await use_sessions(admin, own, bob)
    await use_audit(admin, bob)
    await admin.delete_user(bob)
    assert await admin.list_users(role="basic", limit=1) != []
    with pytest.raises(NotFound, match=bob):
        await admin.get_user(bob)
    assert admin.used | own.used == {name for name in vars(Admin) if not name.startswith("_")}


async def test_a_list_longer_than_a_part_is_whole(admin: Using, gateway: RunningGateway) -> None:
    async with gateway.database.connection() as one:
        await one.execute(
            "INSERT INTO users (username, active) SELECT 'many' || i, false FROM generate_series(1, 1001) i"
        )
    try:
        found = await admin.list_users(active=False)
        assert len({user.id for user in found if user.username.startswith("many")}) == 1001
        assert await admin.list_users(active=False, limit=1001) == found[:1001]
    finally:
        async with gateway.database.connection() as one:
            await one.execute("DELETE FROM users WHERE username LIKE 'many%'")


async def test_a_change_of_what_somebody_else_has_changed_is_refused(admin: Using, bob: str) -> None:
    user, key = await admin.create_user(bob), await admin.create_key(bob)
    await admin.update_user(bob, role="premium")
    await admin.update_key(bob, key.id, description="theirs")
    for late in (
        admin.update_user(bob, role="admin", version=user.version),
        admin.delete_user(bob, version=user.version),
        admin.update_key(bob, key.id, description="mine", version=key.version),
        admin.delete_key(bob, key.id, version=key.version),
        admin.update_gateway("ollama", {"enabled": False}, version=99),
        admin.update_access(header_name="x-late", version=99),
    ):
        with pytest.raises(Outdated) as caught:
            await late
        assert (caught.value.status, caught.value.code) == (412, "outdated")
    assert (await admin.get_user(bob)).role == "premium"
    assert (await admin.get_key(bob, key.id)).description == "theirs"


async def test_what_is_wrong_is_told_by_field(admin: Using, bob: str) -> None:
    with pytest.raises(Invalid) as caught:
        await admin.create_key(bob, priority_ceiling="highest", expires_at=datetime(2030, 1, 1))
    assert {one["field"] for one in caught.value.detail} == {"priority_ceiling", "expires_at"}
    assert {bool(one["message"]) for one in caught.value.detail} == {True}


async def test_what_only_the_records_know_is_told_by_field_too(admin: Using, bob: str) -> None:
    await admin.create_user(bob)
    for field, operation, wrong in (
        ("role", admin.create_user, {"role": "nobody"}),
        ("password", admin.create_user, {"password": "short"}),
        ("networks", admin.create_key, {"networks": ["nowhere"]}),
        ("permissions", admin.create_role, {"permissions": ["use_nothing"]}),
    ):
        with pytest.raises(Invalid) as caught:
            await operation(bob, **wrong)
        assert caught.value.detail == [{"field": field, "message": str(caught.value)}]


async def test_a_name_that_is_taken_is_a_conflict(admin: Using, bob: str) -> None:
    await admin.create_user(bob)
    with pytest.raises(Conflict, match=f"{bob.upper()} is taken"):
        await admin.create_user(bob.upper())


async def test_whoever_may_not_is_told_the_permission(gateway: RunningGateway, awaited: bool) -> None:
    async with using(awaited, base_url=gateway.url, api_key=gateway.key) as alice:
        with pytest.raises(NotAllowed, match="manage_users"):
            await alice.list_users()
        with pytest.raises(NotAllowed, match="manage_roles"):
            await alice.create_role("mine")


async def test_an_unknown_key_is_told(gateway: RunningGateway, awaited: bool) -> None:
    async with using(awaited, base_url=gateway.url, api_key="plm_wrong") as nobody:
        with pytest.raises(NotAuthenticated):
            await nobody.list_users()


async def test_who_logs_in_administers_and_is_renewed(
    admin: Using, gateway: RunningGateway, awaited: bool, bob: str
) -> None:
    await admin.create_user(bob, admin=True, password=PASSWORD)
    async with using(awaited, base_url=gateway.url, username=bob, password=PASSWORD) as other:
        made = await other.create_user(f"{bob}-2")
        assert await admin.rotate_tokens(bob) == Rotated(1)
        assert (await other.update_user(f"{bob}-2", role="premium", version=made.version)).role == "premium"
    assert len(await admin.list_sessions(bob)) == 1


ODD = [
    "a/b",
    "100%",
    "%2e%2e",
    "a?b=c",
    "a#b",
    "é",
    "日本",
    "..",
    ".",
    "",
    "a b",
    "a\x00b",
    "../roles/basic",
    "x" * 2000,
]


async def test_odd_names_are_of_nobody(admin: Using) -> None:
    for name in ODD:
        for call in (
            admin.get_user,
            admin.get_role,
            admin.get_gateway,
            admin.list_keys,
            admin.find_key,
            admin.get_my_key,
        ):
            with pytest.raises(NotFound):
                await call(name)
        with pytest.raises(Invalid):
            await admin.create_user(name)


async def test_no_name_reaches_another_record(admin: Using, bob: str) -> None:
    await admin.create_user(bob)
    for name in ("..", f"../../{bob}", f"..%2F..%2F{bob}", f"x/../../../{bob}", f"?/../../{bob}"):
        for delete in (admin.delete_key, admin.revoke_session, admin.end_assignment):
            with pytest.raises(NotFound):
                await delete(bob, name)
    assert (await admin.get_user(bob)).username == bob
