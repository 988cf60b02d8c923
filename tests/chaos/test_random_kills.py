"""Gateways that are killed again and again at any moment, under load: nothing lost, doubled, or gained."""

from __future__ import annotations

import asyncio
import random

import pytest
from fleet import Crowd, Fleet, dead
from scale import CLIENTS, KILLS
from truth import nothing_is_wrong, spent

_BETWEEN = range(1, 60)
"""Answers between two deaths."""
_REQUESTS = 80 * KILLS


@pytest.mark.timeout(120 + 12 * KILLS)
@pytest.mark.parametrize("gateways", [1, 3])
async def test_gateways_that_share_a_redis_let_through_what_a_limit_allows_however_often_they_die(
    together: Fleet, dice: random.Random, gateways: int
) -> None:
    await _die_and_use_up(together, dice, gateways)


@pytest.mark.timeout(120 + 12 * KILLS)
async def test_a_gateway_lets_through_what_a_limit_allows_however_often_it_dies(
    fleet: Fleet, dice: random.Random
) -> None:
    await _die_and_use_up(fleet, dice, 1)


async def _die_and_use_up(fleet: Fleet, dice: random.Random, gateways: int) -> None:
    crowd = await fleet.user("alice", _REQUESTS)
    async with asyncio.TaskGroup() as group:
        for number in range(gateways):
            group.create_task(
                _die(fleet, crowd, number, [dice.choice(_BETWEEN) for _ in range(number, KILLS, gateways)])
            )
    all_of_them = [await fleet.start(number) for number in range(gateways)]
    for number in range(gateways):
        await fleet.taken_over(number)
    for running in all_of_them:
        await crowd.use_up(running)
    rows = await nothing_is_wrong(fleet, crowd, gateways=gateways)
    assert spent(rows, crowd) == _REQUESTS
    assert len(rows) - crowd.answers <= CLIENTS * KILLS


async def _die(fleet: Fleet, crowd: Crowd, number: int, lives: list[int]) -> None:
    """The gateway of this number is killed after so many answers, and started again."""
    for answers in lives:
        running = await fleet.start(number)
        left = answers

        def go_on() -> bool:
            nonlocal left
            left -= 1
            if left <= 0:
                running.popen.kill()  # noqa: B023 - of this round
            return True

        await crowd.run(running, CLIENTS, go_on)
        await dead(running)
