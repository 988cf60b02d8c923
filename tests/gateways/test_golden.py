"""Golden transcripts: one answer of a node, and what a client of each dialect reads of it, byte for byte.

    PARALLAMA_TRANSCRIPTS=write .venv/bin/python -m pytest tests/gateways/test_golden.py

writes tests/gateways/transcripts anew; what has changed is then to be read in the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from answers import ANSWERS, NodeAnswer
from dialects import DIALECTS, Dialect, Rendered, render

FOLDER = Path(__file__).parent / "transcripts"
WRITE = os.environ.get("PARALLAMA_TRANSCRIPTS") == "write"


def pairs() -> list[tuple[NodeAnswer, Dialect]]:
    return [(answer, dialect) for answer in ANSWERS for dialect in DIALECTS if dialect.node_path == answer.node_path]


def label(value: object) -> str:
    return value.path if isinstance(value, Dialect) else value.name if isinstance(value, NodeAnswer) else str(value)


def ways(answer: NodeAnswer, dialect: Dialect) -> list[bool]:
    """Whether a client wants a stream: both; natively, whatever the node has answered with."""
    ndjson = answer.transcript.head.header("content-type") == "application/x-ndjson"
    return [ndjson] if dialect.passes else [True, False]


def section(title: str, body: bytes) -> bytes:
    end = b"" if body.endswith(b"\n") else b"\n"
    return f"======== {title}, {len(body)} bytes\n".encode() + body + end + b"\n"


def transcript(answer: NodeAnswer) -> bytes:
    """The file: the node's bytes, and then for each dialect the client's, as a stream and as a document."""
    node = answer.transcript
    kind = f"{node.head.status} {node.head.header('content-type')}{'' if node.complete else ', then broken off'}"
    text = section(f"{answer.node_path} of the node: {kind}", node.body)
    for dialect in DIALECTS:
        for streams in ways(answer, dialect) if dialect.node_path == answer.node_path else ():
            got = render(dialect, node, streams=streams, logprobs=answer.logprobs)
            wanted = "stream" if streams else "document"
            text += section(f"{dialect.path} {wanted}: {got.status} {got.content_type}", got.body)
    return text


@pytest.mark.parametrize("answer", ANSWERS, ids=label)
def test_every_dialect_says_what_the_transcript_says(answer: NodeAnswer) -> None:
    path = FOLDER / f"{answer.name}.txt"
    if WRITE:
        path.write_bytes(transcript(answer))
    assert transcript(answer) == path.read_bytes()


def test_there_is_no_transcript_of_anything_else() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == sorted(answer.name for answer in ANSWERS)


@pytest.mark.parametrize(("answer", "dialect"), pairs(), ids=label)
def test_a_stream_and_a_document_say_the_same(answer: NodeAnswer, dialect: Dialect) -> None:
    if dialect.passes:
        (streams,) = ways(answer, dialect)
        passed = render(dialect, answer.transcript, streams=streams)
        assert passed.body.startswith(answer.transcript.body)
        return
    streamed, whole = (render(dialect, answer.transcript, streams=streams) for streams in (True, False))
    if whole.status >= 400:
        check_failure(streamed)
    else:
        assert dialect.stream(streamed.body) == dialect.document(json.loads(whole.body))


def check_failure(streamed: Rendered) -> None:
    """The client is told once, and never that the answer is whole."""
    assert streamed.told_error() == 1
    ends = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete", b'"done":true')
    assert not [end for end in ends if end in streamed.body]


@pytest.mark.parametrize(("answer", "dialect"), [pair for pair in pairs() if pair[1].is_sse], ids=label)
def test_every_event_is_whole_on_its_lines(answer: NodeAnswer, dialect: Dialect) -> None:
    """Clients drop an event without its blank line; others end lines at a bare return, and choke on a BOM."""
    got = render(dialect, answer.transcript, streams=True, logprobs=answer.logprobs)
    if got.streams:
        assert got.body.endswith(b"\n\n")
        assert b"\r" not in got.body
        assert not got.body.startswith(b"\xef\xbb\xbf")
        assert all(line.startswith((b"data: ", b"event: ", b": ")) for line in got.body.split(b"\n") if line)
