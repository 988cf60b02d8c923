"""What somebody may use in a time, and which of the rules apply to whom. Pure.

A rule is written for a user, a key or a role. What it allows is counted for the user, or for the key: the rules of a
role are those of each user who has it, until the user has one of the same scope.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import NamedTuple
from uuid import UUID

EVERY = "*"
"""The gateway of a rule that all gateways share."""


class Meter(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    """Sent to a node."""
    PROMPT_TOKENS = "prompt_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOTAL_TOKENS = "total_tokens"
    CONCURRENCY = "concurrency"
    """Requests at the same time."""


class Period(StrEnum):
    """The time in which it is counted."""

    MINUTE = "minute"
    """The last 60 seconds, whenever one looks."""
    HOUR = "hour"
    """Of the clock in the deployment's time zone, as the next two."""
    DAY = "day"
    MONTH = "month"
    NOW = "now"
    """For concurrency, and for nothing else."""


class Scope(NamedTuple):
    """What is counted together. Two rules of one scope are two values of one limit."""

    gateway: str
    """A family, or `*`: all of them together."""
    model: str | None
    """A pattern of names of models; None: any."""
    meter: Meter
    period: Period


class Counter(NamedTuple):
    """What has one count."""

    subject: UUID
    """Of a user or a key."""
    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """So much of a scope, for one subject."""

    subject: UUID
    """Of a user or a key; of a role in a template."""
    scope: Scope
    amount: int
    """0: nothing at all."""
    strict: bool = True
    """Whether a request reserves all that it may cost; else an estimate of it, and may go over."""
    open: bool = False
    """Whether requests are let through while nobody can count; else they are refused then."""
    max_output_tokens: int | None = None
    """Most that one answer may have where this limit counts its tokens; None: the default."""

    @property
    def counter(self) -> Counter:
        """Where it is counted."""
        return Counter(self.subject, self.scope)


class Rules(NamedTuple):
    """Rules of one role, and those of the roles above it, the nearest first."""

    role: str
    limits: tuple[tuple[Limit, ...], ...]


def effective(user_id: UUID, own: Iterable[Limit], key: Iterable[Limit], held: Iterable[Rules]) -> tuple[Limit, ...]:
    """All limits of a request: those of its key, those of its user, and of the user's roles what the user has none of,
    counted for the user."""
    return (*(replace(limit, subject=user_id) for limit in of_user(own, held)), *key)


def of_user(own: Iterable[Limit], held: Iterable[Rules]) -> Collection[Limit]:
    """The user's `own` limits, and of the user's roles what the user has none of; the subject of each is whose rule it
    is.

    Of several roles that a user has, the one that allows most of a scope counts; one without a rule allows nothing
    more.
    """
    found: dict[Scope, Limit] = {}
    for rules in held:
        for scope, limit in template(rules.limits).items():
            if scope not in found or found[scope].amount < limit.amount:
                found[scope] = limit
    return {**found, **{limit.scope: limit for limit in own}}.values()


def template(limits: Iterable[Iterable[Limit]]) -> dict[Scope, Limit]:
    """What a role gives, from its own limits and those of each role above it, the nearest first: it has a rule of its
    parent unless it has one of the same scope itself."""
    found: dict[Scope, Limit] = {}
    for limit in chain.from_iterable(limits):
        found.setdefault(limit.scope, limit)
    return found
