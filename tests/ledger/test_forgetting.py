"""A limit that lapses and returns counts what was used meanwhile, from the next request on."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from limited_people import Person, new_person
from limited_people import gateway as gateway
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import person as person
from limited_people import served as served
from running import RunningGateway

from parallama.testing import FakeOllama

pytestmark = in_one_loop


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {}


async def change(gateway: RunningGateway, method: str, path: str, body: Any = None) -> Any:
    """Through the API, whose answer says that the gateway knows."""
    url = f"{gateway.url}/admin/v1/{path}"
    async with gateway.http.request(method, url, json=body, headers=gateway.admin_auth) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json() if answer.status != 204 else None


def daily(amount: int | None, **whose: str) -> dict[str, Any]:
    """A limit to be, or that there is to be none."""
    return {**whose, "limits": [{"meter": "requests", "period": "day", "amount": amount}]}


async def ask(person: Person, times: int) -> None:
    assert [(await person.ask()).status for _ in range(times)] == [200] * times


async def only(person: Person, times: int) -> None:
    """So many more, and then no more."""
    await ask(person, times)
    assert (await person.ask()).status == 429


@pytest.mark.parametrize("whose", ["user", "key"])
async def test_a_limit_that_is_taken_away_and_made_again(
    gateway: RunningGateway, node: FakeOllama, person: Person, whose: str
) -> None:
    subject = {whose: person.name if whose == "user" else str(person.key_id)}
    await change(gateway, "PATCH", "limits", daily(4, **subject))
    await ask(person, 1)
    await change(gateway, "PATCH", "limits", daily(None, **subject))
    await ask(person, 2)
    await change(gateway, "PATCH", "limits", daily(4, **subject))
    await only(person, 1)


async def test_a_role_that_is_taken_away_and_given_again(gateway: RunningGateway, node: FakeOllama) -> None:
    role = f"r{uuid4().hex[:10]}"
    await change(gateway, "POST", "roles", {"name": role})
    await change(gateway, "PATCH", "limits", daily(4, role=role))
    person = await new_person(gateway)
    roles = f"users/{person.name}/roles"
    for uncounted in (0, 1):
        given = await change(gateway, "POST", roles, {"role": role})
        await ask(person, 1)
        await change(gateway, "DELETE", f"{roles}/{given['id']}")
        await ask(person, uncounted)
    await change(gateway, "POST", roles, {"role": role})
    await only(person, 1)


async def test_the_limit_of_a_role_that_lapses_and_returns(gateway: RunningGateway, node: FakeOllama) -> None:
    role = f"r{uuid4().hex[:10]}"
    await change(gateway, "POST", "roles", {"name": role})
    person = await new_person(gateway, "tester", role)
    await change(gateway, "PATCH", "limits", daily(4, role=role))
    await ask(person, 1)
    await change(gateway, "PATCH", "limits", daily(None, role=role))
    await ask(person, 2)
    await change(gateway, "PATCH", "limits", daily(4, role=role))
    await only(person, 1)


async def test_a_limit_in_the_place_of_that_of_a_role(gateway: RunningGateway, node: FakeOllama) -> None:
    role = f"r{uuid4().hex[:10]}"
    await change(gateway, "POST", "roles", {"name": role})
    await change(gateway, "PATCH", "limits", daily(4, role=role))
    person = await new_person(gateway, "tester", role)
    await ask(person, 1)
    await change(gateway, "PATCH", "limits", daily(2, user=person.name))
    await only(person, 1)
    await change(gateway, "PATCH", "limits", daily(None, user=person.name))
    await only(person, 2)
