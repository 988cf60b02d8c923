"""Hard cases of the wire in every dialect: how the node's bytes come, how the client asks, what neither may see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from asking import Gate, bearer
from dialects import DIALECTS, MODEL, Dialect
from hearing import errors
from raw_http import Got, RawClient, raw_client, request_bytes
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import BUSY, EVERY_BYTE, Answer, FakeOllama, Fault

pytestmark = in_one_loop

MB = 1 << 20
TEXTS = ["Grüße, ", "Welt 🌍", "\u2028\x85\r\n", " und ", "mehr."]
FALSE_ENDS = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete", b'"done":true')

every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
every_event_stream = pytest.mark.parametrize(
    "dialect", [dialect for dialect in DIALECTS if dialect.is_sse], ids=lambda dialect: dialect.path
)


def lines(dialect: Dialect, *texts: str) -> list[bytes]:
    """A node's answer of these texts, a line each, and the last line."""
    counts = {"done_reason": "stop", "prompt_eval_count": 24, "eval_count": 13}
    ends: list[dict[str, Any]] = [{"done": False} for _ in texts]
    ends.append({"done": True, **counts})
    return [
        compact({"model": MODEL, **part(dialect, text), **end}) for text, end in zip([*texts, ""], ends, strict=True)
    ]


def part(dialect: Dialect, text: str) -> dict[str, Any]:
    """The members of a line that say `text`."""
    chat = dialect.node_path == "/api/chat"
    return {"message": {"role": "assistant", "content": text}} if chat else {"response": text}


def compact(line: Any) -> bytes:
    """A line as Go writes it."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@asynccontextmanager
async def asked(
    gateway: RunningGateway, dialect: Dialect, *headers: str, streams: bool = True
) -> AsyncIterator[RawClient]:
    """A connection on which alice has asked in the dialect."""
    async with raw_client(gateway.port) as client:
        question = dialect.asked(streams=streams)
        await client.send(request_bytes("POST", dialect.path, question, bearer(gateway.key), *headers))
        yield client


async def ask(gateway: RunningGateway, dialect: Dialect, *headers: str, streams: bool = True) -> Got:
    async with asked(gateway, dialect, *headers, streams=streams) as client:
        return await client.answer("POST")


def value(got: Got, name: str) -> str:
    (found,) = [value for key, value in got.headers if key.lower() == name] or [""]
    return found


def check_broken(got: Got) -> None:
    """The client is told once, at the end, and never that the answer is whole."""
    assert (got.status, errors(got.body)) == (200, 1)
    assert not [end for end in FALSE_ENDS if end in got.body]


# H.1, H.8: how the node's bytes come


@every_dialect
async def test_a_line_of_9_mb_reaches_the_client_whole(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    # a response says its text five times, and not more than 16 MiB may wait for a client
    text = "x" * (2 if dialect.path.endswith("/responses") else 9) * MB
    node.cue(Answer(lines=lines(dialect, "Oh ", text)))
    heard = dialect.stream((await ask(gateway, dialect)).body)
    assert len(heard.text) == 3 + len(text)
    assert heard.text == "Oh " + text
    assert (await gateway.row())["outcome"] == "ok"


@every_dialect
@pytest.mark.parametrize("streams", [True, False])
async def test_a_node_that_sends_byte_by_byte_is_understood(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect, streams: bool
) -> None:
    if dialect.passes and not streams:
        document = lines(dialect, "".join(TEXTS))[0].replace(b'"done":false', b'"done":true')
        node.cue(Answer(lines=[document], cuts=EVERY_BYTE))
        assert (await ask(gateway, dialect, streams=False)).body == document
        return
    node.cue(Answer(lines=lines(dialect, *TEXTS), cuts=EVERY_BYTE))
    got = await ask(gateway, dialect, streams=streams)
    heard = dialect.stream(got.body) if streams else dialect.document(got.json())
    assert heard.text == "".join(TEXTS)
    assert heard.usage == (24, 13)


@every_dialect
async def test_a_reset_inside_a_line_is_told_in_the_stream(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    broken = lines(dialect, *TEXTS)
    node.cue(Answer(lines=broken, fault=Fault.RESET, after_body=len(broken[0]) + 10))
    check_broken(await ask(gateway, dialect))
    row = await gateway.row()
    assert (row["outcome"], row["status"], row["estimated"]) == ("failed", 502, True)


@every_dialect
async def test_a_client_that_leaves_a_stream_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    gate = Gate()
    node.cue(Answer(lines=lines(dialect, *TEXTS), hold_chunks=gate))
    async with asked(gateway, dialect) as client:
        await client.head()
        await client.chunk()
    seen = await node.request_for(dialect.node_path)
    await asyncio.wait_for(seen.client_left.wait(), 30)
    assert (await gateway.row())["outcome"] == "cancelled"
    gate.set()


# H.9 to H.11: how the client asks


@every_dialect
@pytest.mark.parametrize("streams", [True, False])
async def test_nobody_compresses(gateway: RunningGateway, node: FakeOllama, dialect: Dialect, streams: bool) -> None:
    got = await ask(gateway, dialect, "Accept-Encoding: gzip, deflate, br", streams=streams)
    assert got.status == 200
    assert value(got, "content-encoding") == ""
    assert (await node.request_for(dialect.node_path)).header("accept-encoding") == ""


@every_dialect
async def test_a_large_question_is_asked_for_before_it_is_sent(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    question = json.dumps(dialect.asked(streams=True)).replace("Why?", "x" * MB).encode()
    wanted = request_bytes("POST", dialect.path, question, bearer(gateway.key), "Expect: 100-continue")
    async with raw_client(gateway.port) as client:
        await client.send(wanted.removesuffix(question))
        assert await client.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(question)
        got = await client.answer("POST")
    assert dialect.stream(got.body).text
    assert (await gateway.row())["request_bytes"] == len(question)


@every_dialect
async def test_a_chunked_question_is_read(gateway: RunningGateway, node: FakeOllama, dialect: Dialect) -> None:
    question = json.dumps(dialect.asked(streams=True)).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (question[:5], question[5:], b""))
    head = request_bytes("POST", dialect.path, None, bearer(gateway.key), "Transfer-Encoding: chunked")
    async with raw_client(gateway.port) as client:
        await client.send(head + chunks)
        assert dialect.stream((await client.answer("POST")).body).text


@every_dialect
async def test_questions_that_come_together_are_answered_in_order(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    for text in ("First.", "Second."):
        node.cue(Answer(lines=lines(dialect, text)))
    question = request_bytes("POST", dialect.path, dialect.asked(streams=True), bearer(gateway.key))
    async with raw_client(gateway.port) as client:
        await client.send(question + question)
        heard = [dialect.stream((await client.answer("POST")).body).text for _ in range(2)]
    assert heard == ["First.", "Second."]
    assert [row["outcome"] for row in await gateway.rows(2)] == ["ok", "ok"]


@every_dialect
async def test_an_old_client_reads_a_stream_to_the_end_of_its_connection(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    node.cue(Answer(lines=lines(dialect, *TEXTS)))
    question = request_bytes("POST", dialect.path, dialect.asked(streams=True), bearer(gateway.key))
    async with raw_client(gateway.port) as client:
        await client.send(question.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
        got = await client.answer("POST")
    assert (got.framing, value(got, "transfer-encoding")) == ("close", "")
    assert dialect.stream(got.body).text == "".join(TEXTS)


# H.15: names


@every_dialect
@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "gpt-oss:cloud", "GPT-OSS:Cloud"])
async def test_a_name_of_the_cloud_is_refused(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect, name: str
) -> None:
    question = {**dialect.asked(streams=True), "model": name}
    async with gateway.http.post(gateway.url + dialect.path, json=question, headers=gateway.auth) as answer:
        assert answer.status == 403
        assert "error" in json.loads(await answer.read())
    assert not node.seen(dialect.node_path)


# H.19, H.20: trying again, and ids


@every_dialect
@pytest.mark.parametrize("streams", [True, False])
async def test_each_try_is_a_row_of_its_own_and_is_told_when_to_come_back(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect, streams: bool
) -> None:
    node.cue(Answer(status=503, error=BUSY))
    refused = await ask(gateway, dialect, "x-stainless-retry-count: 0", streams=streams)
    assert refused.status == (529 if "anthropic" in dialect.path else 503)
    assert 0 < int(value(refused, "retry-after")) <= 120
    assert (await ask(gateway, dialect, "x-stainless-retry-count: 1", streams=streams)).status == 200
    failed, done = await gateway.rows(2)
    assert (failed["outcome"], failed["prompt_tokens"], failed["output_tokens"]) == ("failed", None, None)
    assert (done["outcome"], done["estimated"]) == ("ok", False)
    assert done["output_tokens"] >= 1


@every_dialect
@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_has_one_id_and_nothing_of_the_nodes_connection(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect, streams: bool
) -> None:
    theirs = [("Keep-Alive", "timeout=5"), ("Connection", "keep-alive"), ("X-Request-Id", "the node's")]
    node.cue(Answer(lines=lines(dialect, "Hi."), headers=theirs))
    got = await ask(gateway, dialect, streams=streams)
    assert UUID(value(got, "x-request-id")) == (await gateway.row())["id"]
    assert value(got, "keep-alive") == ""
    if "anthropic" in dialect.path:
        assert value(got, "request-id") == value(got, "x-request-id")
