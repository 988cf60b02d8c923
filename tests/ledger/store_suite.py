"""What every store of counts promises: `StoreSuite`, to be inherited by the tests of each store.

These are about one moment: who is admitted, what is granted, why one is refused, how a request ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from store_changes import ChangeSuite
from store_rig import CALENDAR, HOUR_S, Rig, at, limit, tokens
from store_windows import WindowSuite

from parallama.ledger.store import Cost, Grant, Refusal, Spent
from parallama.limits import Meter, Period


class StoreSuite(WindowSuite, ChangeSuite):
    """Inherit it and give a fixture `rig` with a new store for ZONE."""

    # together and alone

    @pytest.mark.parametrize("amount", [0, 1, 50, 200])
    async def test_of_200_at_once_exactly_as_many_as_the_limit_allows_are_admitted(self, rig: Rig, amount: int) -> None:
        rule = limit(amount)
        await rig.seed(rule.counter)
        answers = await asyncio.gather(*(rig.ask(rule) for _ in range(200)))
        assert sum(isinstance(answer, Grant) for answer in answers) == amount
        assert await rig.sums(rule) == (0, amount)

    async def test_of_200_at_once_none_gets_tokens_that_another_has(self, rig: Rig) -> None:
        rule = limit(10_000, Meter.TOTAL_TOKENS)
        await rig.seed(rule.counter)
        answers = await asyncio.gather(*(rig.ask(rule, tokens(30, 300)) for _ in range(200)))
        granted = [answer for answer in answers if isinstance(answer, Grant)]
        assert sum(30 + grant.output for grant in granted) == sum(await rig.sums(rule)) <= 10_000

    async def test_a_refusal_by_one_limit_takes_nothing_of_the_others(self, rig: Rig) -> None:
        others = [limit(9), limit(99, Meter.TOTAL_TOKENS), limit(9, Meter.CONCURRENCY, Period.NOW)]
        full = limit(1, period=Period.DAY)
        await rig.used([*others, full])
        before = [await rig.sums(rule) for rule in others]
        await rig.refused([*others, full])
        await rig.refused([full, *others])
        assert [await rig.sums(rule) for rule in others] == before

    async def test_limits_of_all_gateways_of_one_and_of_a_key_all_must_have_room(self, rig: Rig) -> None:
        shared, one, key = limit(3), limit(2, gateway="ollama"), limit(1, gateway="ollama", subject=uuid4())
        await rig.used([shared, one, key])
        assert (await rig.refused([shared, one, key])).standing.limit == key
        await rig.used([shared, one])
        assert (await rig.refused([shared, one])).standing.limit == one
        await rig.used([shared, limit(2, gateway="openai")])
        assert (await rig.refused([shared, limit(2, gateway="openai")])).standing.limit == shared

    async def test_without_limits_all_is_granted_and_nothing_is_held(self, rig: Rig) -> None:
        id, grant = await rig.granted([], tokens(5, 70))
        assert grant == Grant(70, None, (), rig.clock.now)
        await rig.settle(id)

    async def test_a_grant_says_when_it_was_made_by_the_clock_that_counts(self, rig: Rig) -> None:
        rule, id = limit(9), uuid4()
        rig.clock.now += 0.25
        made_at = rig.clock.now
        first = await rig.ask(rule, id=id)
        rig.clock.now += HOUR_S
        again = await rig.ask(rule, id=id)
        assert isinstance(first, Grant)
        assert first == again
        assert first.at == made_at

    # amounts

    async def test_the_output_is_what_the_tightest_limit_has_left(self, rig: Rig) -> None:
        limits = [
            limit(1000, Meter.OUTPUT_TOKENS),
            limit(700, Meter.TOTAL_TOKENS, Period.DAY),
            limit(650, Meter.OUTPUT_TOKENS, Period.MONTH),
        ]
        assert (await rig.granted(limits, tokens(100, 5000)))[1].output == 600
        assert [sum(await rig.sums(rule)) for rule in limits] == [600, 700, 600]

    async def test_no_more_output_is_granted_than_was_asked_for(self, rig: Rig) -> None:
        assert (await rig.granted(limit(1000, Meter.OUTPUT_TOKENS), tokens(100, 300)))[1].output == 300

    async def test_less_output_than_is_worth_sending_is_refused(self, rig: Rig) -> None:
        rule = limit(109, Meter.TOTAL_TOKENS)
        await rig.refused(rule, tokens(100, 500, least=10))
        assert (await rig.granted(rule, tokens(100, 500, least=9)))[1].output == 9

    async def test_what_asks_for_less_than_is_worth_sending_gets_it(self, rig: Rig) -> None:
        assert (await rig.granted(limit(5, Meter.OUTPUT_TOKENS), tokens(0, 2, least=3)))[1].output == 2

    async def test_what_has_no_output_needs_no_room_for_it(self, rig: Rig) -> None:
        full, prompts = limit(10, Meter.OUTPUT_TOKENS), limit(50, Meter.TOTAL_TOKENS)
        await rig.used(full, tokens(0, 10), Spent(0, 13))
        assert (await rig.granted([full, prompts], tokens(50, 0)))[1].output == 0
        assert await rig.sums(prompts) == (0, 50)

    async def test_each_meter_counts_its_own(self, rig: Rig) -> None:
        meters = [*Meter]
        limits = [limit(10**6, meter, Period.NOW if meter is Meter.CONCURRENCY else Period.DAY) for meter in meters]
        id, _ = await rig.granted(limits, tokens(100, 40))
        reserved = {meter: (await rig.sums(rule))[1] for meter, rule in zip(meters, limits, strict=True)}
        await rig.settle(id, Spent(70, 8))
        used = {meter: await rig.sums(rule) for meter, rule in zip(meters, limits, strict=True)}
        assert [reserved[meter] for meter in Meter] == [1, 100, 40, 140, 1]
        assert [used[meter] for meter in Meter] == [(1, 0), (70, 0), (8, 0), (78, 0), (0, 0)]

    async def test_an_estimating_limit_reserves_the_estimate_of_the_prompt(self, rig: Rig) -> None:
        strict, friendly = limit(500, Meter.TOTAL_TOKENS), limit(500, Meter.TOTAL_TOKENS, Period.DAY, strict=False)
        id, grant = await rig.granted([strict, friendly], tokens(300, 900, estimate=100))
        assert grant.output == 200
        assert (await rig.sums(strict), await rig.sums(friendly)) == ((0, 500), (0, 300))
        await rig.settle(id, Spent(120, 200))
        assert (await rig.sums(strict), await rig.sums(friendly)) == ((320, 0), (320, 0))

    @pytest.mark.parametrize(
        ("weight", "room", "output"),
        [(2.0, 1000, 400), (0.5, 1000, 1900), (1.5, 1000, 566), (0.1, 100, 900), (3.0, 400, 33)],
    )
    async def test_a_weight_counts_for_prompt_and_output(self, rig: Rig, weight: float, room: int, output: int) -> None:
        rule = limit(room, Meter.TOTAL_TOKENS)
        id, grant = await rig.granted(rule, tokens(100, 10_000, weight=weight))
        assert grant.output == output
        assert room - weight < (await rig.sums(rule))[1] <= room
        await rig.settle(id, Spent(100, 1))
        assert await rig.sums(rule) == (-int(-(101 * weight) // 1), 0)

    async def test_parts_of_weighted_tokens_count_as_whole_ones_and_never_drift(self, rig: Rig) -> None:
        rule = limit(1000, Meter.OUTPUT_TOKENS)
        for _ in range(100):
            await rig.used(rule, tokens(0, 7, weight=0.1), Spent(0, 3))
        assert await rig.sums(rule) == (100, 0)

    async def test_what_was_spent_beyond_the_grant_counts_in_full(self, rig: Rig) -> None:
        rule = limit(100, Meter.TOTAL_TOKENS)
        await rig.used(rule, tokens(10, 20), Spent(15, 400))
        assert await rig.sums(rule) == (415, 0)
        assert not (await rig.refused(rule, tokens(1, 1))).under_way

    async def test_a_new_amount_is_judged_at_once(self, rig: Rig) -> None:
        for _ in range(3):
            await rig.used(limit(3))
        await rig.refused(limit(3))
        await rig.used(limit(5))
        await rig.refused(limit(4))
        await rig.refused(limit(0))
        assert await rig.room(limit(7)) == 3

    # refusals

    @pytest.mark.parametrize("meter", [*Meter])
    @pytest.mark.parametrize("cost", [tokens(1, 1), tokens(0, 0)], ids=["something", "nothing"])
    async def test_a_limit_of_nothing_refuses_for_ever(self, rig: Rig, meter: Meter, cost: Cost) -> None:
        for period in [Period.NOW] if meter is Meter.CONCURRENCY else [Period.MINUTE, *CALENDAR]:
            refusal = await rig.refused([limit(9, period=Period.DAY), limit(0, meter, period)], cost)
            assert refusal.standing.limit.amount == 0
            assert (refusal.retry_after_s, refusal.under_way) == (None, False)

    async def test_a_request_that_is_more_than_a_whole_limit_is_refused_for_ever(self, rig: Rig) -> None:
        small, full = limit(100, Meter.TOTAL_TOKENS), limit(1, period=Period.MONTH)
        await rig.used(full)
        refusal = await rig.refused([full, small], tokens(100, 1))
        assert refusal.standing.limit == small
        assert (refusal.retry_after_s, refusal.under_way) == (None, False)
        await rig.granted(small, tokens(99, 1))

    @pytest.mark.parametrize(("period", "wait_s"), [(Period.HOUR, 2370), (Period.DAY, 49_170)])
    async def test_a_full_window_says_when_it_ends_and_has_room_then(
        self, rig: Rig, period: Period, wait_s: float
    ) -> None:
        rule = limit(1, period=period)
        await rig.used(rule)
        refusal = await rig.refused(rule)
        assert (refusal.retry_after_s, refusal.under_way) == (wait_s, False)
        assert refusal.standing.reset_at == rig.clock.now + wait_s
        rig.clock.now += wait_s - 1
        assert (await rig.refused(rule)).retry_after_s == 1
        rig.clock.now += 1
        await rig.used(rule)

    async def test_the_limit_that_is_longest_in_the_way_is_named(self, rig: Rig) -> None:
        limits = [limit(1, period=period) for period in (Period.HOUR, Period.MONTH, Period.MINUTE, Period.DAY)]
        await rig.used(limits)
        refusal = await rig.refused(limits)
        assert refusal.standing.limit.scope.period is Period.MONTH
        assert refusal.retry_after_s == at("2030-06-01") - rig.clock.now
        assert [standing.limit for standing in refusal.standings] == limits

    async def test_a_limit_of_which_nothing_is_needed_is_not_in_the_way(self, rig: Rig) -> None:
        outputs, rule = limit(10, Meter.OUTPUT_TOKENS, Period.MONTH), limit(1)
        await rig.used([outputs, rule], tokens(0, 10), Spent(0, 13))
        assert (await rig.refused([outputs, rule], tokens(5, 0))).standing.limit == rule

    async def test_a_refusal_says_whether_only_requests_under_way_are_in_the_way(self, rig: Rig) -> None:
        rule, day = limit(2), limit(9, period=Period.DAY)
        id, _ = await rig.granted([rule, day])
        await rig.granted([rule, day])
        refusal = await rig.refused([rule, day])
        assert (refusal.retry_after_s, refusal.under_way) == (2370, True)
        await rig.settle(id)
        assert (await rig.refused([rule, limit(0, period=Period.DAY)])).under_way is False
        await rig.granted([limit(3), day])

    async def test_full_concurrency_is_no_reason_to_wait_for_a_time(self, rig: Rig) -> None:
        slots, rule = limit(1, Meter.CONCURRENCY, Period.NOW), limit(1)
        id, _ = await rig.granted(slots)
        refusal = await rig.refused(slots)
        assert (refusal.retry_after_s, refusal.under_way) == (None, True)
        assert refusal.standing.reset_at is None
        await rig.used(rule)
        refusal = await rig.refused([slots, rule])
        assert (refusal.standing.limit, refusal.retry_after_s, refusal.under_way) == (rule, 2370, False)
        await rig.cancel(id)
        await rig.granted(slots)

    # the ends of requests

    @pytest.mark.parametrize("end", [Rig.settle, Rig.cancel])
    async def test_the_end_of_a_request_makes_room(self, rig: Rig, end: Callable[[Rig, UUID], Awaitable[None]]) -> None:
        slots = limit(2, Meter.CONCURRENCY, Period.NOW)
        ids = [(await rig.granted(slots))[0] for _ in range(2)]
        await rig.refused(slots)
        await end(rig, ids[0])
        await rig.granted(slots)
        await rig.refused(slots)

    async def test_what_never_reached_a_node_costs_nothing(self, rig: Rig) -> None:
        limits = [limit(1, period=Period.MINUTE), limit(9, Meter.TOTAL_TOKENS)]
        id, _ = await rig.granted(limits, tokens(3, 6))
        await rig.cancel(id)
        assert [await rig.sums(rule) for rule in limits] == [(0, 0), (0, 0)]
        await rig.granted(limits, tokens(3, 6))

    async def test_only_the_first_end_of_a_request_counts(self, rig: Rig) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS)
        settled, _ = await rig.granted(rule, tokens(0, 10))
        cancelled, _ = await rig.granted(rule, tokens(0, 10))
        await rig.settle(settled, Spent(0, 7))
        await rig.cancel(cancelled)
        for id in (settled, cancelled, uuid4()):
            await rig.settle(id, Spent(0, 50))
            await rig.cancel(id)
        assert await rig.sums(rule) == (7, 0)

    async def test_asking_twice_gives_the_same_grant_and_reserves_once(self, rig: Rig) -> None:
        rule, id = limit(100, Meter.OUTPUT_TOKENS), uuid4()
        first = await rig.ask(rule, tokens(0, 60), id)
        assert await rig.ask(rule, tokens(0, 90), id) == first
        assert await rig.sums(rule) == (0, 60)

    @pytest.mark.parametrize("end", [Rig.settle, Rig.cancel])
    @pytest.mark.parametrize("came", [True, False], ids=["asked before", "asks for the first time"])
    async def test_a_request_that_is_over_gets_nothing(
        self, rig: Rig, end: Callable[[Rig, UUID], Awaitable[None]], came: bool
    ) -> None:
        rule, id = limit(9), uuid4()
        await rig.seed(rule.counter)
        if came:
            await rig.ask(rule, id=id)
        await end(rig, id)
        for _ in range(1000):
            await rig.used(limit(10**6, period=Period.DAY))
        refusal = await rig.ask(rule, id=id)
        assert isinstance(refusal, Refusal)
        assert (refusal.retry_after_s, refusal.under_way) == (None, False)
        assert (await rig.sums(rule))[1] == 0
