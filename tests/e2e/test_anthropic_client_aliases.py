"""Models under other names, and one for who names none, with the official `anthropic` client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic_fixtures import ASKED, MODEL, QUESTION, THINKER, WAYS, Ask, asking, sent
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import FakeOllama

pytestmark = in_one_loop


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    family = {"model_mappings": {"claude-sonnet": MODEL}, "default_model": THINKER}
    return {"gateways": {"anthropic": family}, "usage": {"flush_ms": 1}}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Ask:
    return asking(gateway, request.param)


async def test_an_alias_is_the_models_name_for_the_client(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    message = await ask("messages.create", **{**ASKED, "model": "claude-sonnet"})
    start, *_ = await ask("messages.create", **{**ASKED, "model": "claude-sonnet", "stream": True})
    assert message.model == start.message.model == "claude-sonnet"
    assert (await sent(node))["model"] == MODEL
    assert "claude-sonnet" in [model.id for model in (await ask("models.list")).data]
    row = (await gateway.rows(3))[0]
    assert (row["model_asked"], row["model"]) == ("claude-sonnet", MODEL)


async def test_the_default_model_answers_who_names_none(gateway: RunningGateway) -> None:
    body = {"max_tokens": 3, "messages": QUESTION}
    async with gateway.http.post(f"{gateway.url}/v1/messages", json=body, headers=gateway.auth) as answer:
        assert (answer.status, json.loads(await answer.read())["model"]) == (200, THINKER)
