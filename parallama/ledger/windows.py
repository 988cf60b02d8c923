"""Calendar windows: the hour, the day and the month in which a moment falls, by the clock of a time zone. Pure.

Each begins where the one before it ends, whatever the clock does. An hour that comes twice is two windows, one that
the clock leaves early is shorter; a day has 23 or 25 hours when it must, and begins at its first second even if that
is not midnight.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from math import floor
from typing import NamedTuple

from parallama.limits import Period

CALENDAR = (Period.HOUR, Period.DAY, Period.MONTH)
"""The periods that have windows."""
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60


class Window(NamedTuple):
    """Unix seconds."""

    start: int
    end: int
    """The first that is no longer in it."""


def window(period: Period, moment: float, zone: tzinfo) -> Window:
    """The hour, day or month of a moment, which is in Unix seconds. Raises ValueError for the other periods."""
    second = floor(moment)
    if period is Period.HOUR:
        return _hour(second, zone)
    today = datetime.fromtimestamp(second, zone).date()
    if period is Period.DAY:
        return _around(second, _days(today), zone)
    if period is Period.MONTH:
        return _around(second, _months(today), zone)
    raise ValueError(f"the calendar has no {period.value}")


def _hour(second: int, zone: tzinfo) -> Window:
    """Counted back and forth from the second, as far as the clock has not been changed."""
    local = datetime.fromtimestamp(second, zone)
    start = second - local.minute * _MINUTE_S - local.second
    before, after = range(start, second), range(second + 1, start + _HOUR_S)

    def changed(other: int) -> bool:
        return datetime.fromtimestamp(other, zone).utcoffset() != local.utcoffset()

    return Window(
        start + bisect_left(before, True, key=lambda other: not changed(other)),
        second + 1 + bisect_left(after, True, key=changed),
    )


def _days(today: date) -> list[date]:
    """Yesterday, today and the two that follow: where the clock goes back over midnight the date does too."""
    return [today + timedelta(days=days) for days in (-1, 0, 1, 2)]


def _months(today: date) -> list[date]:
    """The first days of the months around today's, as in `_days`."""
    first = today.replace(day=1)
    return [(first + timedelta(days=days)).replace(day=1) for days in (-1, 0, 31, 62)]


def _around(second: int, days: Iterable[date], zone: tzinfo) -> Window:
    """Between the starts of which two of the days the second falls."""
    starts = [_start(day, zone) for day in days]
    after = bisect_right(starts, second)
    return Window(starts[after - 1], starts[after])


def _start(day: date, zone: tzinfo) -> int:
    """The first second with that date, or with a later one where the clock leaves the day out."""
    midnight = int(datetime.combine(day, time(), UTC).timestamp())
    seconds = range(midnight - _DAY_S, midnight + 2 * _DAY_S)  # no zone is a day away from UTC
    return seconds[bisect_left(seconds, day, key=lambda second: datetime.fromtimestamp(second, zone).date())]
