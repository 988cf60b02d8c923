"""What is left of limits, and the refusal when it is not enough: between the counts and what dialects tell. Pure.

Headers of a dialect have room for a few limits, so those with the least left are told; the neutral header fields that
fit every dialect are made here. Nothing here counts, and who asks brings the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, inf
from typing import NamedTuple, TypeVar

from parallama.errors import BUSY_RETRY_S, OverLimit
from parallama.immutable import maker
from parallama.limits import EVERY, Limit, Meter, Period

TOKENS = (Meter.TOTAL_TOKENS, Meter.PROMPT_TOKENS, Meter.OUTPUT_TOKENS)
"""The meters that count tokens."""

LONGEST_WAIT_S = 120
"""The longest Retry-After: OpenAI's SDK does not wait longer, Anthropic's sleeps however long it is told to."""

_MOST = 999_999_999_999_999
"""The greatest integer of a structured field (RFC 9651 section 3.3.1)."""

_THINGS = {
    Meter.REQUESTS: "request",
    Meter.PROMPT_TOKENS: "prompt token",
    Meter.OUTPUT_TOKENS: "output token",
    Meter.TOTAL_TOKENS: "total token",
    Meter.CONCURRENCY: "request",
}
_TIMES = {
    Period.MINUTE: "a minute",
    Period.HOUR: "an hour",
    Period.DAY: "a day",
    Period.MONTH: "a month",
    Period.NOW: "at the same time",
}
_WINDOWS_S = {Period.MINUTE: 60, Period.HOUR: 3600, Period.DAY: 86_400}
"""A month has no one length."""
_UNITS = {Meter.REQUESTS: "requests", Meter.CONCURRENCY: "concurrent-requests"}


class Quota(NamedTuple):
    """What is left of one limit of the caller."""

    meter: Meter
    period: Period
    limit: int
    remaining: int
    """What nobody has used or reserved; never negative."""
    reset_at: float | None
    """Unix seconds when the count begins anew; None: time changes nothing."""

    def reset_s(self, now: float) -> int | None:
        """Whole seconds from `now` until the count begins anew, never too few; None: time changes nothing."""
        return None if self.reset_at is None else seconds(self.reset_at - now)


S = TypeVar("S", bound=tuple[Limit, int, int, float | None])
"""How a limit stands: what is used of it and what is reserved, and when that begins anew, as Quota has it."""

Rule = tuple[Meter, Period, int]
"""What a limit is, for those to whom its quota is told: so much of a meter in a period."""


class Policies(NamedTuple):
    """Several limits, as all answers tell them that have these."""

    rules: Sequence[Rule]
    names: Sequence[str]
    """Of the policies of draft-ietf-httpapi-ratelimit-headers-10, quoted."""
    field: str
    """`RateLimit-Policy`."""
    plain: bool
    """Whether no two have one name, and none is too large for the field."""


class Quotas(NamedTuple):
    """What is left of several limits, in columns: as Quota has it, but that a count begins anew at `inf` where time
    changes nothing."""

    policies: Policies
    remaining: Sequence[int]
    resets: Sequence[float]

    def each(self) -> Sequence[Quota]:
        """One for each limit."""
        columns = zip(self.policies.rules, self.remaining, self.resets, strict=True)
        return [Quota(*rule, left, None if reset == inf else reset) for rule, left, reset in columns]


make_quotas = maker(Quotas)


@lru_cache(4096)
def policies_of(rules: tuple[Rule, ...]) -> Policies:
    """Of such limits, in their order."""
    words = [_words(*rule) for rule in rules]
    names = [name for name, _ in words]
    plain = len({*names}) == len(names) and all(amount <= _MOST for *_, amount in rules)
    return Policies(rules, names, ", ".join([policy for _, policy in words]), plain)


def policies_of_limits(limits: Iterable[Limit]) -> Policies:
    """Of these, in their order."""
    return policies_of(tuple((limit.scope.meter, limit.scope.period, limit.amount) for limit in limits))


def quotas_of(quotas: Iterable[Quota]) -> Quotas:
    """In columns."""
    rules, remaining, resets = [], [], []
    for meter, period, amount, left, reset_at in quotas:
        rules.append((meter, period, amount))
        remaining.append(left)
        resets.append(inf if reset_at is None else reset_at)
    return Quotas(policies_of(tuple(rules)), remaining, resets)


def left_of(policies: Policies, standings: Iterable[S]) -> tuple[Quotas, Sequence[S]]:
    """What is left of the limits that have these policies, and the standings of those of which that is a fifth or
    less."""
    remaining: list[int] = []
    resets: list[float] = []
    scarce: list[S] = []
    for standing in standings:
        limit, used, reserved, reset_at = standing
        left = limit.amount - used - reserved
        if left * 5 <= limit.amount:
            scarce.append(standing)
            left = max(left, 0)
        remaining.append(left)
        resets.append(inf if reset_at is None else reset_at)
    return make_quotas((policies, remaining, resets)), scarce


def tightest(quotas: Iterable[Quota], *meters: Meter) -> Quota | None:
    """Of those that count one of `meters` the one with the least left; of equal ones the one that is so longest."""
    return min((quota for quota in quotas if quota.meter in meters), key=_left, default=None)


def _left(quota: Quota) -> tuple[int, float]:
    return quota.remaining, -(inf if quota.reset_at is None else quota.reset_at)


def neutral_headers(quotas: Quotas, now: float) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit`, both in the order of the limits; of one meter and period only the tightest.

    draft-ietf-httpapi-ratelimit-headers-10. It has no unit for tokens, and what names none counts requests: `tokens`
    is ours.
    """
    (_, names, field, plain), remaining, resets = quotas
    if not plain:
        return neutral_headers(_plain(quotas), now)
    states = [
        f"{name};r={left};t={ceil(reset - now)}" if now < reset < inf else f"{name};r={left}{_over(reset)}"
        for name, left, reset in zip(names, remaining, resets)  # noqa: B905 - in half the time
    ]
    return {"RateLimit-Policy": field, "RateLimit": ", ".join(states)}


def _over(reset: float) -> str:
    """Of what begins anew now, or never."""
    return "" if reset == inf else ";t=0"


def _plain(quotas: Quotas) -> Quotas:
    """Of those with one name the tightest, with no number that the fields cannot say."""
    policies, remaining, resets = quotas
    found: dict[str, int] = {}
    for place in sorted(range(len(remaining)), key=remaining.__getitem__):
        found.setdefault(policies.names[place], place)
    places = sorted(found.values())
    rules = [policies.rules[place] for place in places]
    return Quotas(
        policies_of(tuple((meter, period, min(amount, _MOST)) for meter, period, amount in rules)),
        [min(remaining[place], _MOST) for place in places],
        [resets[place] for place in places],
    )


def seconds(time_s: float) -> int:
    """Whole ones, never too few; 0 of what is over."""
    return ceil(time_s) if time_s > 0 else 0


def _words(meter: Meter, period: Period, limit: int) -> tuple[str, str]:
    """The name of its policy, quoted, and the policy."""
    title = meter if period is Period.NOW else f"{meter}-{period}"
    name = f'"{title.replace("_", "-")}"'
    window = f";w={_WINDOWS_S[period]}" if period in _WINDOWS_S else ""
    return name, f'{name};q={limit};qu="{_UNITS.get(meter, "tokens")}"{window}'


def over_limit(
    limit: Limit, *, used: int, reserved: int, asked: int, wait_s: float | None, under_way: bool, now: float
) -> OverLimit:
    """The refusal of a request that `limit` has no room for.

    `asked`: at least how much of the limit's meter it needs; `wait_s`: until time alone makes room, None: it never
    does; `under_way`: whether only requests under way are in the way, which may end at any moment; `now`: Unix seconds.
    """
    never = not limit.amount or (wait_s is None and not under_way)
    soon = under_way and not never
    wait = inf if never or wait_s is None else wait_s
    retry_after_s = _retry_after_s(limit, wait, soon=soon)
    until = None if soon or never else _moment(now + wait)
    return OverLimit(
        _message(limit, used, reserved, asked) + _again(until, retry_after_s if soon else None),
        retry_after_s=retry_after_s,
        lasting=not soon and wait > LONGEST_WAIT_S,
        limit=limit,
        used=used,
        until=until,
    )


def _retry_after_s(limit: Limit, wait_s: float, *, soon: bool) -> int:
    if limit.scope.meter is Meter.CONCURRENCY and soon:
        return 1
    return max(ceil(min(wait_s, BUSY_RETRY_S if soon else LONGEST_WAIT_S)), 1)


def _moment(second: float) -> datetime:
    """In whole seconds, never before it."""
    return datetime.fromtimestamp(ceil(second), UTC)


def rfc3339(moment: datetime | float) -> str:
    """Such as `2026-11-22T00:00:00Z`; of Unix seconds the next whole one."""
    at = moment if isinstance(moment, datetime) else _moment(moment)
    return at.isoformat()[:19] + "Z"


def _message(limit: Limit, used: int, reserved: int, asked: int) -> str:
    if not limit.amount:
        return f"{described(limit)} allows nothing"
    if asked > limit.amount:
        return f"{described(limit)} is less than the {asked} that the request asks for"
    if limit.scope.meter is Meter.CONCURRENCY:
        return f"{described(limit)} is reached"
    state = "used up" if used + asked > limit.amount else "taken for now"
    held = f", {reserved} held by requests under way" if reserved else ""
    return f"{described(limit)} is {state}: {used} used{held}, {asked} asked for"


def described(limit: Limit) -> str:
    """For people, such as `the limit of 1000 total tokens a day for llama3:* through openai`."""
    gateway, model, meter, period = limit.scope
    things = f"{limit.amount} {_THINGS[meter]}{'' if limit.amount == 1 else 's'} {_TIMES[period]}"
    return f"the limit of {things}{f' for {model}' if model else ''}{'' if gateway == EVERY else f' through {gateway}'}"


def _again(until: datetime | None, retry_after_s: int | None) -> str:
    if until is not None:
        return f"; more at {rfc3339(until)}"
    return "" if retry_after_s is None else f"; try again in {retry_after_s} s"
