"""A word to the operator when four fifths of a limit are used: once for each counter and window, of one process."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from math import inf

from parallama.ledger.store import Standing
from parallama.limits import Counter, Meter
from parallama.metrics import Metrics
from parallama.quotas import described

_COUNTERS = 10_000
"""That are remembered; of more the oldest are warned of again."""

_log = logging.getLogger("parallama.usage")


class Warnings:
    """Which counters it was said of."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said: OrderedDict[Counter, float] = OrderedDict()
        """Until when, in Unix seconds."""

    def look(self, standings: Iterable[Standing]) -> None:
        """Warn of what a request has found, be it let in or not. Of a limit of 0 nothing is used."""
        for standing in standings:
            # a request under way costs just one; of tokens it may cost far less than it has reserved
            taken = standing.used + (standing.reserved if standing.limit.scope.meter is Meter.REQUESTS else 0)
            if standing.limit.amount and taken * 5 >= standing.limit.amount * 4:
                self._warn(standing)

    def _warn(self, standing: Standing) -> None:
        limit, now = standing.limit, time.time()
        if self._said.get(limit.counter, -inf) > now:
            return
        self._said[limit.counter] = inf if standing.reset_at is None else standing.reset_at
        if len(self._said) > _COUNTERS:
            self._said.popitem(last=False)
        self._metrics.limit_warnings.labels(limit.scope.meter.value).inc()
        fields = {"subject": str(limit.subject), "limit": described(limit), "used": standing.used}
        _log.warning("a limit is four fifths used", extra={"fields": fields})
