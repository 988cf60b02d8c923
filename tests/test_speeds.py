"""What is made of an exchange that was cut off before its node counted, with the time passed in."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from parallama.exchange import Exchange, Usage
from parallama.gateway.api import Outbound, Use
from parallama.nodes.catalog import Catalog
from parallama.proxy.speeds import Speeds

MODEL = "wordy"


def exchange(**known: Any) -> Exchange:
    return Exchange(id=UUID(int=0), client_request_id=None, gateway="ollama", model=MODEL, node="node-1", **known)


def asks(**body: Any) -> Outbound:
    whole = {"model": MODEL, "prompt": "four" * 5, "stream": False, **body}
    return Outbound(method="POST", path="/api/generate", model=MODEL, body=whole)


@pytest.fixture
def speeds() -> Speeds:
    """Of a model that says 50 tokens a second."""
    speeds = Speeds(Catalog(), otherwise=4096)
    for tokens in (5, 10, 50, 5000):
        usage = Usage(prompt_tokens=1, output_tokens=tokens, final=True)
        speeds.learn_from(exchange(usage=usage), 1.0)
    return speeds


def cut(
    speeds: Speeds, outbound: Outbound, asked_s: float | None, use: Use = Use.GENERATE, **known: Any
) -> tuple[int | None, int | None, bool]:
    one = exchange(**known)
    speeds.estimate(one, use, [outbound], asked_s)
    return one.usage.prompt_tokens, one.usage.output_tokens, one.usage.final


def test_a_document_has_what_the_model_says_in_its_time(speeds: Speeds) -> None:
    assert cut(speeds, asks(), 2.0) == (5, 100, False)


def test_no_document_has_more_than_its_client_asks_for(speeds: Speeds) -> None:
    assert cut(speeds, asks(options={"num_predict": 7}), 600.0) == (5, 7, False)
    assert cut(speeds, asks(options={"num_predict": 9000}), 600.0) == (5, 9000, False)


@pytest.mark.parametrize("options", [None, {}, {"num_predict": -1}, {"num_predict": 0}])
def test_who_asks_for_no_number_has_at_most_the_default(speeds: Speeds, options: dict[str, Any] | None) -> None:
    assert cut(speeds, asks(options=options), 600.0) == (5, 4096, False)


def test_no_document_has_more_than_was_reserved_for_it(speeds: Speeds) -> None:
    assert cut(speeds, asks(), 600.0, output_bound=30) == (5, 30, False)


def test_a_stream_that_has_said_nothing_has_its_prompt_alone(speeds: Speeds) -> None:
    for streaming in (asks(stream=True), asks(stream=None)):
        assert cut(speeds, streaming, 600.0) == (5, None, False)


def test_what_was_said_is_not_estimated_anew(speeds: Speeds) -> None:
    said = Usage(prompt_tokens=3, output_tokens=9)
    assert cut(speeds, asks(stream=True), 600.0, usage=said) == (3, 9, False)
    assert cut(speeds, asks(), 600.0, usage=Usage(prompt_tokens=3, output_tokens=9, final=True)) == (3, 9, True)


def test_what_no_node_was_asked_has_cost_nothing(speeds: Speeds) -> None:
    assert cut(speeds, asks(), None) == (None, None, False)


def test_what_costs_no_tokens_has_none(speeds: Speeds) -> None:
    assert cut(speeds, asks(), 2.0, Use.SHOW) == (None, None, False)
    assert cut(speeds, asks(), 2.0, Use.EMBED) == (5, None, False)


def test_the_output_of_a_model_whose_speed_is_unknown_is_unknown() -> None:
    speeds = Speeds(Catalog(), otherwise=4096)
    speeds.learn_from(exchange(usage=Usage(output_tokens=100)), 1.0)  # an estimate teaches nothing
    assert cut(speeds, asks(), 2.0) == (5, None, False)


def test_under_a_limit_a_model_whose_speed_is_unknown_is_not_free() -> None:
    speeds = Speeds(Catalog(), otherwise=4096)
    assert cut(speeds, asks(), 2.0, output_bound=4096) == (5, 200, False)
    assert cut(speeds, asks(), 2.0, output_bound=30) == (5, 30, False)
    assert cut(speeds, asks(stream=True), 2.0, output_bound=30) == (5, None, False)
