"""The windows of the calendar for a script that has a clock and no calendar.

The script gets the boundaries of three windows in a row and takes the one in which its own clock is; when it is in none
of them, it says so and gets those of another time. So nobody's clock but that of the server counts.
"""

from __future__ import annotations

import time
from datetime import tzinfo

from parallama.ledger.windows import CALENDAR, window
from parallama.limits import Period


class Windows:
    """Of one time zone."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        now = time.time()
        self._bounds = {period: _bounds(period, now, zone) for period in CALENDAR}
        self.word = " ".join(self._bounds.values())
        """Boundaries of hours, of days and of months."""

    def turn(self, period: Period, moment: float) -> None:
        """Begin with the window in which a moment falls."""
        self._bounds[period] = _bounds(period, moment, self._zone)
        self.word = " ".join(self._bounds.values())


def _bounds(period: Period, moment: float, zone: tzinfo) -> str:
    """Its start, its end, and the ends of the two that follow."""
    here = window(period, moment, zone)
    after = window(period, here.end, zone)
    return f"{here.start} {here.end} {after.end} {window(period, after.end, zone).end}"
