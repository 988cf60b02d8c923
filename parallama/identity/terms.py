"""What is on record of a limit, and what it may be: whose it is, what it counts, and its terms. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from parallama.errors import Invalid
from parallama.gateway.names import canonical
from parallama.identity.api_keys import MAX_PATTERN
from parallama.limits import EVERY, Meter, Period, Scope

MAX_AMOUNT = 2**53 - 1
"""Exact in JSON, and in the numbers of Redis' scripts."""
ADMISSIONS = ("strict", "estimate")
OUTAGES = ("closed", "open")
DEFAULTS: Mapping[str, Any] = {"admission": "strict", "outage": "closed", "max_output_tokens": None}
TERMS = ("amount", *DEFAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose limits: exactly one of the three is given."""

    user: str | None = None
    """A name, in whatever case, or an id."""
    key: UUID | None = None
    role: str | None = None
    """A name; its limits are those of each user who has it."""

    def __post_init__(self) -> None:
        if [self.user, self.key, self.role].count(None) != 2:
            raise Invalid("whose limit is it? Give one of user, key and role")

    def __str__(self) -> str:
        if self.key is not None:
            return f"the key {self.key}"
        return f"the role {self.role}" if self.user is None else f"the user {self.user}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRecord:
    """A limit. Of `user`, `key` and `role` one is given: whose it is."""

    id: UUID
    user: str | None
    """The name."""
    key: UUID | None
    role: str | None
    """The name; it holds for each user who has the role and no limit of the same scope."""
    gateway: str
    """A family; `*`: counted over all of them."""
    model: str | None
    """A pattern of names of models; null: any."""
    meter: str
    """`requests`, `prompt_tokens`, `output_tokens`, `total_tokens` or `concurrency`."""
    period: str
    """`minute` (the last 60 seconds), `hour`, `day`, `month` (of the calendar), or `now` for concurrency."""
    amount: int
    """0: nothing at all."""
    admission: str
    """`strict`: a request is let in when all is left that it may cost; `estimate`: when what it probably costs is."""
    outage: str
    """While nobody can count: `closed`, requests are refused; `open`, they are let through."""
    max_output_tokens: int | None
    """Most tokens of one answer, where the limit counts them; null: that of the settings."""
    updated_at: datetime
    version: int
    """Counts the changes."""

    @property
    def scope(self) -> Scope:
        """What it counts."""
        return Scope(self.gateway, self.model, Meter(self.meter), Period(self.period))


LimitRecords = list[LimitRecord]


class Change(NamedTuple):
    """What to make of the limit with a meter and period."""

    meter: str
    period: str
    terms: Mapping[str, Any]
    """`amount` (None: there is to be no limit), `admission`, `outage`, `max_output_tokens`. What is not named stays, or
    gets its default."""


def place(limit: LimitRecord) -> tuple[str, str, str, str, str]:
    """Where a limit stands in the list."""
    whose = f"user {(limit.user or '').lower()}"
    if limit.user is None:
        whose = f"key {limit.key}" if limit.role is None else f"role {limit.role}"
    return whose, limit.gateway, limit.model or "", limit.meter, limit.period


def told(scope: Scope) -> str:
    """Such as `total_tokens per day for openai`."""
    time = "at a time" if scope.period is Period.NOW else f"per {scope.period}"
    gateway = "all gateways" if scope.gateway == EVERY else scope.gateway
    return f"{scope.meter} {time} for {gateway}{f' and {scope.model}' if scope.model else ''}"


def checked_scope(families: Sequence[str], gateway: str, model: str | None, meter: str, period: str) -> Scope:
    """The scope, with a pattern in the one form that stands for all its spellings. Raises Invalid, which names the
    field."""
    checked_gateway(families, gateway)
    _require("meter", meter, list(Meter))
    of_now = meter == Meter.CONCURRENCY
    _require("period", period, [Period.NOW] if of_now else [one for one in Period if one is not Period.NOW])
    return Scope(gateway, kept(model), Meter(meter), Period(period))


def checked_gateway(families: Sequence[str], gateway: str | None) -> None:
    """Raise Invalid for a gateway that there is not; None stands for any."""
    if gateway is not None:
        _require("gateway", gateway, (EVERY, *families))


def kept(model: str | None) -> str | None:
    """A pattern of names of models as it is kept, in one form for all its spellings: a name with its tag, as Ollama
    looks it up, or with wildcards in lower case. Raises Invalid."""
    if model is None:
        return None
    if not model.strip() or len(model) > MAX_PATTERN or not model.isprintable():
        raise Invalid(f"a pattern of models must be 1 to {MAX_PATTERN} printable characters", param="model")
    return model.strip().lower() if any(sign in model for sign in "*?[") else canonical(model)


def checked_terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """A copy. Raises Invalid, which names the term and what it may be."""
    for name, value in terms.items():
        if name not in TERMS:
            raise Invalid(f"a limit has no {name}: only {', '.join(TERMS)}", param=name)
        if name == "admission":
            _require(name, value, ADMISSIONS)
        elif name == "outage":
            _require(name, value, OUTAGES)
        elif value is not None:
            _require_number(name, value, least=1 if name == "max_output_tokens" else 0)
    return dict(terms)


def _require(name: str, value: object, right: Sequence[str]) -> None:
    if value not in right:
        raise Invalid(f"{value!r} is no {name} of such a limit: it must be one of {', '.join(right)}", param=name)


def _require_number(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_AMOUNT:
        raise Invalid(f"{name} must be a whole number from {least} to {MAX_AMOUNT}", param=name)
