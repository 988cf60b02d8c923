"""A sliding minute of each gateway's traffic: how many requests, how long to the first byte."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

WINDOW_S = 60
"""What `GET /status` reports on."""


@dataclass(slots=True)
class _Second:
    at: int
    requests: int = 0
    answered: int = 0
    first_byte_s: float = 0.0


class Traffic:
    """Counts by second; `now` is monotonic seconds and never falls."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, deque[_Second]] = defaultdict(lambda: deque(maxlen=WINDOW_S + 1))

    def count(self, gateway: str, now: float, first_byte_s: float | None) -> None:
        """One request of `gateway` has ended; `first_byte_s` from accept to its first byte, None without one."""
        seconds = self._seconds[gateway]
        if not seconds or seconds[-1].at != int(now):
            seconds.append(_Second(int(now)))
        second = seconds[-1]
        second.requests += 1
        if first_byte_s is not None:
            second.answered += 1
            second.first_byte_s += first_byte_s

    def requests_per_second(self, gateway: str, now: float) -> float:
        """Over the window."""
        return sum(second.requests for second in self._recent(gateway, now)) / WINDOW_S

    def latency_s(self, gateway: str, now: float) -> float | None:
        """Mean time to the first byte over the window; None when nothing was answered."""
        recent = self._recent(gateway, now)
        answered = sum(second.answered for second in recent)
        return sum(second.first_byte_s for second in recent) / answered if answered else None

    def _recent(self, gateway: str, now: float) -> list[_Second]:
        return [second for second in self._seconds.get(gateway, ()) if second.at > now - WINDOW_S]
