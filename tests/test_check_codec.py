"""`check_codec` lets good codecs pass and names what is wrong with every kind of bad one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import orjson
import pytest

from parallama.errors import ApiError
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head, Inbound, Outbound
from parallama.gateway.lines import json_line
from parallama.gateway.ndjson import NdjsonCodec
from parallama.testing import Transcript, check_codec, inbound

WORDS = ["Grüße, ", "dies ist ", "ein 😂 ", "Text, ", "der nirgends stehen soll. " * 20]
LINES = [{"response": word, "done": False} for word in WORDS]
LAST = {"response": "", "done": True, "prompt_eval_count": 7, "eval_count": 9}
ANSWER = Transcript.stream(*LINES, LAST)
ASKED = inbound({"model": "m"})


class Say(NdjsonCodec):
    """A good dialect, to be broken: a line `{say}` for each piece, and `{end}`."""

    def __init__(self, request: Inbound = ASKED, *, streams: bool = True) -> None:
        outbound = Outbound(method="POST", path="/api/generate", model="m", body={"prompt": "Sag was"})
        super().__init__(request, outbound, streams=streams)
        self.texts: list[str] = []

    def line(self, message: dict[str, Any]) -> bytes:
        last = self.is_last(message)
        if self.streams:
            return json_line({"end": True} if last else {"say": message["response"]})
        self.texts.append(message["response"])
        return orjson.dumps({"said": "".join(self.texts)}) if last else b""


def broken(make: Callable[[], Codec], transcript: Transcript = ANSWER, **how: Any) -> str:
    """What check_codec says of it."""
    with pytest.raises(AssertionError) as caught:
        check_codec(make, transcript, **how)
    return str(caught.value)


# Good ones


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    "transcript",
    [
        ANSWER,
        Transcript.stream(*LINES),
        Transcript.stream(*LINES, {"error": "the runner died"}),
        Transcript(body=ANSWER.body[:100], complete=False),
        Transcript(body=ANSWER.body, complete=False),
        Transcript(body=ANSWER.body.rstrip()),
        Transcript(body=ANSWER.body + b"\n\n"),
        Transcript(body=ANSWER.body + ANSWER.body),
        Transcript(body=Transcript.stream(*LINES).body + b"<html>\n"),
        Transcript(body=b""),
        Transcript.document({"error": "no such model"}, 404),
    ],
    ids=[
        "whole",
        "no end",
        "error",
        "cut",
        "cut behind its end",
        "no newline",
        "empty lines",
        "twice",
        "no JSON",
        "empty",
        "404",
    ],
)
def test_a_good_codec_passes_whatever_the_node_says(streams: bool, transcript: Transcript) -> None:
    usage = Usage(prompt_tokens=7, output_tokens=9, final=True) if ANSWER.body in transcript.body else None
    check_codec(lambda: Say(streams=streams), transcript, usage=usage)


class Sse(Say):
    """Server-sent events, the last of them `[DONE]`."""

    def line(self, message: dict[str, Any]) -> bytes:
        return b"data: " + (b"[DONE]" if self.is_last(message) else orjson.dumps(message["response"])) + b"\n\n"

    def fail(self, error: ApiError) -> bytes:
        told = super().fail(error)
        return b"event: error\ndata: " + told + b"\n" if told else b""


def read_sse(data: bytes) -> list[Any]:
    *events, rest = data.split(b"\n\n")
    if rest:
        raise ValueError("the last event has no end")
    return events


def is_sse_error(event: bytes) -> bool:
    return event.startswith(b"event: error")


@pytest.mark.parametrize("transcript", [ANSWER, Transcript.stream(*LINES)], ids=["whole", "no end"])
def test_a_dialect_brings_its_own_reader(transcript: Transcript) -> None:
    check_codec(Sse, transcript, read=read_sse, is_error=is_sse_error)


def test_an_answer_that_costs_nothing_counts_nothing() -> None:
    class Passing(Codec):
        outbounds = (Outbound(method="GET", path="/api/tags"),)

        def feed(self, chunk: bytes) -> bytes:
            return chunk

    check_codec(Passing, Transcript.document({"models": [{"name": "Größe"}]}))


# Bad ones


def test_a_byte_lost_at_a_cut_inside_a_character_is_found() -> None:
    class Loses(Say):
        def feed(self, chunk: bytes) -> bytes:
            return super().feed(chunk.decode(errors="ignore").encode())

    said = broken(Loses)
    at = ANSWER.body.index("ü".encode()) + 1
    assert said.startswith((f"cut at {at}: ", "cut at each byte: "))
    assert "the client's bytes differ at 1" in said
    small = broken(Loses, Transcript.stream(LINES[0], LAST))
    assert small.startswith(f"cut at {at}: the client's bytes differ at 11: expected ...b'")


def test_half_a_line_that_is_forgotten_is_found() -> None:
    class Forgets(Say):
        def feed(self, chunk: bytes) -> bytes:
            return super().feed(chunk[: chunk.rfind(b"\n") + 1])

    assert "cut at 1: " in broken(Forgets, Transcript.stream(LINES[0], LAST))


def test_random_cuts_name_their_places_and_the_seed() -> None:
    class MindsTheFifth(Say):
        """Wrong only where there are just five pieces."""

        fed = 0

        def feed(self, chunk: bytes) -> bytes:
            self.fed += 1
            return super().feed(chunk)

        def finish(self) -> bytes:
            return super().finish() + (b"{}\n" if self.fed == 5 else b"")

    said = broken(MindsTheFifth, Transcript.stream(LINES[0], LAST), seed=5)
    place = re.match(r"cut at (\d+(, \d+){3}) \(round (\d+), seed 5\): the client's bytes differ at", said)
    assert place
    assert said == broken(MindsTheFifth, Transcript.stream(LINES[0], LAST), seed=5)
    assert said != broken(MindsTheFifth, Transcript.stream(LINES[0], LAST), seed=6)


def test_a_silent_end_is_found() -> None:
    class Silent(Say):
        def finish(self) -> bytes:
            return b""

    assert "ended after 0 of" in broken(Silent, Transcript.stream(LINES[0], LAST))
    assert "it ends as if it were complete" in broken(Silent)


def test_half_a_document_that_looks_whole_is_found() -> None:
    class Eager(Say):
        def line(self, message: dict[str, Any]) -> bytes:
            self.texts.append(message["response"])
            return b""

        def finish(self) -> bytes:
            return orjson.dumps({"said": "".join(self.texts)})

    said = broken(lambda: Eager(streams=False), ANSWER)
    assert "half a document can be read as a whole one" in said


def test_two_errors_are_found() -> None:
    class Twice(Say):
        def fail(self, error: ApiError) -> bytes:
            return super().fail(error) * 2

    assert "2 errors are told" in broken(Twice)


def test_an_error_that_is_passed_on_and_then_told_again_is_found() -> None:
    class Passes(Say):
        def _message(self, line: bytes | bytearray) -> bytes:
            return super()._message(line) or (bytes(line) + b"\n" if b'"error"' in line else b"")

    assert "2 errors are told" in broken(Passes, Transcript.stream(LINES[0], {"error": "the runner died"}))


def test_a_failure_that_is_not_told_is_found() -> None:
    class Mute(Say):
        def fail(self, error: ApiError) -> bytes:
            return b""

    assert "it ends as if it were complete" in broken(Mute)
    assert (
        broken(Mute, Transcript.stream(LINES[0]))
        == "the whole answer: whether an error is told is False, expected True"
    )


def test_an_error_that_only_the_end_makes_known_is_not_enough() -> None:
    class Late(Say):
        """Tells that the node left out its end, but not that it went away."""

        def fail(self, error: ApiError) -> bytes:
            return b"" if "went away" in str(error) else super().fail(error)

    assert re.fullmatch(r"failed after 0 of \d+ bytes \(seed 0\): no error is told", broken(Late))


def test_an_end_that_is_told_before_it_is_known_is_found() -> None:
    class Done(Sse):
        def line(self, message: dict[str, Any]) -> bytes:
            return b"" if self.is_last(message) else super().line(message)

        def finish(self) -> bytes:
            return super().finish() + b"data: [DONE]\n\n"

    said = broken(Done, read=read_sse, is_error=is_sse_error)
    assert re.fullmatch(r"failed after \d+ of \d+ bytes \(seed 0\): no error is told", said)


def test_an_error_behind_a_complete_answer_is_found() -> None:
    class Tells(Say):
        def fail(self, error: ApiError) -> bytes:
            return json_line({"error": str(error)})

    assert broken(Tells).endswith("follows a complete answer")


def test_an_error_behind_finish_is_found() -> None:
    class Forgets(Say):
        def finish(self) -> bytes:
            said = super().finish()
            self._ended = False
            return said

    said = broken(Forgets)
    assert said.startswith("failed after the end: b'{")
    assert said.endswith("follows a complete answer")


def test_what_follows_an_error_is_found() -> None:
    class Rambles(Say):
        def fail(self, error: ApiError) -> bytes:
            told = super().fail(error)
            return told + json_line({"say": "anyway"}) if told else b""

    assert "the answer goes on after its error" in broken(Rambles)


def test_an_error_line_glued_to_half_a_line_is_found() -> None:
    class Passing(Say):
        def feed(self, chunk: bytes) -> bytes:
            super().feed(chunk)
            return chunk

    said = broken(Passing, Transcript.stream(LINES[0], LAST))
    assert "no client can read it: JSONDecodeError" in said


def test_an_event_that_depends_on_what_comes_later_is_found() -> None:
    class Rewrites(Say):
        def fail(self, error: ApiError) -> bytes:
            return json_line({"say": "sorry"}) + super().fail(error)

    assert "event 0 is {'say': 'sorry'}, in the whole answer {'say': 'Grüße, '}" in broken(Rewrites)


def test_a_falling_estimate_is_found() -> None:
    class Falls(Say):
        def output_estimate(self) -> int:
            return 100 - self._lines

    said = broken(Falls)
    assert said.startswith(f"usage after {ANSWER.body.index(10) + 1} of ")
    assert said.endswith("the estimate of output_tokens falls from 100 to 99")


def test_other_counts_than_the_nodes_are_found() -> None:
    class Miscounts(Say):
        def count(self, prompt: Any, output: Any) -> None:
            super().count(prompt, output + 1)

    said = broken(Miscounts)
    assert "final usage is Usage(prompt_tokens=7, output_tokens=10, final=T" in said
    usage = Usage(prompt_tokens=7, output_tokens=10, final=True)
    check_codec(Miscounts, ANSWER, usage=usage)


def test_an_estimate_that_is_called_final_is_found() -> None:
    class Sure(Say):
        @property
        def usage(self) -> Usage:
            return Usage(prompt_tokens=1, output_tokens=1, final=True)

    assert "usage after 1 of" in broken(Sure)
    assert "final usage is" in broken(Sure)


def test_counts_that_are_missing_at_the_end_are_found() -> None:
    class Unsure(Say):
        def count(self, prompt: Any, output: Any) -> None:
            pass

    assert broken(Unsure).startswith("usage at the end: usage is Usage(prompt_tokens=1")


def test_shared_state_is_found() -> None:
    class Shares(Say):
        memory: ClassVar[list[str]] = []

        def __init__(self) -> None:
            super().__init__(streams=False)
            self.memory.clear()
            self.texts = self.memory

    assert broken(Shares).startswith("two codecs at a time: ")


@pytest.mark.parametrize(
    ("act", "event"),
    [(lambda: open(os.devnull).close(), "open"), (lambda: socket.socket().close(), "socket.__new__")],
    ids=["a file", "a socket"],
)
def test_input_and_output_is_found(act: Callable[[], None], event: str) -> None:
    class Acts(Say):
        def line(self, message: dict[str, Any]) -> bytes:
            act()
            return super().line(message)

    assert broken(Acts) == f"listening: the codec does I/O: {event}"
    act()  # nobody listens any more


def test_what_is_no_bytes_is_found() -> None:
    class Text(Say):
        def feed(self, chunk: bytes) -> bytes:
            return chunk.decode()  # type: ignore[return-value]

    assert broken(Text) == "the whole answer: feed() returned a str, not bytes"


def test_an_exception_that_is_no_api_error_passes_with_a_note_of_the_place() -> None:
    class Trips(Say):
        def feed(self, chunk: bytes) -> bytes:
            if len(chunk) == 1:
                raise KeyError("x")
            return super().feed(chunk)

    with pytest.raises(KeyError) as caught:
        check_codec(Trips, Transcript.stream(LINES[0], LAST))
    assert caught.value.__notes__ == ["check_codec: cut at 1"]


def test_a_head_that_is_not_the_same_each_time_is_found() -> None:
    class Changes(Say):
        made: ClassVar[list[int]] = []

        def begin(self, head: Head) -> Head:
            self.made.append(1)
            super().begin(head)
            return Head(200 + len(self.made) % 2)

    assert "head is Head(status=200" in broken(Changes)


def test_a_message_shows_no_more_than_a_few_bytes_of_the_answer() -> None:
    class Ends(Say):
        """Loses the last byte of a long text, wherever it is cut."""

        def feed(self, chunk: bytes) -> bytes:
            said = super().feed(chunk)
            return said if len(chunk) == len(ANSWER.body) else said.replace(b'soll. "}', b'soll."}')

    class Other(Say):
        """Tells another text when it fails."""

        def fail(self, error: ApiError) -> bytes:
            return json_line({"say": WORDS[-1]}) + super().fail(error)

    for make in (Ends, Other):
        said = broken(make)
        assert len(said) < 200
        assert said.count("nirgends") < 3


def test_the_builder_makes_what_a_route_gets() -> None:
    made = inbound(
        "Grüße", "/ask/m", params={"model": "m"}, headers={"X-Odd": "1"}, models=["llama3.2:1b", "nomic-embed-text"]
    )
    assert (made.method, made.path, made.params["model"], made.raw) == ("POST", "/ask/m", "m", b'"Gr\\u00fc\\u00dfe"')
    assert made.headers["x-odd"] == "1"
    assert made.models.exists("library/LLAMA3.2:1b")
    assert not made.models.exists("mistral")
    assert made.models.capabilities("nomic-embed-text:latest") == {"embedding"}
    assert made.models.context("llama3.2:1b") == 4096
    assert (inbound(b"\xff").raw, inbound().raw, inbound({"a": 1}).raw) == (b"\xff", b"", b'{"a": 1}')
    assert (made.models.context("x"), made.models.capabilities("x")) == (None, frozenset())
