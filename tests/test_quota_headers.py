"""What is left of limits is told in the headers of each dialect, on answers and on errors, and nothing where there are
none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limited import DAILY, NOW, Limits, limit, refusal
from limited import gateway_settings as gateway_settings
from limited import judging as judging
from limited import limits as limits
from one_gateway import gateway as gateway
from one_gateway import in_one_loop
from one_gateway import node as node
from one_gateway import served as served
from parallama_anthropic import Anthropic
from parallama_ollama import OllamaNative, OllamaSimple
from parallama_openai import OpenAI
from parallama_openai.rate_limits import duration
from running import RunningGateway

from parallama.errors import ApiError
from parallama.exchange import Exchange, IdGenerator
from parallama.gateway.api import Gateway, Reply, ReplyFacts, Route
from parallama.limits import Meter, Period
from parallama.proxy.headers import sound
from parallama.quotas import Quota, left_of, neutral_headers, policies_of_limits, quotas_of, tightest
from parallama.testing import FakeOllama

MIDNIGHT = NOW + 8 * 3600 + 0.5
QUOTAS = (
    Quota(Meter.REQUESTS, Period.HOUR, 60, 59, NOW + 0.5),
    Quota(Meter.REQUESTS, Period.DAY, 100, 3, MIDNIGHT),
    Quota(Meter.TOTAL_TOKENS, Period.DAY, 1000, 20, MIDNIGHT),
    Quota(Meter.TOTAL_TOKENS, Period.DAY, 5000, 4000, MIDNIGHT),
    Quota(Meter.PROMPT_TOKENS, Period.MINUTE, 800, 700, NOW + 60.4),
    Quota(Meter.OUTPUT_TOKENS, Period.MONTH, 900, 0, NOW + 10 * 86_400),
    Quota(Meter.CONCURRENCY, Period.NOW, 4, 1, None),
)
FACTS = ReplyFacts(request_id="0190a5d6", node=None, model=None, quotas=QUOTAS, at=NOW)

OPENAI = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "3",
    "x-ratelimit-reset-requests": "8h0m1s",
    "x-ratelimit-limit-tokens": "900",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "240h0m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "100",
    "anthropic-ratelimit-requests-remaining": "3",
    "anthropic-ratelimit-requests-reset": "2026-11-22T00:00:00Z",
    "anthropic-ratelimit-tokens-limit": "900",
    "anthropic-ratelimit-tokens-remaining": "0",
    "anthropic-ratelimit-tokens-reset": "2026-12-01T16:00:00Z",
    "anthropic-ratelimit-input-tokens-limit": "800",
    "anthropic-ratelimit-input-tokens-remaining": "700",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-21T16:01:00Z",
    "anthropic-ratelimit-output-tokens-limit": "900",
    "anthropic-ratelimit-output-tokens-remaining": "0",
    "anthropic-ratelimit-output-tokens-reset": "2026-12-01T16:00:00Z",
}
NEUTRAL = {
    "RateLimit-Policy": '"requests-hour";q=60;qu="requests";w=3600, "requests-day";q=100;qu="requests";w=86400, '
    '"total-tokens-day";q=1000;qu="tokens";w=86400, "prompt-tokens-minute";q=800;qu="tokens";w=60, '
    '"output-tokens-month";q=900;qu="tokens", "concurrency";q=4;qu="concurrent-requests"',
    "RateLimit": '"requests-hour";r=59;t=1, "requests-day";r=3;t=28801, "total-tokens-day";r=20;t=28801, '
    '"prompt-tokens-minute";r=700;t=61, "output-tokens-month";r=0;t=864000, "concurrency";r=1',
}
DIALECTS: dict[type[Gateway], Mapping[str, str]] = {
    OpenAI: OPENAI,
    Anthropic: ANTHROPIC,
    OllamaNative: NEUTRAL,
    OllamaSimple: NEUTRAL,
}
OF_LIMITS = re.compile("ratelimit", re.IGNORECASE).search


def exchange(quotas: Sequence[Quota] = ()) -> Exchange:
    return Exchange(
        id=IdGenerator()(), client_request_id=None, gateway="plain", quotas=quotas_of(quotas) if quotas else None
    )


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.__name__)
def test_each_dialect_tells_the_tightest_limits_under_its_own_names(dialect: type[Gateway]) -> None:
    assert dialect().rate_limits(FACTS) == DIALECTS[dialect]


@pytest.mark.parametrize("dialect", [OpenAI, Anthropic])
def test_only_what_is_limited_is_told(dialect: type[Gateway]) -> None:
    only = ReplyFacts(request_id="1", node=None, model=None, quotas=QUOTAS[:1], at=NOW)
    told = dialect().rate_limits(only)
    assert len(told) == 3
    assert all("requests" in name for name in told)
    running = ReplyFacts(request_id="1", node=None, model=None, quotas=QUOTAS[-1:], at=NOW)
    assert not dialect().rate_limits(running), "there is no name for requests at the same time"


def test_the_tightest_has_the_least_left_and_of_equals_lasts_longest() -> None:
    assert tightest(QUOTAS, Meter.REQUESTS) == QUOTAS[1]
    assert tightest(QUOTAS, Meter.TOTAL_TOKENS, Meter.PROMPT_TOKENS) == QUOTAS[2]
    assert tightest(QUOTAS[:2], Meter.CONCURRENCY) is None
    soon, late = (Quota(Meter.REQUESTS, Period.DAY, 5, 0, second) for second in (NOW + 1, NOW + 2))
    for quotas in ((soon, late), (late, soon)):
        assert tightest(quotas, Meter.REQUESTS) == late


@given(amount=st.integers(0, 2**53 - 1), taken=st.integers(0, 2**54))
def test_less_than_nothing_is_never_left(amount: int, taken: int) -> None:
    standing = limit(Meter.TOTAL_TOKENS, Period.DAY, amount), taken // 2, taken - taken // 2, MIDNIGHT
    quotas, scarce = left_of(policies_of_limits([standing[0]]), [standing])
    (quota,) = quotas.each()
    assert bool(scarce) == (5 * (amount - taken) <= amount), "a fifth or less is left"
    assert quota.remaining == max(0, amount - taken)
    numbers = re.findall(";[qrwt]=([0-9]+)", str(neutral_headers(quotas, NOW)))
    assert max(map(len, numbers)) <= 15, "RFC 9651 has no longer integers"


@given(reset_at=st.floats(0, 4e9), now=st.floats(0, 4e9))
def test_a_time_is_never_told_too_short_and_never_negative(reset_at: float, now: float) -> None:
    reset_s = QUOTAS[0]._replace(reset_at=reset_at).reset_s(now)
    assert reset_s is not None
    assert reset_s == 0 if reset_at <= now else reset_at - now <= reset_s <= reset_at - now + 1


def test_durations_are_gos() -> None:
    seconds = (0, 1, 59, 60, 360, 3600, 3661, 864_000)
    assert [*map(duration, seconds)] == ["0s", "1s", "59s", "1m0s", "6m0s", "1h0m0s", "1h1m1s", "240h0m0s"]


# gateways of others


class Strange(Gateway):
    name = "strange"
    paths = ("/strange",)
    facts: ReplyFacts | None = None

    def routes(self) -> Sequence[Route]:
        return ()

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, {}, b"")

    def headers(self, facts: ReplyFacts) -> Mapping[str, str]:
        self.facts = facts
        return {"x-strange": "yes"}


def test_a_strangers_gateway_is_handed_the_quotas_and_tells_them_in_neutral_headers() -> None:
    gateway = Strange()
    got = sound(gateway, exchange(QUOTAS))
    assert gateway.facts is not None
    assert ([*gateway.facts.quotas], gateway.facts.at > NOW - 10 * 365 * 86_400) == ([*QUOTAS], True)
    assert got["x-strange"] == "yes"
    assert got["RateLimit-Policy"] == NEUTRAL["RateLimit-Policy"]


def test_a_strangers_names_stand_in_the_place_of_the_neutral_ones() -> None:
    class Named(Strange):
        def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
            return {"x-left": str(min(quota.remaining for quota in facts.quotas))}

    assert sound(Named(), exchange(QUOTAS)) == {"x-strange": "yes", "x-left": "0"}


def test_headers_that_could_not_be_sent_are_left_out() -> None:
    class Torn(Strange):
        def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
            return {"x-left": "1\r\nx-other: 2"}

    assert sound(Torn(), exchange(QUOTAS)) == {}
    assert sound(Torn(), exchange()) == {"x-strange": "yes"}, "it is not asked where there is nothing to tell"


def test_a_gateway_tells_nothing_of_limits_where_there_are_none() -> None:
    asked: list[ReplyFacts] = []

    class Told(OpenAI):
        def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
            asked.append(facts)
            return super().rate_limits(facts)

    for dialect in (Told, OllamaNative, OllamaSimple):
        assert not sound(dialect(), exchange())
        assert sound(dialect(), exchange(QUOTAS))
    assert [len(facts.quotas) for facts in asked] == [len(QUOTAS)]


# over the wire

PATHS: dict[str, tuple[type[Gateway], dict[str, Any]]] = {
    "/openai/v1/chat/completions": (OpenAI, {"messages": [{"role": "user", "content": "Why?"}]}),
    "/v1/embeddings": (OpenAI, {"input": "Why?", "model": "nomic-embed-text"}),
    "/v1/messages": (Anthropic, {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 9}),
    "/api/chat": (OllamaNative, {"messages": [{"role": "user", "content": "Why?"}]}),
    "/ollama/v1/generate": (OllamaSimple, {"prompt": "Why?"}),
}
STREAMS = [(path, stream) for path in PATHS for stream in (False, True) if not (stream and "embed" in path)]


async def ask(gateway: RunningGateway, path: str, **more: Any) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer, with names in lower case."""
    body = {"model": "llama3.2:1b", "stream": False, **PATHS[path][1], **more}
    async with gateway.http.post(gateway.url + path, json=body, headers=gateway.auth) as answer:
        await answer.read()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}


def names(dialect: type[Gateway]) -> set[str]:
    return {name.lower() for name in DIALECTS[dialect]}


@in_one_loop
@pytest.mark.parametrize(("path", "stream"), STREAMS)
async def test_an_answer_tells_what_is_left(gateway: RunningGateway, limits: Limits, path: str, stream: bool) -> None:
    limits.quotas = QUOTAS
    status, headers = await ask(gateway, path, stream=stream)
    assert status == 200
    assert {name for name in headers if OF_LIMITS(name)} == names(PATHS[path][0])
    assert not {"retry-after", "x-should-retry"} & headers.keys()


@in_one_loop
@pytest.mark.parametrize("path", PATHS)
async def test_an_error_tells_it_too(gateway: RunningGateway, node: FakeOllama, limits: Limits, path: str) -> None:
    limits.quotas, limits.refusal = QUOTAS, refusal(DAILY)
    status, headers = await ask(gateway, path)
    assert (status, headers["retry-after"], "x-should-retry" in headers) == (429, "40", False)
    assert {name for name in headers if OF_LIMITS(name)} == names(PATHS[path][0])
    limits.refusal = None
    status, headers = await ask(gateway, path, model="nosuch")
    assert (status, {name for name in headers if OF_LIMITS(name)}) == (404, names(PATHS[path][0]))


@in_one_loop
@pytest.mark.parametrize("path", PATHS)
async def test_a_long_wait_is_not_worth_another_try(gateway: RunningGateway, limits: Limits, path: str) -> None:
    limits.refusal = refusal(wait_s=7200)
    status, headers = await ask(gateway, path)
    assert (status, headers["retry-after"], headers["x-should-retry"]) == (429, "120", "false")


@in_one_loop
@pytest.mark.parametrize("path", PATHS)
async def test_without_limits_nothing_is_told_of_them(gateway: RunningGateway, limits: Limits, path: str) -> None:
    status, headers = await ask(gateway, path)
    assert (status, [name for name in headers if OF_LIMITS(name)]) == (200, [])
