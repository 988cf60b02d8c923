"""The gateway template: what it asks of a node, and that its answers survive every cut and every failure."""

from __future__ import annotations

import aiohttp
import pytest
from parallama_template import CAN, EOT, SYN, Options, TemplateGateway, list_models

from parallama import ApiError, BadRequest, Codec, Head, Inbound, NotFound, UpstreamFailed
from parallama.testing import FakeOllama, Transcript, check_codec, inbound

MODEL = "llama3.2:1b"


def asked(question: bytes = b"Why?", **query: str) -> Inbound:
    return inbound(question, "/ask", query={"model": MODEL, **query}, models=[MODEL])


def opened(question: bytes = b"Why?", options: Options | None = None, **query: str) -> Codec:
    return TemplateGateway(options).ask(asked(question, **query))


def piece(text: str, thinking: str = "") -> dict[str, object]:
    return {"message": {"role": "assistant", "content": text, "thinking": thinking}, "done": False}


END = {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 5}
WHOLE = Transcript.stream(piece("Grüße, "), piece("Welt 🌍"), END)
TRANSCRIPTS = {
    "whole": WHOLE,
    "with thinking": Transcript.stream(piece("", "hm"), piece("So:", "so"), piece(" it is."), END),
    "with our marks in it": Transcript.stream(piece("a\x04b\x16c\x18d"), END),
    "with text in its last line": Transcript.stream(piece("Yes"), {**END, "message": {"content": "."}}),
    "empty": Transcript.stream(END),
    "without its end": Transcript.stream(piece("Grüße")),
    "a runner that died": Transcript.stream(piece("Grüße"), {"error": "out of memory"}),
    "an error first": Transcript.stream({"error": "out of memory"}),
    "broken off": Transcript(body=WHOLE.body[:90], complete=False),
    "an error status": Transcript.document({"error": "model 'x' not found"}, 404),
}


def read(out: bytes) -> list[object]:
    """A stream as its client reads it: characters, then the end, or the error."""
    text, mark, error = out.replace(SYN, b"").partition(CAN)
    if mark and not error.endswith(b"\n"):
        raise ValueError("the error has no end")
    return [*text.decode(), *([error] if mark else [])]


def is_error(event: object) -> bool:
    return isinstance(event, bytes)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_stream_keeps_every_promise(name: str) -> None:
    check_codec(opened, TRANSCRIPTS[name], read=read, is_error=is_error)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_document_keeps_every_promise(name: str) -> None:
    check_codec(lambda: opened(stream="no"), TRANSCRIPTS[name], read=lambda out: [out])


def played(codec: Codec, transcript: Transcript) -> bytes:
    codec.begin(transcript.head)
    return codec.feed(transcript.body) + codec.finish()


def test_a_stream_is_the_text_and_its_end() -> None:
    assert played(opened(), WHOLE) == "Grüße, Welt 🌍".encode() + EOT


def test_a_document_is_the_text() -> None:
    assert played(opened(stream="no"), WHOLE) == "Grüße, Welt 🌍".encode()


def test_thinking_is_kept_back() -> None:
    assert played(opened(), TRANSCRIPTS["with thinking"]) == b"So: it is." + EOT


def test_an_error_after_a_heartbeat_is_told_in_the_stream() -> None:
    codec = opened()
    assert codec.heartbeat == SYN
    codec.begin(Head(404))
    codec.feed(b'{"error":"model not found"}')
    with pytest.raises(ApiError) as raised:
        codec.finish()
    assert codec.fail(raised.value) == CAN + b"model not found\n"


def test_the_system_prompt_of_the_settings_goes_first() -> None:
    (outbound,) = opened(options=Options(system="Be brief.")).outbounds
    assert outbound.body == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("question", "query", "said"),
    [
        (b"", {}, "empty"),
        (b" \n", {}, "empty"),
        (b"\xff", {}, "UTF-8"),
        (b"x" * 11, {}, "over 10 characters"),
        (b"Why?", {"model": ""}, "which model"),
        (b"Why?", {"stream": "maybe"}, "yes or no"),
    ],
)
def test_what_cannot_be_understood_is_refused(question: bytes, query: dict[str, str], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        opened(question, Options(longest=10), **query)


def test_models_are_names_and_nothing_else() -> None:
    codec = list_models(asked())
    assert played(codec, Transcript.document({"models": [{"name": "a"}, {"name": "b"}]})) == b"a\nb\n"
    with pytest.raises(UpstreamFailed):
        played(list_models(asked()), Transcript.document({"models": 1}))


def test_errors_are_one_line_of_text() -> None:
    reply = TemplateGateway().render_error(NotFound("there is nothing here"))
    assert (reply.status, reply.body) == (404, b"not_found: there is nothing here\n")


async def test_an_ollama_understands_the_question(ollama_node: FakeOllama) -> None:
    codec = opened()
    (outbound,) = codec.outbounds
    url = ollama_node.url + outbound.path
    async with aiohttp.request(outbound.method, url, json=outbound.body) as answer:
        codec.begin(Head(answer.status))
        said = codec.feed(await answer.read()) + codec.finish()
    assert said.endswith(EOT)
    assert codec.usage.final
