"""Times as people type them: spans such as `24h`, and moments as a date, in RFC 3339, or so far from now. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import click

MAX_DAYS = 36_500
"""The longest span; also of the life of a key."""

_SPAN = re.compile(r"([0-9]{1,9})([smhd])|0")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta:
    """Such as 30s, 15m, 24h, 7d or 0. Raises BadParameter for what is no span, or one of more than MAX_DAYS."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no span of time; it must be such as 30s, 15m, 24h, 7d or 0")
    number, unit = found.groups()
    length = timedelta(**{_UNITS[unit]: int(number)}) if unit else timedelta()
    if length > timedelta(days=MAX_DAYS):
        raise click.BadParameter(f"{text!r} is longer than {MAX_DAYS}d")
    return length


def later(text: str | None, zone: str, now: datetime) -> datetime | None:
    """The moment that is meant, spans counted from `now` on; dates begin at midnight in `zone`. None: None is given.

    Raises BadParameter.
    """
    return text if text is None else _moment(text, zone, now, 1)


def earlier(text: str | None, zone: str, now: datetime) -> datetime | None:
    """As `later`, spans counted back from `now`."""
    return text if text is None else _moment(text, zone, now, -1)


def _moment(text: str, zone: str, now: datetime, direction: int) -> datetime:
    if _SPAN.fullmatch(text):
        return now + direction * span(text)
    try:
        moment = datetime.fromisoformat(text)
        if len(text) == len("2026-12-31"):
            moment = datetime.combine(moment, time(), ZoneInfo(zone))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise click.BadParameter(f"{text!r} is no moment; it must be such as 2026-12-31, 2026-12-31T18:00:00Z, 30d or 12h")
