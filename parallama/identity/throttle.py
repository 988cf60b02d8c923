"""How often one may try: a sliding window, and waits that double.

In memory and bounded: of the keys used least recently the counts are forgotten. What is counted is up to the caller.
Pure but for the clock.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from ipaddress import ip_address, ip_network
from math import ceil

from parallama.errors import OverLimit

MOST_KEYS = 10_000
"""That one limit remembers."""
_LONGEST_NAME = 64
UNKNOWN = "unknown"
"""The place of those whose address is not known."""


class Limit:
    """At most `most` counted in any `seconds`, for each key."""

    def __init__(
        self, most: int, seconds: float, monotonic: Callable[[], float] = time.monotonic, keys: int = MOST_KEYS
    ) -> None:
        self._most, self._seconds, self._monotonic, self._keys = most, seconds, monotonic, keys
        self._counted: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """The keys that are remembered."""
        return len(self._counted)

    def wait_s(self, key: Hashable, *, but: int = 0) -> float:
        """Seconds until the next may come; 0: now, or once `but` of those counted are taken back."""
        times, now = self._recent(key), self._monotonic()
        return 0.0 if len(times) - but < self._most else max(0.0, self._free_at(times) - now)

    def count(self, key: Hashable) -> None:
        """One more, now."""
        times = self._recent(key)
        times.append(self._monotonic())
        self._counted[key] = times
        self._counted.move_to_end(key)
        if len(self._counted) > self._keys:
            self._counted.popitem(last=False)

    def take_back(self, key: Hashable) -> None:
        """The last that was counted does not count."""
        if times := self._counted.get(key):
            times.pop()

    def forget(self, key: Hashable) -> None:
        """None counts of those so far."""
        self._counted.pop(key, None)

    def _free_at(self, times: deque[float]) -> float:
        """When there is room again, in monotonic seconds; `times`: at least `most`, oldest first."""
        return times[-self._most] + self._seconds

    def _recent(self, key: Hashable) -> deque[float]:
        times, since = self._counted.get(key) or deque(), self._monotonic() - self._seconds
        while times and times[0] <= since:
            times.popleft()
        return times


class Backoff(Limit):
    """`most` are free in any `seconds`; each that follows waits for 1, 2, 4, ... up to `longest_s` after the last."""

    def __init__(
        self,
        most: int,
        seconds: float,
        longest_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        keys: int = MOST_KEYS,
    ) -> None:
        super().__init__(most, seconds, monotonic, keys)
        self._longest_s = longest_s

    def _free_at(self, times: deque[float]) -> float:
        return times[-1] + float(min(self._longest_s, 2 ** min(len(times) - self._most, 32)))


class LoginThrottle:
    """Who may try to log in, by the failures of the account from that place, of the place, and of the account anywhere.

    A try counts as a failure from its beginning until it has `ended` otherwise, so that many at once gain nothing. From
    where an account has logged in before, its failures elsewhere do not count: nobody can lock its owner out. Whether
    it exists is not asked.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, keys: int = MOST_KEYS) -> None:
        self._pairs = Backoff(5, 14_400, 300, monotonic, keys)
        self._places = Limit(30, 60, monotonic, keys)
        self._accounts = Backoff(100, 600, 60, monotonic, keys)
        self._owners: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        self._keys = keys

    def begin(self, account: str, address: str | None) -> None:
        """A try begins, which is to be `ended`. Raises OverLimit when it must wait, and then it is none."""
        account, place = pair = _pair(account, address)
        elsewhere = 0.0 if pair in self._owners else self._accounts.wait_s(account)
        require_room(max(self._pairs.wait_s(pair), self._wait_of(place), elsewhere), "failed logins")
        self._pairs.count(pair)
        self._places.count(place)
        self._accounts.count(account)
        self._under_way[place] += 1

    def ended(self, address: str | None) -> None:
        """A try from there is over, whatever came of it."""
        place = place_of(address)
        self._under_way[place] -= 1
        if self._under_way[place] <= 0:
            del self._under_way[place]

    def _wait_of(self, place: str) -> float:
        wait_s = self._places.wait_s(place)
        # many behind one address who come at once: most will turn out right, and make room
        return min(wait_s, 1.0) if self._places.wait_s(place, but=self._under_way[place]) == 0 else wait_s

    def undo(self, account: str, address: str | None) -> None:
        """The try came to nothing, through no fault of whoever tried."""
        account, place = pair = _pair(account, address)
        self._pairs.take_back(pair)
        self._places.take_back(place)
        self._accounts.take_back(account)

    def succeeded(self, account: str, address: str | None) -> None:
        """The try was right: what failed before it, of the account from there, is forgotten."""
        self.undo(account, address)
        pair = _pair(account, address)
        self._pairs.forget(pair)
        self._owners[pair] = None
        self._owners.move_to_end(pair)
        if len(self._owners) > self._keys:
            self._owners.popitem(last=False)


def _pair(account: str, address: str | None) -> tuple[str, str]:
    # no user has a longer name, and what is remembered must not be
    return account[:_LONGEST_NAME].lower(), place_of(address)


def require_room(wait_s: float, what: str) -> None:
    """Raise OverLimit when there is to be waited."""
    if wait_s > 0:
        seconds = ceil(wait_s)
        raise OverLimit(f"too many {what}: try again in {seconds} s", retry_after_s=seconds)


def place_of(address: str | None) -> str:
    """What counts as one place: an IPv4 address; of IPv6, of which everybody has many, the network of 64 bits."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    mapped = getattr(found, "ipv4_mapped", None)
    if found.version == 4 or mapped:
        return str(mapped or found)
    return str(ip_network((found, 64), strict=False))
