"""However many ask at the same time, of however many gateways: as many are let in as fit, and no more is spent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from fleet import Crowd, Fleet
from processes import Running
from truth import nothing_is_wrong, spent

_TOGETHER = 200
_REQUESTS = 37
_TOKENS = 10_000
_BOUND = 400
"""Tokens of one answer, at most."""


async def all_at_once(crowd: Crowd, gateways: Sequence[Running]) -> Counter[int]:
    """So many ask at the same time, each until somebody can count; how often each status was the last word."""

    async def last_word(running: Running) -> int:
        got = await crowd.once(running)
        assert got is not None, running.err
        return got.status

    asking = [last_word(gateways[number % len(gateways)]) for number in range(_TOGETHER)]
    return Counter(await asyncio.gather(*asking))


@pytest.fixture(params=["memory", "redis", "three"])
def group(request: pytest.FixtureRequest) -> tuple[Fleet, int]:
    """How many gateways there are to be."""
    fleet: Fleet = request.getfixturevalue("fleet" if request.param == "memory" else "together")
    return fleet, 3 if request.param == "three" else 1


async def test_of_two_hundred_at_once_exactly_as_many_are_let_in_as_a_limit_allows(group: tuple[Fleet, int]) -> None:
    fleet, many = group
    crowd = await fleet.user("alice", _REQUESTS)
    gateways = await asyncio.gather(*map(fleet.start, range(many)))
    await known(crowd, gateways)
    statuses = await all_at_once(crowd, gateways)
    assert statuses == {200: _REQUESTS - many, 429: _TOGETHER - _REQUESTS + many}
    assert spent(await nothing_is_wrong(fleet, crowd, gateways=many), crowd) == _REQUESTS


async def test_two_hundred_at_once_spend_no_token_more_than_a_limit_allows(group: tuple[Fleet, int]) -> None:
    fleet, many = group
    crowd = await fleet.user("alice", 10**6, _TOKENS, max_output_tokens=_BOUND)
    gateways = await asyncio.gather(*map(fleet.start, range(many)))
    await known(crowd, gateways)
    while (await all_at_once(crowd, gateways))[200]:
        pass
    used = sum(prompt + output for prompt, output in crowd.told.values())
    assert _TOKENS - 2 * _BOUND < used <= _TOKENS
    assert spent(await nothing_is_wrong(fleet, crowd, gateways=many), crowd) == len(crowd.told)


async def known(crowd: Crowd, gateways: Sequence[Running]) -> None:
    """Each gateway knows the key, so that not all of them look for it in the database."""
    for running in gateways:
        got = await crowd.once(running)
        assert got is not None
        assert got.status == 200
