"""How fast models generate, of every stream that tells it."""

from __future__ import annotations

from uuid import UUID

import pytest

from parallama.exchange import Exchange, Outcome, Usage
from parallama.metrics import Metrics, generation_speed

LABELS = {"model": "wordy:latest", "node": "node-1"}
SPEED = "parallama_generation_tokens_per_second"


def ended(
    tokens: int | None = 101, *, first_s: float | None = 2.0, final: bool = True, streamed: bool = True
) -> Exchange:
    """One that began at second 100."""
    return Exchange(
        **{"id": UUID(int=0), "client_request_id": None, "gateway": "ollama", "model": "wordy", "node": "node-1"},
        started=100.0,
        first_byte=None if first_s is None else 100.0 + first_s,
        usage=Usage(output_tokens=tokens, final=final),
        streamed=streamed,
        status=200,
        outcome=Outcome.OK,
    )


def test_what_a_model_does_before_its_first_token_is_no_generation() -> None:
    assert generation_speed(ended(101, first_s=2.0), 4.0) == 50.0


@pytest.mark.parametrize(
    ("exchange", "duration_s"),
    [
        (ended(None), 4.0),
        (ended(7), 4.0),
        (ended(final=False), 4.0),
        (ended(streamed=False), 4.0),
        (ended(first_s=None), 4.0),
        (ended(first_s=4.0), 4.0),
    ],
    ids=["uncounted", "short", "estimated", "document", "unanswered", "all at once"],
)
def test_a_stream_that_does_not_tell_its_speed_has_none(exchange: Exchange, duration_s: float) -> None:
    assert generation_speed(exchange, duration_s) is None


def test_speeds_are_counted_by_model_and_node() -> None:
    metrics = Metrics()
    metrics.end([(ended(), 4.0), (ended(), 6.0), (ended(7), 4.0)], {"wordy": "wordy:latest"}.get)
    value = metrics.registry.get_sample_value
    assert value(f"{SPEED}_count", LABELS) == 2
    assert value(f"{SPEED}_sum", LABELS) == 75.0
    assert value(f"{SPEED}_bucket", {**LABELS, "le": "30.0"}) == 1
    assert value(f"{SPEED}_bucket", {**LABELS, "le": "50.0"}) == 2
