"""The section `limits` of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallama.config import Settings, load_settings
from parallama.errors import ConfigError


def loaded(directory: Path, text: str) -> Settings:
    path = directory / "config.yaml"
    path.write_text(f"limits: {text}")
    return load_settings(path, environ={})


def test_weights_keep_their_order_and_may_be_fractions(tmp_path: Path) -> None:
    weights = loaded(tmp_path, '{weights: {"z*": 2, "*:70b": 4.5, a: 0.5}}').limits.weights
    assert list(weights.items()) == [("z*", 2), ("*:70b", 4.5), ("a", 0.5)]
    assert Settings().limits.weights == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{weights: {a: 0}}", "limits.weights.a"),
        ("{weights: {a: -1}}", "limits.weights.a"),
        ("{weights: {a: .nan}}", "limits.weights.a"),
        ("{weights: {a: .inf}}", "limits.weights.a"),
        ("{weights: {a: heavy}}", "limits.weights.a"),
        ("{weights: {a: true}}", "limits.weights.a"),
        ("{weights: 3}", "limits.weights"),
        ("{max_output_tokens: 0}", "limits.max_output_tokens"),
        ("{image_tokens: -5}", "limits.image_tokens"),
        ("{max_output_token: 5}", "did you mean limits.max_output_tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, text)
