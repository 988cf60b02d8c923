"""The sliding minute."""

import pytest

from parallama.traffic import Traffic


def test_the_rate_and_the_latency_are_those_of_the_last_minute() -> None:
    traffic = Traffic()
    for second in range(120):
        traffic.count("ollama", float(second), 1.0 if second < 60 else 0.5)
    assert traffic.requests_per_second("ollama", 119.0) == pytest.approx(1.0)
    assert traffic.latency_s("ollama", 119.0) == pytest.approx(0.5)
    assert traffic.requests_per_second("ollama", 500.0) == 0
    assert traffic.latency_s("ollama", 500.0) is None


def test_requests_without_a_first_byte_count_but_have_no_latency() -> None:
    traffic = Traffic()
    traffic.count("ollama", 1.0, None)
    assert traffic.requests_per_second("ollama", 1.5) > 0
    assert traffic.latency_s("ollama", 1.5) is None


def test_gateways_are_counted_apart_and_memory_is_bounded() -> None:
    traffic = Traffic()
    for second in range(10_000):
        traffic.count("ollama", float(second), 1.0)
    assert traffic.requests_per_second("other", 9_999.0) == 0
    assert max(len(seconds) for seconds in traffic._seconds.values()) <= 61
