"""What every store of counts promises when limits change, and to whoever compares its counts with the rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID, uuid4

import pytest
from store_rig import CALENDAR, HOUR_S, ONE, USER, Rig, limit, tokens

from parallama.ledger.store import Spent, Unknown
from parallama.limits import Counter, Limit, Meter, Period, Scope


async def unknown(rig: Rig, rule: Limit) -> Mapping[Counter, str]:
    """What is said of a limit whose count is not known."""
    answer = await rig.store.reserve(uuid4(), [rule], ONE)
    assert isinstance(answer, Unknown), answer
    return answer.counters


class ChangeSuite:
    """A part of StoreSuite."""

    # limits that change

    @pytest.mark.parametrize("period", [Period.MINUTE, *CALENDAR])
    async def test_after_a_change_of_limits_a_count_is_summed_anew(self, rig: Rig, period: Period) -> None:
        rule = limit(10, period=period)
        await rig.used(rule)
        await rig.forget(USER)
        assert not await rig.store.standings([rule])
        assert [*await unknown(rig, rule)] == [rule.counter]
        await rig.seed(rule.counter, used=[(rig.clock.now, 4)])
        assert await rig.sums(rule) == (4, 0)
        await rig.used(rule)
        assert await rig.sums(rule) == (5, 0)

    async def test_a_change_concerns_whose_limits_have_changed(self, rig: Rig) -> None:
        user, key, other = limit(9), limit(9, subject=uuid4()), limit(9, subject=uuid4())
        await rig.used([user, key, other])
        await rig.forget(user.subject, key.subject)
        assert [standing.limit for standing in await rig.store.standings([user, key, other])] == [other]
        await rig.forget(None)
        assert not await rig.store.standings([user, key, other])

    @pytest.mark.parametrize("end", [Rig.settle, Rig.cancel])
    async def test_a_count_with_requests_under_way_goes_on_until_the_last_has_ended(
        self, rig: Rig, end: Callable[[Rig, UUID], Awaitable[None]]
    ) -> None:
        rule = limit(3)
        await rig.used(rule)
        first, _ = await rig.granted(rule)
        await rig.forget(USER)
        second, _ = await rig.granted(rule)
        await rig.refused(rule)
        await rig.settle(first)
        assert await rig.sums(rule) == (2, 1)
        await end(rig, second)
        await unknown(rig, rule)

    async def test_a_request_that_has_reserved_nothing_is_waited_for_as_others_are(self, rig: Rig) -> None:
        rule = limit(9, Meter.OUTPUT_TOKENS)
        first, second = [(await rig.granted(rule, tokens(5, 0)))[0] for _ in range(2)]
        await rig.forget(USER)
        await rig.settle(first, Spent(5, 3))
        assert await rig.sums(rule) == (3, 0)
        await rig.settle(second, Spent(5, 4))
        await unknown(rig, rule)

    async def test_who_reserved_in_a_window_that_has_ended_is_not_waited_for(self, rig: Rig) -> None:
        rule = limit(9)
        id, _ = await rig.granted(rule)
        await rig.forget(USER)
        assert await rig.sums(rule) == (0, 1)
        rig.clock.now += HOUR_S
        await unknown(rig, rule)
        await rig.used(rule)
        await rig.settle(id)
        assert await rig.sums(rule) == (1, 0)

    async def test_concurrency_is_no_count_to_be_summed_anew(self, rig: Rig) -> None:
        slots = limit(2, Meter.CONCURRENCY, Period.NOW)
        id, _ = await rig.granted(slots)
        await rig.forget(USER)
        await rig.forget(None)
        await rig.granted(slots)
        await rig.refused(slots)
        await rig.settle(id)
        await rig.granted(slots)

    @pytest.mark.parametrize("subject", [USER, None])
    @pytest.mark.parametrize("again", [True, False], ids=["asked again", "not asked again"])
    async def test_a_sum_from_before_a_change_is_not_taken(self, rig: Rig, subject: UUID | None, again: bool) -> None:
        rule = limit(10)
        before = await unknown(rig, rule)
        await rig.forget(subject)
        if again:
            await unknown(rig, rule)
        await rig.seed(rule.counter, used=[(rig.clock.now, 7)], asked=before)
        after = await unknown(rig, rule)
        await rig.seed(rule.counter, used=[(rig.clock.now, 8)], asked=after)
        assert await rig.sums(rule) == (8, 0)
        await rig.seed(rule.counter, used=[(rig.clock.now, 7)], asked=before)
        assert await rig.sums(rule) == (8, 0)

    async def test_a_change_of_other_limits_leaves_a_sum_as_it_is(self, rig: Rig) -> None:
        rule = limit(10)
        asked = await unknown(rig, rule)
        await rig.forget(uuid4())
        await rig.seed(rule.counter, used=[(rig.clock.now, 7)], asked=asked)
        assert await rig.sums(rule) == (7, 0)

    # comparing

    async def test_what_was_used_in_hours_days_and_months_is_told_of_all_that_are_known(self, rig: Rig) -> None:
        scope = Scope("ollama", "hf.co/a:b/*=:8b", Meter.TOTAL_TOKENS, Period.DAY)
        model = Limit(subject=uuid4(), scope=scope, amount=10**6)
        hour, month = limit(9), limit(10**6, Meter.OUTPUT_TOKENS, Period.MONTH)
        minute, slots = limit(9, period=Period.MINUTE), limit(9, Meter.CONCURRENCY, Period.NOW)
        limits = [hour, month, model, minute, slots]
        await rig.used(limits, tokens(30, 20), Spent(30, 12))
        await rig.granted(limits, tokens(30, 20))
        await rig.seed(limit(9, subject=uuid4(), period=Period.MINUTE).counter)
        assert await rig.store.counts() == {hour.counter: 1, month.counter: 12, model.counter: 42}
        rig.clock.now += HOUR_S
        assert await rig.store.counts() == {hour.counter: 0, month.counter: 12, model.counter: 42}
        await rig.forget(model.subject)
        assert await rig.store.counts() == {hour.counter: 0, month.counter: 12, model.counter: 42}
        for id in await rig.store.held():
            await rig.cancel(id)
        assert await rig.store.counts() == {hour.counter: 0, month.counter: 12}

    @pytest.mark.parametrize("period", CALENDAR)
    async def test_a_count_is_corrected_never_below_nothing(self, rig: Rig, period: Period) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS, period)
        await rig.used(rule, tokens(0, 30), Spent(0, 30))
        id, _ = await rig.granted(rule, tokens(0, 20))
        sums = []
        for amount in (5, -15, -90, 7):
            await rig.correct(rule, amount)
            sums.append(await rig.sums(rule))
        assert sums == [(35, 20), (20, 20), (0, 20), (7, 20)]
        await rig.settle(id, Spent(0, 2))
        assert await rig.sums(rule) == (9, 0)

    async def test_two_who_take_the_same_from_a_count_take_it_once(self, rig: Rig) -> None:
        rule = limit(100, Meter.OUTPUT_TOKENS)
        await rig.used(rule, tokens(0, 30), Spent(0, 30))
        used = []
        for amount, least in ((-20, 10), (-20, 10), (-20, 15), (-5, 7), (4, 50)):
            await rig.correct(rule, amount, least)
            used.append((await rig.sums(rule))[0])
        assert used == [10, 10, 10, 7, 11]

    async def test_a_correction_ends_with_its_window(self, rig: Rig) -> None:
        rule = limit(9)
        await rig.used(rule)
        rig.clock.now += HOUR_S
        await rig.correct(rule, 3)
        assert await rig.sums(rule) == (3, 0)
        rig.clock.now += HOUR_S
        assert await rig.sums(rule) == (0, 0)

    async def test_what_is_not_known_is_not_corrected(self, rig: Rig) -> None:
        rule = limit(9)
        await rig.correct(rule, 5)
        await unknown(rig, rule)

    async def test_requests_that_are_under_way_are_told(self, rig: Rig) -> None:
        ids = [(await rig.granted([limit(9), limit(9, Meter.CONCURRENCY, Period.NOW)]))[0] for _ in range(3)]
        await rig.settle(ids[1])
        assert {*await rig.store.held()} == {ids[0], ids[2]}
        await rig.cancel(ids[0])
        await rig.cancel(ids[2])
        assert not await rig.store.held()
