"""The audit trail as it is asked for: by whom, what, whose, which and when, in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import PATIENT

from parallama.db.pool import Database
from parallama.errors import Invalid
from parallama.identity.actor import Actor
from parallama.identity.assignments import Assignments
from parallama.identity.audit import AuditTrail
from parallama.identity.users import Users

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANN = Actor(name="Ann", via="api", user_id=uuid4(), request_id=uuid4(), address="10.0.0.1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[Database]:
    """What ann has done to bob, and the server to pam."""
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as running:
        await Users(running, ANN).create("bob")
        await Assignments(running, ANN).assign("bob", "premium")
        await Users(running, ANN).update("bob", active=False)
        await Users(running).create("pam")
        yield running


@pytest.fixture
def trail(database: Database) -> AuditTrail:
    return AuditTrail(database)


async def test_the_latest_change_comes_first(trail: AuditTrail) -> None:
    records = await trail.list()
    assert [record.id for record in records] == sorted((record.id for record in records), reverse=True)
    assert [(record.action, record.username) for record in records] == [
        ("assignment.create", "pam"),
        ("user.create", "pam"),
        ("user.change", "bob"),
        ("assignment.create", "bob"),
        ("assignment.create", "bob"),
        ("user.create", "bob"),
    ]


async def test_a_change_is_told_whole(trail: AuditTrail, database: Database) -> None:
    [change] = await trail.list(action="user.change")
    bob = await Users(database).get("bob")
    assert (change.actor, change.actor_id, change.request_id) == ("Ann", ANN.user_id, ANN.request_id)
    assert (change.via, change.address, change.target, change.name) == ("api", "10.0.0.1", str(bob.id), "bob")
    assert (change.before, change.after) == ({"active": True}, {"active": False})
    assert datetime.now(UTC) - change.at < timedelta(hours=1)
    assert all(type(found) is UUID for found in (change.actor_id, change.request_id))


async def test_who_did_it_and_whose_it_is_are_found_in_whatever_case(trail: AuditTrail) -> None:
    assert {record.username for record in await trail.list(actor="ANN")} == {"bob"}
    assert {record.actor for record in await trail.list(username="Pam")} == {"server"}


async def test_an_action_is_asked_for_whole_or_by_its_kind(trail: AuditTrail) -> None:
    assert {record.action for record in await trail.list(action="user")} == {"user.create", "user.change"}
    assert len(await trail.list(action="assignment.create")) == 3
    assert await trail.list(action="use") == []
    assert await trail.list(action="user%") == []


async def test_one_record_can_be_followed(trail: AuditTrail, database: Database) -> None:
    bob = await Users(database).get("bob")
    assert [record.action for record in await trail.list(target=str(bob.id))] == ["user.change", "user.create"]


async def test_a_span_of_time_has_its_beginning_and_not_its_end(trail: AuditTrail) -> None:
    records = await trail.list()
    first, last = records[-1], records[0]
    assert await trail.list(since=first.at, until=last.at) == records[1:]


async def test_the_trail_is_read_in_parts(trail: AuditTrail) -> None:
    whole, parts = await trail.list(), await trail.list(limit=2)
    while part := await trail.list(before=parts[-1].id, limit=2):
        assert len(part) <= 2
        parts += part
    assert parts == whole


async def test_what_no_record_can_have_finds_nothing(trail: AuditTrail) -> None:
    assert await trail.list(actor="a\0b") == []
    assert await trail.list(target="\ud800") == []
    assert await trail.list(before=-(2**70)) == []
    assert len(await trail.list(before=2**70)) == 6


async def test_a_moment_out_of_reach_is_refused(trail: AuditTrail) -> None:
    with pytest.raises(Invalid, match="`since` must lie"):
        await trail.list(since=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
