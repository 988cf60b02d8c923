"""What is said to the scripts of counts."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from store_rig import limit

from parallama.ledger import redis_words
from parallama.ledger.redis_words import Spoken, name
from parallama.quotas import policies_of_limits


def test_limits_that_come_again_are_told_in_the_words_that_were_made_first() -> None:
    spoken, limits = Spoken(), (limit(5), limit(7, strict=False))
    words, policies = told = spoken.of(limits)
    assert spoken.of(limits) is told
    assert policies == policies_of_limits(limits)
    assert orjson.loads(orjson.dumps(words)) == [2, *name(limits[0]), 5, 1, *name(limits[1]), 7, 0]


def test_an_amount_that_has_changed_is_told() -> None:
    spoken, limits = Spoken(), (limit(5),)
    spoken.of(limits)
    told = orjson.loads(orjson.dumps(spoken.of((replace(limits[0], amount=6),))[0]))
    assert told == [1, *name(limits[0]), 6, 1]


def test_words_of_callers_who_are_gone_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_words, "_MOST", 3)
    spoken, limits = Spoken(), (limit(5),)
    words = spoken.of(limits)
    for amount in range(3):
        spoken.of((limit(amount),))
    assert spoken.of(limits) is not words
