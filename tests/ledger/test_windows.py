"""Calendar windows: no moment without one, none in two, each as long as the clock of the zone says."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallama.ledger import usage
from parallama.ledger.windows import Window, window
from parallama.limits import Period

CALENDAR = (Period.HOUR, Period.DAY, Period.MONTH)
ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})
SINCE, UNTIL = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1972, 2040))
LONGEST = {Period.HOUR: 3600, Period.DAY: 86_400, Period.MONTH: 31 * 86_400}
"""Seconds, where nobody puts the clocks back meanwhile."""


def at(text: str, zone: str, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


@pytest.mark.parametrize(
    ("period", "zone", "moment", "start", "hours"),
    [
        (Period.HOUR, "UTC", "2030-01-31 23:59:59", "2030-01-31 23:00", 1),
        (Period.DAY, "UTC", "2030-01-31 23:59:59", "2030-01-31", 24),
        (Period.MONTH, "UTC", "2030-02-01", "2030-02-01", 28 * 24),
        (Period.MONTH, "UTC", "2032-02-29 12:00", "2032-02-01", 29 * 24),
        (Period.MONTH, "UTC", "2030-12-31 23:59:59", "2030-12-01", 31 * 24),
        (Period.HOUR, "Asia/Kolkata", "2030-05-15 10:59:59", "2030-05-15 10:00", 1),
        (Period.DAY, "Asia/Kathmandu", "2030-05-15 00:00", "2030-05-15", 24),
        (Period.DAY, "Europe/Berlin", "2030-03-31 12:00", "2030-03-31", 23),
        (Period.HOUR, "Europe/Berlin", "2030-03-31 03:10", "2030-03-31 03:00", 1),
        (Period.DAY, "Europe/Berlin", "2030-10-27 12:00", "2030-10-27", 25),
        (Period.MONTH, "Europe/Berlin", "2030-10-01", "2030-10-01", 31 * 24 + 1),
        (Period.DAY, "America/Havana", "2030-11-03 12:00", "2030-11-03", 25),
        (Period.DAY, "Africa/Cairo", "2026-04-24 12:00", "2026-04-24 01:00", 23),
        (Period.HOUR, "Australia/Lord_Howe", "2030-10-06 02:45", "2030-10-06 02:30", 0.5),
        (Period.DAY, "Pacific/Apia", "2011-12-29 12:00", "2011-12-29", 24),
        (Period.DAY, "Pacific/Apia", "2011-12-31 12:00", "2011-12-31", 24),
    ],
)
def test_a_window_is_as_long_as_the_clock_says(
    period: Period, zone: str, moment: str, start: str, hours: float
) -> None:
    begins = at(start, zone)
    assert window(period, at(moment, zone), ZoneInfo(zone)) == Window(begins, begins + int(hours * 3600))


@pytest.mark.parametrize(
    ("zone", "moment", "first", "second"),
    [
        ("Europe/Berlin", "2030-10-27 02:30", "2030-10-27 02:00", "2030-10-27 02:00"),
        ("Australia/Lord_Howe", "2030-04-07 01:45", "2030-04-07 01:00", "2030-04-07 01:30"),
    ],
)
def test_an_hour_that_comes_twice_is_two_windows(zone: str, moment: str, first: str, second: str) -> None:
    one, two = (window(Period.HOUR, at(moment, zone, fold), ZoneInfo(zone)) for fold in (0, 1))
    assert one == Window(at(first, zone), at(second, zone, fold=1))
    assert two.start == one.end


def test_a_moment_between_two_seconds_is_in_the_window_of_the_first() -> None:
    zone = ZoneInfo("UTC")
    assert window(Period.HOUR, 7199.999, zone) == Window(3600, 7200)
    assert window(Period.HOUR, 7200.0, zone) == Window(7200, 10_800)


@pytest.mark.parametrize("period", [Period.MINUTE, Period.NOW])
def test_what_is_no_calendar_window_is_refused(period: Period) -> None:
    with pytest.raises(ValueError, match=period.value):
        window(period, 0, ZoneInfo("UTC"))


@settings(max_examples=400)
@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), st.integers(SINCE, UNTIL))
def test_every_moment_is_in_one_window_and_windows_follow_each_other(period: Period, zone: str, moment: int) -> None:
    _check(period, ZoneInfo(zone), moment)


@pytest.mark.parametrize(
    "zone", ["America/St_Johns", "Europe/Berlin", "Australia/Lord_Howe", "America/Nuuk", "Africa/Cairo"]
)
@pytest.mark.parametrize("period", CALENDAR)
def test_windows_follow_each_other_where_the_clock_changes(period: Period, zone: str) -> None:
    start, step = int(datetime(2009, 1, 1, tzinfo=UTC).timestamp()), 6 * 3600
    for before, after in pairwise(range(start, start + 366 * 86_400, step)):
        offsets = [datetime.fromtimestamp(second, ZoneInfo(zone)).utcoffset() for second in (before, after)]
        if offsets[0] != offsets[1]:
            for moment in range(before, after, 47):
                _check(period, ZoneInfo(zone), moment)


def offset(second: int, zone: ZoneInfo) -> int:
    """From UTC, in seconds."""
    found = datetime.fromtimestamp(second, zone).utcoffset()
    assert found is not None
    return int(found.total_seconds())


def _check(period: Period, zone: ZoneInfo, moment: int) -> None:
    here = window(period, moment, zone)
    assert here.start <= moment < here.end
    put_back = 0 if period is Period.HOUR else max(0, offset(here.start, zone) - offset(here.end, zone))
    assert here.end - here.start <= LONGEST[period] + put_back
    assert window(period, here.start, zone) == window(period, here.end - 1, zone) == here
    assert window(period, here.end, zone).start == here.end
    assert window(period, here.start - 1, zone).end == here.start


@settings(max_examples=200)
@given(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]), st.integers(SINCE, UNTIL))
def test_windows_are_those_of_the_reports(zone: str, moment: int) -> None:
    now = datetime.fromtimestamp(moment, UTC)
    day, hour, until = usage._now(ZoneInfo(zone), now)
    assert window(Period.HOUR, moment, ZoneInfo(zone)).start == hour.timestamp()
    assert window(Period.DAY, moment, ZoneInfo(zone)) == Window(int(day.timestamp()), int(until.timestamp()))
    assert hour + timedelta(hours=1) > now
