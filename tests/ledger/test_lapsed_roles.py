"""The counts of a role's limits are forgotten when the role expires, though nobody tells of that: what is used from
then on is not counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from limited_people import Person, new_person
from limited_people import gateway as gateway
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import served as served
from running import RunningGateway, eventually

from parallama.app import STORE
from parallama.identity.assignments import Assignments
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Subject
from parallama.testing import FakeOllama

pytestmark = in_one_loop


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {}


async def test_what_a_role_has_counted_is_forgotten_when_it_expires(gateway: RunningGateway, node: FakeOllama) -> None:
    role, person = f"r{uuid4().hex[:10]}", await new_person(gateway)
    await Roles(gateway.database).create(role)
    await Limits(gateway.database).create(Subject(role=role), "requests", "day", amount=10**6)
    soon = datetime.now(UTC) + timedelta(seconds=5)
    await Assignments(gateway.database).assign(person.name, role, expires_at=soon)
    await eventually(lambda: _asks_and_counts(person))
    await eventually(lambda: _asks_uncounted(person))


async def _asks_and_counts(person: Person) -> bool:
    assert (await person.ask()).status == 200
    return bool(await person.gateway.app[STORE].counts())


async def _asks_uncounted(person: Person) -> bool:
    return not await _asks_and_counts(person)
