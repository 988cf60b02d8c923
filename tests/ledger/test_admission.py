"""Who may ask a node: exactly as many as the limits allow, however many come at once, and each limit for what it is."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from asking import CHAT, EMBED, MODEL, Gate, metric
from limited_people import GENERATE, Person, charged, new_person, num_predict, statuses
from limited_people import gateway as gateway
from limited_people import gateway_settings as gateway_settings
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import person as person
from limited_people import served as served
from raw_http import raw_client
from running import RunningGateway, eventually

from parallama.config import AuthSettings
from parallama.identity.access import AuthRecords
from parallama.identity.assignments import Assignments
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Change, Subject
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

OTHER = "qwen3:0.6b"
OPENAI = "/v1/chat/completions"
STREAM = {**GENERATE, "stream": True}


@pytest.mark.parametrize("period", ["minute", "hour", "day", "month"])
async def test_of_200_at_once_exactly_so_many_are_admitted(person: Person, node: FakeOllama, period: str) -> None:
    await person.limit("requests", 37, period)
    assert statuses(await person.together(200)) == {200: 37, 429: 163}
    assert len(node.seen("/api/generate")) == 37
    rows = await person.rows(200)
    refused = [row for row in rows if row["outcome"] == "refused"]
    assert len(rows) == 200
    assert len(refused) == 163
    assert {(row["status"], row["error"], row["node"]) for row in refused} == {(429, "over_limit", None)}
    assert charged(refused) == 0


@pytest.mark.parametrize("body", [GENERATE, STREAM], ids=["unary", "stream"])
async def test_many_at_once_never_spend_more_tokens_than_there_are(
    person: Person, node: FakeOllama, body: dict[str, Any]
) -> None:
    limit = 2000
    await person.limit("total_tokens", limit, "hour", max_output_tokens=20)
    got = await person.together(200, body)
    admitted = statuses(got)[200]
    rows = await person.rows(200)
    assert admitted + statuses(got)[429] == 200
    assert 0 < charged(rows) <= limit
    assert admitted == len(node.seen("/api/generate"))
    assert {num_predict(seen.body) for seen in node.seen("/api/generate")} <= set(range(1, 21))


async def test_the_node_is_held_to_what_is_left(person: Person, node: FakeOllama) -> None:
    await person.limit("output_tokens", 11)
    for _ in range(11):
        got = await person.ask()
        if got.status == 429:
            break
        sent = num_predict(node.seen("/api/generate")[-1].body)
        left = 11 - charged([{"prompt_tokens": 0, "output_tokens": spent}]) if (spent := await _spent(person)) else 11
        assert sent is not None
        assert got.json()["eval_count"] <= sent <= left + got.json()["eval_count"]
    assert await _spent(person) == 11
    assert (await person.ask()).status == 429


async def _spent(person: Person) -> int:
    asked = len([row for row in await person.rows(1) if row["outcome"] == "ok"])
    rows = await person.rows(asked)
    return sum(row["output_tokens"] or 0 for row in rows)


async def test_without_a_limit_of_tokens_a_body_keeps_its_bytes(person: Person, node: FakeOllama) -> None:
    await person.limit("requests", 5)
    raw = b'{ "model": "llama3.2:1b", "prompt": "hi" ,"stream":false}'
    assert (await person.ask(raw)).status == 200
    assert node.seen("/api/generate")[0].body == raw


@pytest.mark.parametrize("options", [{}, {"options": {"seed": 3}}])
async def test_a_body_that_is_written_anew_is_said_to_be_json(
    gateway: RunningGateway, person: Person, node: FakeOllama, options: dict[str, Any]
) -> None:
    await person.limit("output_tokens", 50)
    body = orjson.dumps({**CHAT, "stream": False, **options})
    sent = f"Authorization: Bearer {person.key}", "Content-Type: text/plain"
    async with raw_client(gateway.port) as client:
        assert (await client.ask("POST", "/api/chat", body, *sent)).status == 200
    (seen,) = node.seen("/api/chat")
    assert seen.header("content-type") == "application/json"
    assert orjson.loads(seen.body)["options"] == {**options.get("options", {}), "num_predict": 50}


async def test_limits_of_key_and_user_both_need_room(person: Person, node: FakeOllama) -> None:
    await person.limit("requests", 3)
    await person.limit("requests", 2, of_key=True)
    assert statuses(await person.together(10)) == {200: 2, 429: 8}
    message = (await person.ask()).json()["error"]
    assert "the limit of 2 requests a day" in message


async def test_a_gateways_limit_and_that_of_all_both_need_room(person: Person, node: FakeOllama) -> None:
    await person.limit("requests", 3)
    await person.limit("requests", 2, gateway="openai")
    chat = {**CHAT, "stream": False}
    assert statuses(await person.together(5, chat, OPENAI)) == {200: 2, 429: 3}
    assert statuses(await person.together(5)) == {200: 1, 429: 4}


@pytest.mark.parametrize("asked", [MODEL, "nick", "LLAMA3.2:1B"])
async def test_a_models_limit_is_of_that_model_under_any_name(person: Person, node: FakeOllama, asked: str) -> None:
    await person.limit("requests", 1, model="llama3.2*")
    assert (await person.ask({**GENERATE, "model": asked})).status == 200
    assert (await person.ask()).status == 429
    assert (await person.ask({**GENERATE, "model": asked})).status == 429
    assert (await person.ask({**GENERATE, "model": OTHER})).status == 200


@pytest.mark.parametrize("meter", ["requests", "total_tokens", "prompt_tokens", "output_tokens", "concurrency"])
async def test_a_limit_of_0_refuses_for_good(person: Person, node: FakeOllama, meter: str) -> None:
    await person.limit(meter, 0)
    got = await person.ask()
    headers = {name.lower(): value for name, value in got.headers}
    assert got.status == 429
    assert headers["retry-after"] == "120"
    assert headers["x-should-retry"] == "false"
    assert "allows nothing" in got.json()["error"]
    assert node.seen("/api/generate") == []


async def test_so_many_at_the_same_time_and_one_more_when_one_has_ended(person: Person, node: FakeOllama) -> None:
    await person.limit("concurrency", 2)
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate", times=2)
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(person.ask()) for _ in range(2)]
        await node.request_for("/api/generate", 1)
        refused = await person.ask()
        gate.set()
    assert [one.result().status for one in held] == [200, 200]
    assert refused.status == 429
    assert ("Retry-After", "1") in refused.headers
    assert (await person.ask()).status == 200


async def test_a_roles_limit_is_for_each_alone_until_one_has_a_limit_of_their_own(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    await Roles(gateway.database).create("pupil", permissions=["use_ollama"])
    await Limits(gateway.database).create(Subject(role="pupil"), "requests", "day", amount=2)
    one, other = await new_person(gateway, "pupil"), await new_person(gateway, "pupil")
    await other.limit("requests", 4)
    assert statuses(await one.together(6)) == {200: 2, 429: 4}
    assert statuses(await other.together(6)) == {200: 4, 429: 2}


async def test_a_change_of_a_limit_counts_from_the_next_request_on(person: Person, node: FakeOllama) -> None:
    await person.limit("requests", 1)
    assert statuses([await person.ask(), await person.ask()]) == {200: 1, 429: 1}
    records = Limits(person.gateway.database)
    await records.set(Subject(user=person.name), [Change("requests", "day", {"amount": 2})])
    assert await eventually(lambda: _admitted(person))
    await records.reset(Subject(user=person.name))
    assert await eventually(lambda: _admitted(person))


async def _admitted(person: Person) -> bool:
    return (await person.ask()).status == 200


async def test_a_limit_that_the_api_makes_is_in_force_when_it_answers(person: Person, node: FakeOllama) -> None:
    assert (await person.ask()).status == 200
    body = {"user": person.name, "gateway": "*", "meter": "requests", "period": "day", "amount": 1}
    async with person.gateway.http.post(
        f"{person.gateway.url}/admin/v1/limits", json=body, headers=person.gateway.admin_auth
    ) as made:
        assert made.status == 201
    assert (await person.ask()).status == 429  # what was asked before counts


async def test_what_is_embedded_counts_as_prompt(person: Person, node: FakeOllama) -> None:
    await person.limit("prompt_tokens", 300)
    await person.limit("output_tokens", 1)
    got = await person.together(100, EMBED, "/api/embed")
    assert statuses(got)[429] > 0
    rows = await person.rows(100)
    assert 0 < charged(rows) <= 300
    assert not any(row["output_tokens"] for row in rows)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/tags", None),
        ("POST", "/api/show", {"model": MODEL}),
        ("GET", "/v1/models", None),
        ("GET", "/api/version", None),
    ],
)
async def test_what_needs_no_model_to_think_is_not_limited(
    person: Person, node: FakeOllama, method: str, path: str, body: Any
) -> None:
    for meter in ("requests", "concurrency", "total_tokens"):
        await person.limit(meter, 0)
    assert (await person.ask(body, path, method=method)).status == 200


async def test_loading_a_model_is_a_request_that_needs_no_tokens(person: Person, node: FakeOllama) -> None:
    await person.limit("total_tokens", 1)
    await person.limit("requests", 1)
    assert (await person.ask({"model": MODEL})).status == 200
    assert (await person.ask({"model": MODEL})).status == 429


async def test_who_shows_no_key_has_the_limits_of_anonymous(gateway: RunningGateway, node: FakeOllama) -> None:
    records = AuthRecords(gateway.database, AuthSettings())
    await records.change({"allow_unauthenticated": True})
    await Assignments(gateway.database).assign("anonymous", "tester")
    await Limits(gateway.database).create(Subject(user="anonymous"), "requests", "day", amount=2)

    async def ask() -> int:
        async with raw_client(gateway.port) as client:
            return (await client.ask("POST", "/api/generate", GENERATE)).status

    async def admitted() -> bool:
        return await ask() == 200

    assert await eventually(admitted)
    assert sorted(await asyncio.gather(*(ask() for _ in range(5)))) == [200, 429, 429, 429, 429]


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/api/generate", GENERATE, ["ratelimit", "ratelimit-policy"]),
        (OPENAI, {**CHAT, "stream": False}, ["x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens"]),
        (
            "/v1/messages",
            {**CHAT, "max_tokens": 5},
            ["anthropic-ratelimit-requests-limit", "anthropic-ratelimit-tokens-remaining"],
        ),
    ],
)
async def test_every_dialect_tells_what_is_left_also_when_it_refuses(
    person: Person, node: FakeOllama, path: str, body: Any, names: list[str]
) -> None:
    await person.limit("requests", 1)
    await person.limit("total_tokens", 5000)
    for status in (200, 429):
        got = await person.ask(body, path)
        headers = {name.lower(): value for name, value in got.headers}
        assert got.status == status
        assert set(names) <= set(headers)
    assert headers["retry-after"]


async def test_a_refusal_says_when_there_is_more_to_the_second(person: Person, node: FakeOllama) -> None:
    await person.limit("requests", 1, "month")
    ask = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    assert (await person.ask(ask, "/v1/messages")).status == 200
    refused = await person.ask(ask, "/v1/messages")
    reset = {name.lower(): value for name, value in refused.headers}["anthropic-ratelimit-requests-reset"]
    assert refused.json()["error"]["message"].endswith(f"more at {reset}")


async def test_a_model_may_weigh_more(gateway: RunningGateway, person: Person, node: FakeOllama) -> None:
    await person.limit("output_tokens", 100)
    got = await person.ask({**GENERATE, "model": OTHER, "options": {"num_predict": 60}})
    assert got.status == 200
    assert num_predict(node.seen("/api/generate")[0].body) == 25
    assert got.json()["eval_count"] <= 25


async def test_refusals_and_what_is_held_are_measured(
    gateway: RunningGateway, person: Person, node: FakeOllama
) -> None:
    await person.limit("requests", 1)
    refusals = await metric(gateway, "parallama_limit_refusals_total")
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        group.create_task(person.ask())
        await node.request_for("/api/generate")
        held = await metric(gateway, "parallama_limit_reservations")
        assert (await person.ask()).status == 429
        gate.set()
    assert held == 1
    assert await metric(gateway, "parallama_limit_refusals_total") == refusals + 1


async def test_four_fifths_are_said_once(
    gateway: RunningGateway, person: Person, node: FakeOllama, caplog: pytest.LogCaptureFixture
) -> None:
    await person.limit("requests", 10)
    before = await metric(gateway, "parallama_limit_warnings_total")
    for used in range(10):
        assert await metric(gateway, "parallama_limit_warnings_total") == before + (used >= 8)
        assert (await person.ask()).status == 200
    assert await metric(gateway, "parallama_limit_warnings_total") == before + 1
    said = [record for record in caplog.records if "four fifths" in record.getMessage()]
    assert len(said) == 1


async def test_a_limit_that_one_answer_has_used_up_is_said_too(
    gateway: RunningGateway, person: Person, node: FakeOllama
) -> None:
    await person.limit("output_tokens", 5)
    before = await metric(gateway, "parallama_limit_warnings_total")
    assert (await person.ask()).json()["done_reason"] == "length"
    assert await metric(gateway, "parallama_limit_warnings_total") == before
    assert (await person.ask()).status == 429
    assert await metric(gateway, "parallama_limit_warnings_total") == before + 1


async def test_nothing_is_said_of_a_limit_of_0(gateway: RunningGateway, person: Person) -> None:
    await person.limit("requests", 0)
    before = await metric(gateway, "parallama_limit_warnings_total")
    assert (await person.ask()).status == 429
    assert await metric(gateway, "parallama_limit_warnings_total") == before


@pytest.mark.parametrize("meter", ["prompt_tokens", "total_tokens"])
async def test_embeddings_that_no_node_counts_are_not_free(gateway: RunningGateway, person: Person, meter: str) -> None:
    old, unlimited = {"model": EMBED["model"], "prompt": "word " * 80}, await new_person(gateway)
    assert (await unlimited.ask(old, "/api/embeddings")).status == 200
    await person.limit(meter, 550)
    assert (await person.ask(old, "/api/embeddings")).status == 200
    assert (await person.ask(old, "/api/embeddings")).status == 429
    rows = [*await unlimited.rows(1), *await person.rows(2)]
    assert [(row["prompt_tokens"], row["estimated"]) for row in rows] == [(None, False), (100, True), (None, False)]


async def test_the_loading_of_a_model_costs_no_tokens(person: Person) -> None:
    await person.limit("total_tokens", 500)
    assert (await person.ask({"model": MODEL}, "/api/generate")).status == 200
    (row,) = await person.rows(1)
    assert (row["prompt_tokens"] or 0) == 0
