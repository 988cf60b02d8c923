"""Work beside a block ends with it, and what it raises is not lost."""

from __future__ import annotations

import asyncio

import pytest

from parallama.background import beside


async def test_the_work_goes_on_during_the_block_and_ends_with_it() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(work(), "work"):
        await begun.wait()
        assert not ended.is_set()
    assert ended.is_set()


async def test_work_that_takes_a_cancellation_for_something_else_ends_all_the_same() -> None:
    begun = asyncio.Event()
    taken = 0

    async def work() -> None:
        nonlocal taken
        while True:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                taken += 1
                if taken > 1:
                    raise

    async with asyncio.timeout(30), beside(work(), "work"):
        await begun.wait()
    assert taken == 2


async def test_what_the_work_raises_is_raised_at_the_end_of_the_block() -> None:
    async def work() -> None:
        raise ValueError("broken")

    reached = asyncio.Event()

    async def block() -> None:
        async with beside(work(), "work"):
            await asyncio.sleep(0)
            reached.set()

    with pytest.raises(ValueError, match="broken"):
        await block()
    assert reached.is_set()


async def test_a_block_that_raises_ends_the_work_and_raises_its_own() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def block() -> None:
        async with beside(work(), "work"):
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    assert ended.is_set()
