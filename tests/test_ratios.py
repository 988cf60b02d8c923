"""Estimates of tokens, by what the nodes counted for other prompts."""

import random

import pytest

from parallama.exchange import Exchange, IdGenerator, Usage
from parallama.gateway.api import Outbound
from parallama.gateway.counting import CountedCodec
from parallama.proxy.ratios import TokenRatios
from parallama.testing import inbound


def test_where_nothing_is_known_four_bytes_are_a_token() -> None:
    ratios = TokenRatios()
    assert [ratios.tokens("m", size) for size in (0, 1, 4, 400)] == [1, 1, 1, 100]


def test_the_estimate_follows_the_counts_of_the_model_and_of_no_other() -> None:
    ratios = TokenRatios()
    dice = random.Random(1)
    for _ in range(100):
        size = dice.randrange(10, 5000)
        ratios.learn("m:latest", size, 26 + round(size / 3.2))
    for size in (0, 100, 3000, 20000):
        assert abs(ratios.tokens("M", size) - (26 + size / 3.2)) <= 1 + size / 1000
    assert ratios.tokens("other", 400) == 100


def test_a_short_text_costs_the_template_s_share_and_more_text_never_less() -> None:
    ratios = TokenRatios()
    for _ in range(5):
        ratios.learn("m:latest", 20, 31)
    sizes = [ratios.tokens("m", size) for size in (0, 5, 20, 100, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] > 20
    assert sizes[2] == 31


def test_strange_counts_break_nothing() -> None:
    ratios = TokenRatios()
    for size, tokens in ((0, 1), (10**9, 1), (1, 10**9), (5, 5)):
        ratios.learn("m:latest", size, tokens)
        assert ratios.tokens("m", 100) >= 1


def test_models_are_forgotten_so_that_memory_is_bounded() -> None:
    ratios = TokenRatios()
    for number in range(2000):
        ratios.learn(f"m{number}:latest", 100, 90)
    assert ratios.tokens("m1999", 100) == 90
    assert ratios.tokens("m0", 100) == 25


class Quiet(CountedCodec):
    def feed(self, chunk: bytes) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("full", "final", "images", "learns"),
    [
        (False, True, False, True),
        (None, True, False, True),
        (True, True, False, False),
        (False, False, False, False),
        (False, True, True, False),
    ],
)
def test_only_prompts_that_were_counted_whole_are_learnt_from(
    full: bool | None, final: bool, images: bool, learns: bool
) -> None:
    message = {"role": "user", "content": "x" * 400, **({"images": ["aaaa"]} if images else {})}
    body = {"model": "m", "messages": [message]}
    codec = Quiet(inbound(), Outbound(method="POST", path="/api/chat", model="m", body=body))
    exchange = Exchange(id=IdGenerator()(), client_request_id=None, gateway="g", model="m", context_full=full)
    exchange.usage = Usage(prompt_tokens=200, output_tokens=1, final=final)
    ratios = TokenRatios()
    ratios.learn_from(codec, exchange)
    assert (ratios.tokens("m", 404) > 150) is learns
