"""A histogram of ours is told as prometheus_client tells its own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Theirs
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from parallama.histogram import Histogram

BUCKETS = (0.3, 1, 2.5, 1920)
LABELS = ("gateway", "operation")
OBSERVED = [
    *((("ollama", "chat"), value) for value in (0.0, 0.3, 0.30001, 1.0, 2.4, 2.5, 1920.0, 1921.0)),
    (('a "quoted"\\ name', "list"), 0.1),
]


def ours() -> CollectorRegistry:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "How long.", LABELS, buckets=BUCKETS, registry=registry)
    for labels, value in OBSERVED:
        histogram.observe(labels, [value])
    return registry


def theirs() -> CollectorRegistry:
    registry = CollectorRegistry()
    histogram = Theirs("seconds", "How long.", LABELS, buckets=BUCKETS, registry=registry)
    for labels, value in OBSERVED:
        histogram.labels(*labels).observe(value)
    return registry


def lines(exposition: bytes) -> list[str]:
    """Without the moments at which the series began."""
    return [line.rpartition(" ")[0] if "_created{" in line else line for line in exposition.decode().splitlines()]


def test_both_expositions_are_those_of_prometheus_client() -> None:
    assert lines(generate_latest(ours())) == lines(generate_latest(theirs()))
    assert lines(generate_openmetrics(ours())) == lines(generate_openmetrics(theirs()))


def test_values_are_counted_together_as_one_by_one() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "How long.", LABELS, buckets=BUCKETS, registry=registry)
    for labels in dict(OBSERVED):
        histogram.observe(labels, [value for those, value in OBSERVED if those == labels])
    assert lines(generate_latest(registry)) == lines(generate_latest(ours()))


def test_a_value_on_a_bound_is_within_it() -> None:
    samples = {"le": "0.3", "gateway": "ollama", "operation": "chat"}
    assert ours().get_sample_value("seconds_bucket", samples) == 2


def test_a_name_is_taken_once() -> None:
    registry = ours()
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("seconds", "Again.", LABELS, buckets=BUCKETS, registry=registry)


def test_nothing_is_told_of_what_was_not_observed() -> None:
    registry = CollectorRegistry()
    histogram: Collector = Histogram("seconds", "How long.", LABELS, buckets=BUCKETS, registry=registry)
    [family] = histogram.collect()
    assert (family.name, family.samples) == ("seconds", [])
