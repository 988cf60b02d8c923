"""How much context a model had for an answer, and whether it was full: told to clients, rows, log and metrics."""

import logging

import orjson
import pytest
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from running import RunningGateway, eventually

from parallama.app import BOOKS
from parallama.testing import Answer, FakeOllama

MODEL = "llama3.2:1b"
SAID = [{"role": "user", "content": "hello"}]
SETTINGS = {
    "gateways": {
        family: {"model_mappings": {"small": {"model": MODEL, "num_ctx": 512}}}
        for family in ("ollama", "openai", "anthropic")
    }
}
ASKS = {
    "native": ("/api/chat", {"messages": SAID}, False),
    "simple": ("/ollama/v1/chat", {"messages": SAID}, True),
    "openai": ("/v1/chat/completions", {"messages": SAID}, True),
    "responses": ("/v1/responses", {"input": "hello"}, True),
    "anthropic": ("/v1/messages", {"messages": SAID, "max_tokens": 400}, True),
}
ask = pytest.mark.parametrize(("path", "body", "node_streams"), ASKS.values(), ids=ASKS)
pytestmark = [in_one_loop, pytest.mark.parametrize("gateway_settings", [SETTINGS], ids=[""])]


def counted(prompt: int, output: int, *, streams: bool) -> Answer:
    """An answer with these counts."""
    message = {
        "model": MODEL,
        "created_at": "2026-11-21T01:55:54Z",
        "message": {"role": "assistant", "content": "Yes."},
    }
    last = {"done": True, "done_reason": "stop", "prompt_eval_count": prompt, "eval_count": output}
    if streams:
        lines = [{**message, "done": False}, {**message, "message": {"role": "assistant", "content": ""}, **last}]
        return Answer(lines=[orjson.dumps(line) + b"\n" for line in lines])
    document = orjson.dumps({**message, **last})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    return Answer(raw=[head % len(document) + document])


@ask
@pytest.mark.parametrize(
    ("prompt", "output", "full"),
    [(100, 20, "false"), (500, 12, "true"), (259, 20, "true")],
    ids=["room", "full", "cut"],
)
async def test_one_document_tells_it_in_its_head(
    gateway: RunningGateway,
    node: FakeOllama,
    path: str,
    body: dict[str, object],
    node_streams: bool,
    prompt: int,
    output: int,
    full: str,
) -> None:
    node.cue(counted(prompt, output, streams=node_streams))
    asked = {"model": "small", "stream": False, **body}
    async with gateway.http.post(gateway.url + path, json=asked, headers=gateway.auth) as got:
        assert got.status == 200, await got.text()
        assert (got.headers["x-parallama-context"], got.headers["x-parallama-context-full"]) == ("512", full)
    assert (await gateway.row())["context_full"] is (full == "true")


@ALONE
@ask
async def test_a_stream_tells_it_in_the_row_the_log_and_the_metrics(
    gateway: RunningGateway,
    node: FakeOllama,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, object],
    node_streams: bool,
) -> None:
    caplog.set_level(logging.INFO, "parallama.api")
    node.cue(counted(500, 12, streams=True))
    async with gateway.http.post(
        gateway.url + path, json={"model": "small", "stream": True, **body}, headers=gateway.auth
    ) as got:
        assert got.status == 200, await got.text()
        assert "x-parallama-context-full" not in got.headers
        await got.read()
    row = await gateway.row()
    assert (row["context_full"], row["streamed"]) == (True, True)
    (line,) = [record.fields for record in caplog.records if record.name == "parallama.api"]
    assert line["context_full"] is True
    async with gateway.http.get(gateway.url + "/metrics", headers=gateway.admin_auth) as got:
        metrics = await got.text()
    assert f'parallama_context_full_total{{gateway="{row["gateway"]}",model="{MODEL}"}} 1.0' in metrics


@pytest.mark.parametrize(("prompt", "full"), [(100, "false"), (131_060, "true")])
async def test_no_model_is_given_more_context_than_it_was_trained_for(
    gateway: RunningGateway, node: FakeOllama, prompt: int, full: str
) -> None:
    node.cue(counted(prompt, 12, streams=False))
    asked = {"model": MODEL, "messages": SAID, "stream": False, "options": {"num_ctx": 1_000_000}}
    async with gateway.http.post(gateway.url + "/api/chat", json=asked, headers=gateway.auth) as got:
        assert got.status == 200, await got.text()
        assert (got.headers["x-parallama-context"], got.headers["x-parallama-context-full"]) == ("131072", full)


@ALONE
async def test_the_context_of_a_model_that_was_just_loaded_is_soon_known(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    async def tells() -> bool:
        asked = {"model": MODEL, "messages": SAID, "stream": False}
        async with gateway.http.post(gateway.url + "/api/chat", json=asked, headers=gateway.auth) as got:
            await got.read()
            return got.headers.get("x-parallama-context") == str(node.models.loaded()[0]["context_length"])

    await eventually(tells)
    gateway.app[BOOKS].settle()
