"""One count in memory: what was used and what is reserved of one counter, and until when that matters.

Amounts lie in buckets, each of which time ends as a whole: a calendar window is one bucket, the last minute has one
for every second, concurrency has one that never ends. A charge stays in its bucket, so what is settled after the
bucket has ended touches nothing. Times are Unix seconds; nothing here waits or looks at a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from math import floor, inf
from typing import Protocol

from parallama.ledger.store import Standing
from parallama.ledger.windows import CALENDAR, Window, window
from parallama.limits import Counter, Limit, Period

_MINUTE_S = 61
"""A bucket ends when its last moment is 60 seconds ago."""


class Clock(Protocol):
    """When buckets end."""

    def start(self, now: float) -> float:
        """What ended before that has ended: now, or later where the clock was set back from a later window."""

    def end(self, now: float) -> float:
        """Of what is charged now."""

    def until(self, now: float) -> float:
        """What is charged before that ends with what is charged now."""

    def end_of(self, second: float, now: float) -> float:
        """Of what was charged then."""


class _Minute:
    def start(self, now: float) -> float:
        return now

    def end(self, now: float) -> float:
        return floor(now) + _MINUTE_S

    def until(self, now: float) -> float:
        return floor(now) + 1

    def end_of(self, second: float, now: float) -> float:
        return floor(second) + _MINUTE_S


class _Calendar:
    """Remembers the current window. It never goes back to an earlier one, whose counts are forgotten."""

    def __init__(self, period: Period, zone: tzinfo) -> None:
        self._period = period
        self._zone = zone
        self._window = Window(0, 0)

    def start(self, now: float) -> float:
        return max(now, self._window.start)

    def end(self, now: float) -> float:
        if now >= self._window.end:
            self._window = window(self._period, now, self._zone)
        return self._window.end

    until = end

    def end_of(self, second: float, now: float) -> float:
        end = self.end(now)
        return end if second >= self._window.start else -inf


class _Never:
    def start(self, now: float) -> float:
        return now

    def end(self, now: float) -> float:
        return inf

    until = end

    def end_of(self, second: float, now: float) -> float:
        return -inf


def clocks(zone: tzinfo) -> Mapping[Period, Clock]:
    """One for each period, to be shared by all counts."""
    calendar = {period: _Calendar(period, zone) for period in CALENDAR}
    return {Period.MINUTE: _Minute(), Period.NOW: _Never(), **calendar}


@dataclass(slots=True, eq=False)
class Bucket:
    """What ends together."""

    ends_at: float
    """inf: never."""
    used: int = 0
    reserved: int = 0
    unsure: int = 0
    """Requests that have reserved nothing of it, and may use something."""
    ended: bool = False


class Count:
    """The sums of all buckets that have not ended, as of the last `look`, which is due at `until`.

    What comes now is charged to `bucket`, or to the one that has to `begin`. Whoever does so adds to the sums alone:
    what they are beyond the other buckets is this one's.
    """

    __slots__ = ("_buckets", "_clock", "bucket", "counter", "reserved", "until", "used")

    def __init__(self, counter: Counter, clock: Clock) -> None:
        self.counter = counter
        self._clock = clock
        self._buckets: deque[Bucket] = deque()
        self.bucket: Bucket | None = None
        """The last one; None: nothing has come yet since another one was."""
        self.until = -inf
        """Before that nothing ends, and what comes is charged where it is now."""
        self.used = 0
        self.reserved = 0

    def look(self, now: float) -> None:
        """End what time has ended. Needless before `until`."""
        self._write_down()
        buckets, latest = self._buckets, self._clock.end(now)
        while buckets and buckets[0].ends_at <= self._clock.start(now):
            self._end(buckets.popleft())
        if buckets and buckets[-1].ends_at > latest:
            for bucket in buckets:  # the clock was set back: nothing is younger than what comes now
                bucket.ends_at = min(bucket.ends_at, latest)
        self.bucket = buckets[-1] if buckets and buckets[-1].ends_at == latest else None
        # a float, as every moment is: to compare numbers of two kinds takes longer
        self.until = float(min(self._clock.until(now), buckets[0].ends_at if buckets else inf))

    def doubt(self) -> None:
        """The clock was set back: a look is due, whatever time it is."""
        self.until = -inf

    def begin(self, now: float) -> Bucket:
        """The bucket of what comes now, when there is none."""
        self.bucket = bucket = self._last(self._clock.end(now))
        return bucket

    def take_back(self) -> None:
        """Forget the bucket of now if nothing is in it: it was made for what another limit has refused."""
        self._write_down()
        if (bucket := self.bucket) is not None and not (bucket.used or bucket.reserved or bucket.unsure):
            self._buckets.pop()
            self.bucket = None

    @property
    def awaits(self) -> bool:
        """Whether a request is yet to be settled in it."""
        return self.reserved > 0 or any(bucket.unsure for bucket in self._buckets)

    def settle(self, bucket: Bucket, reserved: int, used: int) -> None:
        """Charge `used` in place of what was reserved, in any bucket."""
        if bucket.ended:
            return
        if not reserved:
            bucket.unsure -= 1
        bucket.reserved -= reserved
        self.reserved -= reserved
        bucket.used += used
        self.used += used

    def fill(self, amounts: Iterable[tuple[float, int]], now: float) -> None:
        """Charge what was used at some seconds, to an empty count. The next look ends what is too old."""
        for second, amount in sorted(amounts):
            self._last(self._clock.end_of(second, now)).used += amount
            self.used += amount
        self.doubt()

    def correct(self, amount: int, now: float) -> None:
        """Charge more now, or less, at least nothing."""
        bucket = self.bucket or self.begin(now)
        self._write_down()
        self.used += max(amount, -bucket.used)

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until time has taken so much away; inf: never."""
        self._write_down()
        for bucket in self._buckets:
            amount -= bucket.used + bucket.reserved
            if amount <= 0:
                return bucket.ends_at - now
        return inf

    def standing(self, limit: Limit, now: float) -> Standing:
        """How a limit of this counter stands."""
        ends_at = self._buckets[-1].ends_at if self._buckets else self._clock.end(now)
        return Standing(limit, self.used, self.reserved, None if ends_at == inf else ends_at)

    def _last(self, ends_at: float) -> Bucket:
        """That ends then, no earlier than all others."""
        buckets = self._buckets
        if not buckets or buckets[-1].ends_at != ends_at:
            buckets.append(Bucket(ends_at))
        return buckets[-1]

    def _write_down(self) -> None:
        """What was charged to the bucket of now."""
        if self.bucket is not None:
            self.bucket.used += self.used - sum([bucket.used for bucket in self._buckets])
            self.bucket.reserved += self.reserved - sum([bucket.reserved for bucket in self._buckets])

    def _end(self, bucket: Bucket) -> None:
        bucket.ended = True
        self.used -= bucket.used
        self.reserved -= bucket.reserved
