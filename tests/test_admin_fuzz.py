"""A thousand requests, right and wrong, made of the API's own document: no bug, and nothing it does not declare."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from admin_api import Api, api, in_one_loop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from parallama.gateway.families import Families
from parallama.gateway.plugins import Plugins
from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Subject
from parallama.identity.users import Users

__all__ = ["api"]
pytestmark = in_one_loop

CASES = 1000
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

FIND = """
SELECT EXISTS (SELECT FROM roles WHERE name = 'spare') AS role,
       EXISTS (SELECT FROM users WHERE username = 'victim') AS user,
       (SELECT k.id FROM api_keys k JOIN users u ON u.id = k.user_id
        WHERE u.username = 'victim' AND k.revoked_at IS NULL AND k.enabled LIMIT 1) AS keys,
       (SELECT k.id FROM api_keys k JOIN users u ON u.id = k.user_id
        WHERE u.username = 'root' AND k.description = 'spare' AND k.revoked_at IS NULL LIMIT 1) AS own,
       (SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id
        WHERE u.username = 'victim' AND s.revoked_at IS NULL LIMIT 1) AS sessions,
       (SELECT a.id FROM assignments a JOIN users u ON u.id = a.user_id
        WHERE u.username = 'victim' AND NOT a.main AND a.ended_at IS NULL LIMIT 1) AS roles,
       (SELECT l.id FROM limits l JOIN users u ON u.id = l.user_id WHERE u.username = 'victim' LIMIT 1) AS limits
"""
VICTIM = Subject(user="victim")
SESSION = """
INSERT INTO sessions (user_id, created_at, last_used_at, expires_at)
SELECT id, now(), now(), now() + interval '1 day' FROM users WHERE username = 'victim' RETURNING id
"""


@dataclass
class World:
    """What there is to be read, changed and deleted; made again when it is gone."""

    api: Api
    loop: asyncio.AbstractEventLoop
    statuses: Counter[int] = field(default_factory=Counter)

    async def ids(self) -> dict[str, str]:
        """By the collection that is named before the id."""
        database = self.api.gateway.database
        async with database.connection() as one:
            found = dict(await one.fetchrow(FIND) or {})
            if not found["user"]:
                await Users(database).create("victim")
            if not found["role"]:
                await Roles(database).create("spare")
            found["sessions"] = found["sessions"] or await one.fetchval(SESSION)
        found["keys"] = found["keys"] or (await ApiKeys(database).create("victim"))[1].id
        found["own"] = found["own"] or (await ApiKeys(database).create("root", description="spare"))[1].id
        found["roles"] = found["roles"] or (await Assignments(database).assign("victim", "premium")).id
        found["limits"] = found["limits"] or (await Limits(database).create(VICTIM, "requests", "day", amount=9)).id
        return {name: str(value) for name, value in found.items()}

    def aimed(self, path: str) -> dict[str, str]:
        """Variables of the path that lead to something."""
        ids = asyncio.run_coroutine_threadsafe(self.ids(), self.loop).result()
        collection = "own" if path.startswith("/me/") else path.partition("/{id}")[0].rpartition("/")[2]
        known = {"name": "victim", "role": "spare", "gateway": "openai", "id": ids.get(collection, str(uuid4()))}
        return {name: value for name, value in known.items() if f"{{{name}}}" in path}


def sensible(body: Any) -> Any:
    """With names that there can be, where it has names."""
    new = f"made-{uuid4().hex[:8]}"
    known = {"name": new, "username": new, "role": "spare", "parent": "basic", "permissions": ["use_openai"]}
    if not isinstance(body, dict):
        return body
    return {name: known.get(name, value) for name, value in body.items()}


def as_known(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the gateways, whose bodies are their dialects', for who always says who is asking, so that
    no case is spent on saying it wrong."""
    document["components"].pop("securitySchemes")
    relayed = {family.name for family in Families(Plugins.load().classes(), {})}
    document["paths"] = {
        path: item
        for path, item in document["paths"].items()
        if not any(relayed & set(operation["tags"]) for operation in item.values())
    }
    for item in document["paths"].values():
        for operation in item.values():
            operation["security"] = []
    return document


def fire(world: World, operation: Any, session: requests.Session, count: int) -> None:
    """`count` requests to one operation, about half of them to something that is there."""
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    headers = {"Authorization": f"Bearer {world.api.root}"}

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, aimed=st.booleans())
    def ask(case: Any, aimed: bool) -> None:
        if aimed:
            case.path_parameters.update(world.aimed(operation.path))
            case.body = sensible(case.body)
        answer = case.call(base_url=world.api.gateway.url, headers=headers, session=session)
        world.statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS, headers=headers)

    ask()


def fire_all(world: World, document: dict[str, Any]) -> None:
    found = [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]
    count = CASES * 4 // (3 * len(found)) + 1  # those without parameters soon have no other request to send
    with requests.Session() as session:
        for operation in found:
            fire(world, operation, session, count)


@pytest.mark.timeout(300)
async def test_nothing_undeclared_is_answered_to_whatever_is_sent(api: Api) -> None:
    world = World(api, asyncio.get_running_loop())
    await asyncio.to_thread(fire_all, world, as_known(await api.done("GET", "openapi.json")))
    assert (await api("GET", "/me")).document["username"] == "root"
    assert world.statuses.total() >= CASES
    assert world.statuses[200] > CASES / 10, world.statuses
    assert world.statuses[422] > CASES / 10, world.statuses
    assert 503 not in world.statuses, world.statuses
    assert 500 not in world.statuses, world.statuses
