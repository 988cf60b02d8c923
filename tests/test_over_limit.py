"""A refusal says which limit is in the way, how much is used and until when, and how long a client should wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limited import DAILY, NOW, limit, refusal
from parallama_anthropic import Anthropic
from parallama_ollama import OllamaNative, OllamaSimple
from parallama_openai import OpenAI

from parallama.errors import OverLimit
from parallama.limits import Limit, Meter, Period
from parallama.quotas import LONGEST_WAIT_S

HOURLY = limit(Meter.REQUESTS, Period.HOUR, 60, gateway="openai")
CONCURRENT = limit(Meter.CONCURRENCY, Period.NOW, 2)

MESSAGES: dict[str, tuple[Limit, dict[str, Any]]] = {
    "the limit of 1000 total tokens a day is used up: 980 used, 50 asked for; more at 2026-11-21T16:00:40Z": (
        DAILY,
        {},
    ),
    "the limit of 60 requests an hour through openai is used up: 60 used, 1 asked for; more at 2026-11-21T16:00:00Z": (
        HOURLY,
        {"used": 60, "asked": 1, "wait_s": 0.5},
    ),
    "the limit of 1 output token a minute for llama3:* is used up: 1 used, 1 asked for; more at 2026-11-21T16:00:02Z": (
        limit(Meter.OUTPUT_TOKENS, Period.MINUTE, 1, model="llama3:*"),
        {"used": 1, "asked": 1, "wait_s": 2},
    ),
    "the limit of 1000 total tokens a day is used up: 970 used, 20 held by requests under way, 50 asked for"
    "; more at 2026-11-21T16:00:40Z": (DAILY, {"used": 970, "reserved": 20}),
    "the limit of 1000 total tokens a day is taken for now: 900 used, 80 held by requests under way, 50 asked for"
    "; try again in 2 s": (DAILY, {"used": 900, "reserved": 80, "under_way": True}),
    "the limit of 2 requests at the same time is reached; try again in 1 s": (
        CONCURRENT,
        {"used": 0, "reserved": 2, "asked": 1, "wait_s": None, "under_way": True},
    ),
    "the limit of 10 prompt tokens a month is less than the 50 that the request asks for": (
        limit(Meter.PROMPT_TOKENS, Period.MONTH, 10),
        {"used": 0, "wait_s": None},
    ),
    "the limit of 0 requests a day allows nothing": (
        limit(Meter.REQUESTS, Period.DAY, 0),
        {"used": 0, "asked": 1, "wait_s": None},
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_people_are_told_which_limit_how_much_and_until_when(message: str) -> None:
    rule, how = MESSAGES[message]
    assert str(refusal(rule, **how)) == message


def told(error: OverLimit) -> tuple[int | None, bool]:
    return error.retry_after_s, error.lasting


@pytest.mark.parametrize(
    ("wait_s", "expected"),
    [(0, (1, False)), (0.2, (1, False)), (40.1, (41, False)), (120, (120, False)), (120.1, (120, True))],
)
def test_a_client_waits_as_long_as_it_takes_but_for_no_more_than_two_minutes(
    wait_s: float, expected: tuple[int, bool]
) -> None:
    assert told(refusal(wait_s=wait_s)) == expected


@pytest.mark.parametrize(
    ("rule", "wait_s", "expected"),
    [(CONCURRENT, None, 1), (DAILY, 7200, 2), (DAILY, 1.5, 2), (DAILY, 0.5, 1), (DAILY, None, 2)],
)
def test_a_client_comes_back_soon_when_only_running_requests_are_in_the_way(
    rule: Limit, wait_s: float | None, expected: int
) -> None:
    error = refusal(rule, reserved=2, wait_s=wait_s, under_way=True)
    assert (told(error), error.until) == ((expected, False), None)


@pytest.mark.parametrize("wait_s", [None, 5, 7200])
@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize("meter", [Meter.REQUESTS, Meter.OUTPUT_TOKENS, Meter.CONCURRENCY])
def test_a_limit_of_0_is_never_worth_another_try(meter: Meter, wait_s: float | None, under_way: bool) -> None:
    error = refusal(limit(meter, Period.DAY, 0), used=0, wait_s=wait_s, under_way=under_way)
    assert (told(error), error.until) == ((LONGEST_WAIT_S, True), None)


def test_a_dialect_finds_the_limit_what_is_used_of_it_and_when_there_is_room() -> None:
    error = refusal(wait_s=7200)
    assert (error.status, error.code, error.limit, error.used) == (429, "over_limit", DAILY, 980)
    assert error.until == datetime(2026, 11, 21, 18, 0, 0, tzinfo=UTC)


@given(wait_s=st.floats(0, 40 * 86_400), now=st.floats(0, 4e9))
def test_nobody_is_told_to_come_too_early(wait_s: float, now: float) -> None:
    error = refusal(wait_s=wait_s, now=now)
    assert error.until is not None
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert error.until >= epoch + timedelta(seconds=now + wait_s)
    assert 1 <= error.retry_after_s <= LONGEST_WAIT_S
    assert error.lasting or error.retry_after_s >= wait_s


def test_a_refusal_without_a_limit_is_as_it_was() -> None:
    error = OverLimit("too many tries: try again in 2 s", retry_after_s=2)
    assert (told(error), error.limit, error.until) == ((2, False), None, None)
    assert told(OverLimit("too many")) == (1, False)


def test_every_dialect_says_it_in_its_own_shape() -> None:
    message = str(refusal()).encode()
    openai = b'{"error":{"message":"%s","type":"tokens","param":null,"code":"rate_limit_exceeded"}}' % message
    bodies = {
        OpenAI: openai,
        Anthropic: b'{"type":"error","error":{"type":"rate_limit_error","message":"%s"}}' % message,
        OllamaNative: b'{"error":"%s"}' % message,
        OllamaSimple: b'{"error":"%s"}' % message,
    }
    for gateway, body in bodies.items():
        reply = gateway().render_error(refusal())
        assert (reply.status, reply.body) == (429, body)


NEVER = {"wait_s": None, "used": 0, "asked": 2000}
KINDS: dict[str, tuple[OverLimit, tuple[str, str]]] = {
    "requests": (refusal(HOURLY, used=60, asked=1), ("requests", "rate_limit_exceeded")),
    "requests at once": (refusal(CONCURRENT, wait_s=None, under_way=True), ("requests", "rate_limit_exceeded")),
    "tokens": (refusal(), ("tokens", "rate_limit_exceeded")),
    "tokens of another day": (refusal(wait_s=7200), ("tokens", "rate_limit_exceeded")),
    "more than there ever is": (refusal(**NEVER), ("insufficient_quota", "insufficient_quota")),
    "a limit of 0": (refusal(limit(Meter.REQUESTS, Period.DAY, 0)), ("insufficient_quota", "insufficient_quota")),
    "no limit of anybody's": (OverLimit("too many tries"), ("requests", "rate_limit_exceeded")),
}


@pytest.mark.parametrize("name", KINDS)
def test_openai_names_what_ran_out_and_whether_it_comes_back(name: str) -> None:
    error, expected = KINDS[name]
    body = OpenAI().render_error(error).body
    assert b'"type":"%s"' % expected[0].encode() in body
    assert b'"code":"%s"' % expected[1].encode() in body


def test_the_time_of_the_tests_is_what_it_says() -> None:
    assert datetime.fromtimestamp(NOW, UTC).isoformat() == "2026-11-21T15:59:59.500000+00:00"
