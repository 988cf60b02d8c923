"""A histogram that costs little to observe: told as prometheus_client's own is, counted in plain numbers.

Its own searches along the buckets and takes two locks for each observation. This one belongs to one thread, which
observes and collects.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

_TELLS_CREATED = os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")
"""As of the other instruments."""


class _Series:
    """What was observed under the same labels."""

    __slots__ = ("counts", "created", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0
        self.created = time.time()


class Histogram(Collector):
    """One instrument on `registry`; `buckets` are the upper bounds, rising, without infinity."""

    def __init__(
        self, name: str, about: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._bounds = (*map(float, buckets), inf)
        self._written = (*map(str, self._bounds[:-1]), "+Inf")
        self._series: dict[tuple[str, ...], _Series] = {}
        registry.register(self)

    def observe(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        """Count what was observed under these values of the labels."""
        series, bounds = self._series.get(labels) or self._begin(labels), self._bounds
        counts = series.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        series.total += sum(values)

    def _begin(self, labels: tuple[str, ...]) -> _Series:
        series = self._series[labels] = _Series(len(self._bounds))
        return series

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Its name, for the registry."""
        return [HistogramMetricFamily(self._name, self._about, labels=self._labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """All series: buckets, each with those below it, then count, sum and since when."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, series in self._series.items():
            family.add_metric(labels, list(zip(self._written, accumulate(series.counts), strict=True)), series.total)
            if _TELLS_CREATED:
                named = dict(zip(self._labels, labels, strict=True))
                family.add_sample(f"{self._name}_created", named, series.created)
        return [family]
