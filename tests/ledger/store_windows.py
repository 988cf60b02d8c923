"""What every store of counts promises as time passes: windows, clocks that jump, and seeds."""

from __future__ import annotations

from uuid import uuid4

import pytest
from store_rig import CALENDAR, DAY_S, HOUR_S, ONE, Rig, at, limit, tokens

from parallama.ledger.store import Spent, Standing, Unknown
from parallama.limits import Meter, Period
from parallama.quotas import Quota


class WindowSuite:
    """A part of StoreSuite."""

    # windows

    @pytest.mark.parametrize("period", CALENDAR)
    async def test_an_answer_that_ends_in_the_next_window_is_charged_where_it_began(
        self, rig: Rig, period: Period
    ) -> None:
        rule = limit(100, Meter.TOTAL_TOKENS, period)
        rig.clock.now = at("2030-05-31 23:59:59")
        old, _ = await rig.granted(rule, tokens(50, 50))
        rig.clock.now += 1
        new, _ = await rig.granted(rule, tokens(10, 20))
        await rig.settle(old, Spent(50, 500))
        assert await rig.sums(rule) == (0, 30)
        await rig.settle(new, Spent(10, 3))
        assert await rig.sums(rule) == (13, 0)

    async def test_an_answer_over_an_empty_window_leaves_no_trace_in_it(self, rig: Rig) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS)
        id, _ = await rig.granted(rule, tokens(0, 100))
        rig.clock.now += 5 * HOUR_S
        await rig.settle(id, Spent(0, 100))
        assert await rig.sums(rule) == (0, 0)

    async def test_concurrency_lasts_over_all_windows(self, rig: Rig) -> None:
        slots = limit(1, Meter.CONCURRENCY, Period.NOW)
        id, _ = await rig.granted(slots)
        rig.clock.now += 40 * DAY_S
        await rig.refused(slots)
        await rig.settle(id)
        await rig.granted(slots)

    @pytest.mark.parametrize("fraction", [0.0, 0.25, 0.75])
    async def test_a_minute_gives_no_second_helping_within_60_seconds(self, rig: Rig, fraction: float) -> None:
        rule = limit(5, period=Period.MINUTE)
        rig.clock.now += fraction
        for _ in range(5):
            await rig.used(rule)
        rig.clock.now += 59.75
        await rig.refused(rule)
        rig.clock.now += 1.25
        assert await rig.room(rule) == 5

    async def test_who_is_refused_puts_the_end_of_a_minute_off_no_further(self, rig: Rig) -> None:
        minute, spent = limit(9, period=Period.MINUTE), limit(1, period=Period.DAY)
        await rig.used([minute, spent])
        before = await rig.standing(minute)
        rig.clock.now += 30
        refusal = await rig.refused([minute, spent])
        assert refusal.standings[0] == await rig.standing(minute) == before

    async def test_room_in_a_minute_comes_second_by_second(self, rig: Rig) -> None:
        rule = limit(60, Meter.OUTPUT_TOKENS, Period.MINUTE)
        for second in range(6):
            await rig.used(rule, tokens(0, 10), Spent(0, 10))
            rig.clock.now += second == 5 or 10
        refusal = await rig.refused(rule, tokens(0, 25, least=25))
        assert refusal.retry_after_s == 30
        assert (await rig.refused(rule, tokens(0, 20, least=20))).retry_after_s == 20
        assert refusal.standing.reset_at == rig.clock.now + 60
        rig.clock.now += 29.5
        assert (await rig.refused(rule, tokens(0, 25, least=25))).retry_after_s == 0.5
        rig.clock.now += 0.5
        assert (await rig.granted(rule, tokens(0, 99, least=25)))[1].output == 30

    async def test_a_minute_charges_the_second_of_the_reservation(self, rig: Rig) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS, Period.MINUTE)
        id, _ = await rig.granted(rule, tokens(0, 100))
        rig.clock.now += 40
        await rig.settle(id, Spent(0, 80))
        rig.clock.now += 20
        assert await rig.sums(rule) == (80, 0)
        rig.clock.now += 1
        assert await rig.sums(rule) == (0, 0)

    async def test_an_answer_longer_than_a_minute_leaves_no_trace_in_the_next(self, rig: Rig) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS, Period.MINUTE)
        old, _ = await rig.granted(rule, tokens(0, 100))
        rig.clock.now += 61
        new, _ = await rig.granted(rule, tokens(0, 90))
        await rig.settle(old, Spent(0, 100))
        assert await rig.sums(rule) == (0, 90)
        await rig.cancel(new)
        assert await rig.sums(rule) == (0, 0)

    # clocks that jump

    @pytest.mark.parametrize("back_s", [1, 1230, HOUR_S, 26 * HOUR_S])
    @pytest.mark.parametrize("period", [Period.MINUTE, *CALENDAR])
    async def test_a_clock_that_is_set_back_gives_no_budget(self, rig: Rig, period: Period, back_s: float) -> None:
        rule = limit(3, period=period)
        for _ in range(3):
            await rig.used(rule)
        rig.clock.now -= back_s
        assert await rig.room(rule) == 0
        rig.clock.now += 59
        assert await rig.room(rule) == 0

    async def test_a_clock_that_is_set_back_delays_the_end_of_a_minute_by_no_more_than_a_minute(self, rig: Rig) -> None:
        rule = limit(3, period=Period.MINUTE)
        for _ in range(3):
            await rig.used(rule)
        rig.clock.now -= HOUR_S
        refusal = await rig.refused(rule)
        assert refusal.retry_after_s == 61
        rig.clock.now += 61
        assert await rig.room(rule) == 3

    async def test_a_window_ends_once_whatever_the_clock_does(self, rig: Rig) -> None:
        rule = limit(3)
        rig.clock.now = at("2030-05-15 11:00:00")
        await rig.used(rule)
        rig.clock.now -= 600
        await rig.used(rule)
        rig.clock.now += 600
        assert await rig.sums(rule) == (2, 0)
        rig.clock.now += HOUR_S
        assert await rig.sums(rule) == (0, 0)

    # what the store has not counted itself

    async def test_a_count_that_nobody_knows_has_to_be_seeded(self, rig: Rig) -> None:
        known, unknown, slots = limit(9), limit(9, period=Period.DAY), limit(9, Meter.CONCURRENCY, Period.NOW)
        await rig.seed(known.counter)
        answer = await rig.store.reserve(uuid4(), [slots, unknown, known], ONE)
        assert isinstance(answer, Unknown)
        assert [*answer.counters] == [unknown.counter]
        assert await rig.sums(known) == (0, 0)
        assert [standing.limit for standing in await rig.store.standings([unknown, known])] == [known]

    async def test_a_seed_counts_what_falls_into_the_window(self, rig: Rig) -> None:
        rule = limit(100, Meter.TOTAL_TOKENS)
        start = at("2030-05-15 10:00")
        await rig.seed(
            rule.counter, used=[(start + 1199.5, 8), (start - 0.5, 1), (start, 2), (start + HOUR_S - 0.25, 4)]
        )
        assert await rig.sums(rule) == (14, 0)
        rig.clock.now = start + HOUR_S
        assert await rig.sums(rule) == (0, 0)

    async def test_a_seed_of_a_minute_falls_into_its_seconds(self, rig: Rig) -> None:
        rule = limit(100, Meter.TOTAL_TOKENS, Period.MINUTE)
        now = rig.clock.now
        await rig.seed(
            rule.counter, used=[(now - 1, 1), (now - 59.75, 32), (now + 3, 2), (now - 30.25, 4), (now - 61, 64)]
        )
        assert await rig.sums(rule) == (39, 0)
        sums = []
        for second in (1, 30, 31, 60, 61):
            rig.clock.now = now + second
            sums.append((await rig.sums(rule))[0])
        assert sums == [7, 3, 3, 2, 0]

    async def test_who_waits_for_the_same_seed_adds_nothing_twice(self, rig: Rig) -> None:
        rule = limit(10)
        first, second = uuid4(), uuid4()
        assert isinstance(await rig.store.reserve(first, [rule], ONE), Unknown)
        assert isinstance(await rig.store.reserve(second, [rule], ONE), Unknown)
        await rig.seed(rule.counter, used=[(rig.clock.now, 4)])
        await rig.ask(rule, id=first)
        await rig.settle(first)
        await rig.seed(rule.counter, used=[(rig.clock.now, 5)])  # has seen the row of the first
        await rig.ask(rule, id=second)
        assert await rig.sums(rule) == (5, 1)
        await rig.seed(rule.counter, used=[(rig.clock.now, 5)])
        assert await rig.sums(rule) == (5, 1)

    async def test_a_grant_says_how_every_limit_stands_with_its_part(self, rig: Rig) -> None:
        hour, minute, slots = (
            limit(500, Meter.TOTAL_TOKENS),
            limit(9, period=Period.MINUTE),
            limit(2, Meter.CONCURRENCY, Period.NOW),
        )
        await rig.used([hour, minute, slots], tokens(10, 20), Spent(10, 5))
        _, grant = await rig.granted([hour, minute, slots], tokens(40, 60))
        standings = [
            Standing(hour, 15, 100, at("2030-05-15 11:00")),
            Standing(minute, 1, 1, rig.clock.now + 61),
            Standing(slots, 0, 1, None),
        ]
        assert [*await rig.store.standings([hour, minute, slots])] == standings
        assert grant.quotas is not None
        assert [*grant.quotas.each()] == [
            Quota(Meter.TOTAL_TOKENS, Period.HOUR, 500, 385, at("2030-05-15 11:00")),
            Quota(Meter.REQUESTS, Period.MINUTE, 9, 7, rig.clock.now + 61),
            Quota(Meter.CONCURRENCY, Period.NOW, 2, 1, None),
        ]
        assert not grant.scarce

    async def test_a_grant_names_the_limits_of_which_a_fifth_or_less_is_left(self, rig: Rig) -> None:
        hour, minute = limit(100, Meter.TOTAL_TOKENS), limit(10, period=Period.MINUTE)
        for _ in range(6):
            await rig.used(minute)
        _, grant = await rig.granted([hour, minute], tokens(40, 39))
        assert not grant.scarce
        await rig.used(minute)
        _, grant = await rig.granted([minute, hour], tokens(0, 1))
        assert [*grant.scarce] == [await rig.standing(minute), await rig.standing(hour)]
        assert grant.quotas is not None
        assert [*grant.quotas.remaining] == [1, 20]
