"""What every codec of lines promises: errors told once, never a false end, and every token counted."""

from __future__ import annotations

from typing import Any

import pytest

from parallama.errors import ApiError, BadRequest, ModelUnknown, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Head, Outbound
from parallama.gateway.lines import json_line
from parallama.gateway.ndjson import NdjsonCodec
from parallama.testing import Transcript, check_codec, inbound

PROMPT = [{"role": "user", "content": "hello"}]
STREAM = Head(200, (("Content-Type", "application/x-ndjson"),))


class Say(NdjsonCodec):
    """Passes texts on, and cannot tell one of them."""

    def line(self, message: dict[str, Any]) -> bytes:
        if message.get("response") == "unspeakable":
            raise UpstreamFailed("this cannot be told")
        return json_line({"text": message.get("response", ""), "done": self.is_last(message)})


def outbound(model: str = "llama3.2:1b", messages: Any = PROMPT, **options: Any) -> Outbound:
    body = {"model": model, "messages": messages, "options": options}
    return Outbound(method="POST", path="/api/chat", model=model, body=body)


def say(*outbounds: Outbound, streams: bool = True) -> Say:
    return Say(inbound(), *(outbounds or (outbound(),)), streams=streams)


def lines(*texts: str, prompt: int | None = 7, output: int | None = 5) -> Transcript:
    counts = {"prompt_eval_count": prompt, "eval_count": output}
    last = {"response": texts[-1], "done": True, **{k: v for k, v in counts.items() if v is not None}}
    return Transcript.stream(*({"response": text, "done": False} for text in texts[:-1]), last)


def answer(codec: Say, transcript: Transcript) -> bytes:
    codec.begin(transcript.head)
    return codec.feed(transcript.body) + codec.finish()


@pytest.mark.parametrize("texts", [("one", "unspeakable"), ("one", "unspeakable", "two"), ("unspeakable",)])
@pytest.mark.parametrize("streams", [True, False])
def test_a_line_that_cannot_be_told_is_an_error_wherever_it_stands(texts: tuple[str, ...], streams: bool) -> None:
    check_codec(lambda: say(streams=streams), lines(*texts))
    codec = say()
    codec.begin(STREAM)
    first, *rest = lines(*texts).body.splitlines(keepends=True)
    said: list[bytes] = []
    with pytest.raises(UpstreamFailed, match="cannot be told") as caught:
        said.extend(codec.feed(piece) for piece in (first, b"".join(rest), b""))
    assert not codec.complete
    assert b"this cannot be told" in codec.fail(caught.value)
    assert (b"one" in b"".join(said)) == (texts[0] == "one")


def test_what_came_before_a_bad_line_in_one_read_goes_out_first() -> None:
    codec = say()
    codec.begin(STREAM)
    assert codec.feed(lines("one", "two").body.splitlines(keepends=True)[0] + b"{nonsense\n") == json_line(
        {"text": "one", "done": False}
    )
    with pytest.raises(UpstreamFailed, match="no JSON"):
        codec.feed(b"more\n")


def test_an_error_of_the_node_is_told_though_the_node_says_no_more() -> None:
    codec = say()
    codec.begin(STREAM)
    with pytest.raises(UpstreamFailed, match="runner died"):
        codec.feed(b'{"error":"runner died"}\n')


def test_answers_to_one_prompt_pay_for_it_once_and_those_to_several_for_each() -> None:
    codec = say(*[outbound(seed=number) for number in range(3)])
    for _ in range(3):
        answer(codec, lines("a"))
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=15, final=True)
    codec = say(outbound(messages=[{"content": "x"}]), outbound(messages=[{"content": "x"}]))
    for _ in range(2):
        answer(codec, lines("a"))
    assert codec.usage == Usage(prompt_tokens=14, output_tokens=10, final=True)


def test_usage_is_no_final_count_until_the_last_answer_is_whole() -> None:
    codec = say(outbound(), outbound())
    answer(codec, lines("a"))
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=5, final=False)
    codec.begin(STREAM)
    codec.feed(Transcript.stream({"response": "12345678", "done": False}).body)
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=7, final=False)


@pytest.mark.parametrize("status", [404, 500, 503])
def test_what_was_answered_is_paid_for_when_the_node_refuses_the_next(status: int) -> None:
    codec = say(outbound(), outbound())
    answer(codec, lines("a"))
    codec.begin(Head(status))
    codec.feed(b'{"error":"no"}')
    with pytest.raises(ApiError):
        codec.finish()
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=5, final=False)


def test_another_node_s_answer_to_the_same_is_counted_alone() -> None:
    codec = say(outbound(), outbound())
    answer(codec, lines("a"))
    codec.begin(STREAM)
    codec.feed(Transcript.stream({"response": "x" * 400, "done": False}).body)
    answer(codec, lines("b"))
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=10, final=True)


@pytest.mark.parametrize(
    ("outputs", "full"),
    [((5, 5), False), ((600, 5), True), ((5, 600), True), ((None, 600), True), ((600, None), True), ((5, None), None)],
)
def test_the_context_was_full_if_it_was_for_one_answer(
    outputs: tuple[int | None, int | None], full: bool | None
) -> None:
    codec = say(outbound(num_ctx=512), outbound(num_ctx=512))
    for output in outputs:
        answer(codec, lines("a", output=output))
    assert (codec.context, codec.context_full) == (512, full)


def test_the_answer_goes_on_only_when_the_one_before_is_whole() -> None:
    codec = say(outbound(), outbound())
    codec.begin(STREAM)
    codec.feed(b'{"response":"a","done":false}\n')
    with pytest.raises(UpstreamFailed, match="before it was complete"):
        codec.finish()


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (400, b'{"error":"bad"}', BadRequest, 400),
        (401, b'{"error":"unauthorized"}', UpstreamFailed, 502),
        (403, b"", UpstreamFailed, 502),
        (407, b"", UpstreamFailed, 502),
        (404, b'{"error":"model \'x\' not found"}', ModelUnknown, 404),
        (404, b"404 page not found", UpstreamFailed, 502),
        (418, b"", UpstreamFailed, 502),
        (503, b"", UpstreamFailed, 503),
    ],
)
def test_a_status_of_the_node_is_the_client_s_only_where_it_is_about_the_request(
    status: int, body: bytes, kind: type[ApiError], told: int
) -> None:
    codec = say()
    codec.begin(Head(status))
    codec.feed(body)
    with pytest.raises(kind) as caught:
        codec.finish()
    assert caught.value.status == told
