"""The official clients over a limit: they raise what they should, wait as they are told, and find what is left."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import anthropic
import ollama
import openai
import pytest
from anthropic_fixtures import ASKED, WAYS, make
from anthropic_fixtures import call as call_anthropic
from limited import DAILY, Limits, limit, refusal
from limited import gateway_settings as gateway_settings
from limited import judging as judging
from limited import limits as limits
from openai_clients import MODEL, QUESTION, Ai
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.limits import Meter, Period
from parallama.quotas import Quota
from parallama.testing import FakeOllama

pytestmark = in_one_loop

RESET_AT = 4_102_444_800.0
"""2100-01-01T00:00:00Z."""
QUOTAS = (
    Quota(Meter.REQUESTS, Period.HOUR, 60, 59, RESET_AT),
    Quota(Meter.TOTAL_TOKENS, Period.DAY, 1000, 20, RESET_AT),
)
BLOCKED = limit(Meter.REQUESTS, Period.DAY, 0)
CONCURRENT = limit(Meter.CONCURRENCY, Period.NOW, 2)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def hurried(kind: type[Any], waits: list[float]) -> type[Any]:
    """The client, which notes how long it would wait before it asks again, and does not."""

    class Hurried(kind):  # type: ignore[misc]
        def _calculate_retry_timeout(self, *args: Any, **named: Any) -> float:
            waits.append(super()._calculate_retry_timeout(*args, **named))
            return 0

    return Hurried


def eager(gateway: RunningGateway, way: str, waits: list[float]) -> Any:
    """A client of Anthropic's that tries again, as it does unless told not to."""
    kind, path = WAYS[way]
    return hurried(kind, waits)(base_url=gateway.url + path, api_key=gateway.key)


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_raises_a_rate_limit_error_that_names_the_limit(
    gateway: RunningGateway, node: FakeOllama, limits: Limits, ai: Ai, stream: bool
) -> None:
    limits.quotas, limits.refusal = QUOTAS, refusal(DAILY)
    with pytest.raises(openai.RateLimitError) as caught:
        await ai.chat(stream=stream)
    error = caught.value
    assert (error.type, error.code, error.status_code) == ("tokens", "rate_limit_exceeded", 429)
    assert "the limit of 1000 total tokens a day is used up: 980 used, 50 asked for" in error.message
    assert error.response.headers["retry-after"] == "40"
    assert error.response.headers["x-ratelimit-remaining-tokens"] == "20"
    assert not node.seen("/api/chat")
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (429, "refused", "over_limit")


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_client_raises_a_rate_limit_error_that_names_the_limit(
    gateway: RunningGateway, node: FakeOllama, limits: Limits, way: str, stream: bool
) -> None:
    limits.quotas, limits.refusal = QUOTAS, refusal(DAILY)
    with pytest.raises(anthropic.RateLimitError) as caught:
        await call_anthropic(make(gateway, way), "messages.create", **ASKED, stream=stream)
    error = caught.value
    assert (error.type, error.status_code) == ("rate_limit_error", 429)
    assert "the limit of 1000 total tokens a day is used up: 980 used, 50 asked for" in str(error)
    assert error.response.headers["retry-after"] == "40"
    assert error.response.headers["anthropic-ratelimit-tokens-remaining"] == "20"
    assert not node.seen("/api/chat")


async def test_ollamas_client_raises_its_error_with_the_message(gateway: RunningGateway, limits: Limits) -> None:
    limits.refusal = refusal(DAILY)
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="used up: 980 used, 50 asked for; more at") as caught:
            await asyncio.to_thread(_ask_ollama, gateway, stream=stream)
        assert caught.value.status_code == 429


def _ask_ollama(gateway: RunningGateway, *, stream: bool) -> None:
    with ollama.Client(gateway.url, headers=gateway.auth) as client:
        got: Any = client.chat(MODEL, QUESTION, stream=stream)
        list(got)


SHORT = {
    "time": (refusal(DAILY), 40.0),
    "requests under way": (refusal(CONCURRENT, wait_s=None, under_way=True), 1.0),
}
LONG = {
    "until tonight": refusal(DAILY, wait_s=7200),
    "for ever": refusal(DAILY, asked=2000, wait_s=None),
    "blocked": refusal(BLOCKED),
}


@pytest.mark.parametrize("name", SHORT)
async def test_openais_client_waits_as_it_is_told_and_tries_again(limits: Limits, ai: Ai, name: str) -> None:
    limits.refusal, wait_s = SHORT[name]
    waits: list[float] = []
    with pytest.raises(openai.RateLimitError):
        await replace(ai, kind=hurried(ai.kind, waits), options={"max_retries": 2}).chat()
    assert (limits.asked, waits) == (3, [wait_s] * 2)


@pytest.mark.parametrize("name", SHORT)
async def test_anthropics_client_waits_as_it_is_told_and_tries_again(
    gateway: RunningGateway, limits: Limits, way: str, name: str
) -> None:
    limits.refusal, wait_s = SHORT[name]
    waits: list[float] = []
    with pytest.raises(anthropic.RateLimitError):
        await call_anthropic(eager(gateway, way, waits), "messages.create", **ASKED)
    assert (limits.asked, waits) == (3, [wait_s] * 2)


@pytest.mark.parametrize("name", LONG)
async def test_openais_client_does_not_try_again_when_that_would_not_help(limits: Limits, ai: Ai, name: str) -> None:
    limits.refusal = LONG[name]
    with pytest.raises(openai.RateLimitError) as caught:
        await replace(ai, kind=hurried(ai.kind, []), options={"max_retries": 2}).chat()
    assert limits.asked == 1
    assert caught.value.code == ("rate_limit_exceeded" if name == "until tonight" else "insufficient_quota")


@pytest.mark.parametrize("name", LONG)
async def test_anthropics_client_does_not_try_again_when_that_would_not_help(
    gateway: RunningGateway, limits: Limits, way: str, name: str
) -> None:
    limits.refusal = LONG[name]
    with pytest.raises(anthropic.RateLimitError):
        await call_anthropic(eager(gateway, way, []), "messages.create", **ASKED)
    assert limits.asked == 1


async def test_openais_client_finds_what_is_left_in_the_raw_answer(limits: Limits, ai: Ai) -> None:
    limits.quotas = QUOTAS
    headers = (await ai("chat.completions.with_raw_response.create", model=MODEL, messages=QUESTION)).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("60", "59")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "20")
    assert re.fullmatch("[0-9]+h[0-9]+m[0-9]+s", headers["x-ratelimit-reset-tokens"])


async def test_anthropics_client_finds_what_is_left_in_the_raw_answer(
    gateway: RunningGateway, limits: Limits, way: str
) -> None:
    limits.quotas = QUOTAS
    got = await call_anthropic(make(gateway, way), "messages.with_raw_response.create", **ASKED)
    told = {name: value for name, value in got.headers.items() if "ratelimit" in name}
    assert told == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2100-01-01T00:00:00Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "20",
        "anthropic-ratelimit-tokens-reset": "2100-01-01T00:00:00Z",
    }
