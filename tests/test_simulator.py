"""The simulator against a raw client, the official client, and the recordings of a real Ollama."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from raw_http import Got, RawClient, raw_client, request_bytes

from parallama.simulated.models import Model
from parallama.simulated.recordings import Recording, load_recording
from parallama.simulator import Simulator
from parallama.testing import Answer, fake_ollama

RECORDINGS = Path(__file__).parent / "recordings"
CHAT, THINKER, VECTORS = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        },
    },
}


@pytest.fixture
async def node() -> AsyncIterator[Simulator]:
    async with Simulator() as node:
        yield node


@pytest.fixture
async def raw(node: Simulator) -> AsyncIterator[RawClient]:
    async with raw_client(node.port) as client:
        yield client


@pytest.fixture
async def client(node: Simulator) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(node.url)
    yield client
    await client._client.aclose()


def ask(**given: Any) -> dict[str, Any]:
    return {"model": CHAT, "prompt": "Why is the sky blue?", "stream": False, **given}


def said(messages: str, **given: Any) -> dict[str, Any]:
    return {"model": CHAT, "messages": [{"role": "user", "content": messages}], **given}


# The shape of a real Ollama's answers


def shape(value: Any) -> Any:
    """Keys in order, all the way down; of a list only the first item, of numbers and texts only the kind."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def document_shape(data: bytes) -> str:
    try:
        found = json.loads(data)
    except ValueError:
        return data.decode()
    if "model_info" in found:
        found |= {"model_info": {}, "tensors": [], "system": ""}
    return json.dumps(shape(found))  # as text, since equal dicts may differ in the order of their keys


def kinds(chunks: list[bytes]) -> list[str]:
    """The shapes of the chunks, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(document_shape(chunk) for chunk in chunks))


def assert_like(got: Got, real: Recording) -> None:
    head = (real.head or b"").decode()
    assert got.status_line == head.split("\r\n")[0]
    assert [name for name, _ in got.headers] == [name for name, _ in real.headers]
    types = [value for name, value in got.headers if name in ("Content-Type", "Allow", "Location")]
    assert types == [value for name, value in real.headers if name in ("Content-Type", "Allow", "Location")]
    assert got.framing == real.framing
    assert kinds(got.chunks or [b""]) == kinds(list(real.chunks) or [b""])


OURS = {
    '"wordy"': f'"{CHAT}"',
    '" wordy "': f'" {CHAT} "',
    '"wordy-tools"': f'"{CHAT}"',
    '"wordy-think"': f'"{THINKER}"',
    '"endless"': f'"{CHAT}"',
    '"vectors"': f'"{VECTORS}"',
    '"127.0.0.1:11450/library/wordy"': f'"{CHAT}"',
}
"""The recorded models and the ones of the simulator."""


def translated(real: Recording) -> bytes:
    """The recorded request, made for our models."""
    body = (real.request_body or b"").decode()
    for theirs, ours in OURS.items():
        body = body.replace(theirs, ours)
    head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body.encode()), real.request_head)
    return head + body.encode()


@pytest.mark.parametrize(
    "name",
    [
        "chat-404-model",
        "chat-once",
        "chat-stream",
        "chat-think-once",
        "chat-think-stream",
        "chat-think-unsupported",
        "copy",
        "copy-404",
        "create-from-once",
        "create-from-stream",
        "create-no-source",
        "delete",
        "delete-404",
        "embed-completion-model",
        "embed-dimensions",
        "embed-wrong-type",
        "embeddings-old",
        "generate-404-model",
        "generate-bad-json",
        "generate-bad-model-name",
        "generate-empty-body",
        "generate-form-content-type",
        "generate-get",
        "generate-json",
        "generate-keep-alive-bad",
        "generate-length",
        "generate-load",
        "generate-no-model",
        "generate-once",
        "generate-stop",
        "generate-stream",
        "generate-unload",
        "generate-wrong-option-type",
        "host-foreign",
        "http-connection-close",
        "json-bom",
        "json-chat-content-array",
        "json-model-spaces",
        "json-model-then-null",
        "json-model-twice",
        "json-model-twice-case",
        "json-option-name-upper",
        "json-options-long-s",
        "json-options-string",
        "json-options-upper",
        "json-stop-string",
        "json-stream-string",
        "json-two-documents",
        "origin-foreign",
        "pull-empty",
        "pull-once",
        "push-stream",
        "root-get",
        "root-head",
        "show",
        "show-404",
        "show-empty",
        "trailing-slash",
        "unknown-path",
        "version",
    ],
)
async def test_an_answer_has_the_head_the_framing_and_the_keys_of_a_real_one(
    name: str, node: Simulator, raw: RawClient
) -> None:
    real = load_recording(RECORDINGS / f"{name}.json")
    if name == "delete":
        node.models.add(Model(name="wordy-copy"))
    await raw.send(translated(real))
    assert_like(await raw.answer(real.request_head.decode().split(" ")[0]), real)


async def test_a_tool_call_comes_in_the_shape_of_a_real_one(raw: RawClient) -> None:
    for name, stream in (("chat-tools-stream", True), ("chat-tools-once", False)):
        got = await raw.ask("POST", "/api/chat", said("Use get_weather for Paris", tools=[WEATHER], stream=stream))
        real = load_recording(RECORDINGS / f"{name}.json")
        assert [name for name, _ in got.headers] == [name for name, _ in real.headers]
        assert kinds(got.chunks) == kinds(list(real.chunks))


async def test_tags_and_ps_have_the_keys_of_real_ones(node: Simulator, raw: RawClient) -> None:
    for number in range(4):
        node.models.add(Model(name=f"another-{number}"))
    assert_like(await raw.ask("GET", "/api/tags"), load_recording(RECORDINGS / "tags.json"))
    await raw.ask("POST", "/api/generate", {"model": CHAT})
    assert_like(await raw.ask("GET", "/api/ps"), load_recording(RECORDINGS / "ps-loaded.json"))


async def test_a_pull_goes_through_the_statuses_of_a_real_one(raw: RawClient) -> None:
    got = await raw.ask("POST", "/api/pull", {"model": "mistral"})
    real = load_recording(RECORDINGS / "pull-stream.json")
    assert [name for name, _ in got.headers] == [name for name, _ in real.headers]
    without_first_progress = [kind for kind in kinds(got.chunks) if '"total": "number"}' not in kind]
    assert without_first_progress == kinds(list(real.chunks))
    statuses = dict.fromkeys(line["status"].split(" ")[0] for line in got.lines())
    assert list(statuses) == ["pulling", "verifying", "writing", "success"]


@pytest.mark.parametrize(
    "name", ["blob-head-missing", "blob-push", "blob-head-there", "blob-push-again", "blob-push-wrong-digest"]
)
async def test_a_blob_answer_has_the_head_of_a_real_one(name: str, raw: RawClient) -> None:
    real = load_recording(RECORDINGS / f"{name}.json")
    method, path, _ = real.request_head.decode().split(" ", 2)
    if name in ("blob-head-there", "blob-push-again"):
        there = load_recording(RECORDINGS / "blob-push.json")
        await raw.ask("POST", there.request_head.decode().split(" ")[1], there.request_body)
    assert_like(await raw.ask(method, path, real.request_body), real)


async def test_an_http_1_0_client_gets_a_body_that_ends_with_the_connection(raw: RawClient) -> None:
    body = json.dumps(ask(stream=True)).encode()
    await raw.send(b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    got = await raw.answer()
    real = load_recording(RECORDINGS / "http-10-stream.json")
    assert (got.status_line, got.framing) == ("HTTP/1.0 200 OK", "close")
    assert [name for name, _ in got.headers] == [name for name, _ in real.headers]
    assert got.lines()[-1]["done"] is True


@pytest.mark.parametrize("name", ["http-11-no-host", "http-two-lengths", "http-huge-header"])
async def test_a_head_that_cannot_be_read_is_refused_in_the_words_of_go(name: str, raw: RawClient) -> None:
    real = load_recording(RECORDINGS / f"{name}.json")
    head = real.request_head.replace(b"<1100000 times a>", b"a" * 1_100_000)
    await raw.send(head + (real.request_body or b""))
    assert await raw.reader.read() == real.response_bytes()


# Models and text


async def test_the_official_clients_can_do_everything(node: Simulator, client: ollama.AsyncClient) -> None:
    assert {model.model for model in (await client.list()).models} == {CHAT, THINKER, f"{VECTORS}:latest"}
    assert "thinking" in ((await client.show(THINKER)).capabilities or [])
    streamed = [part async for part in await client.chat(CHAT, said("hello")["messages"], stream=True)]
    assert "".join(part.message.content or "" for part in streamed).startswith("This is a simulated answer")
    assert len((await client.embed(VECTORS, ["one", "two"])).embeddings) == 2
    assert len((await client.embeddings(VECTORS, "one")).embedding) == 768
    assert (await client.generate(THINKER, "why")).thinking == "Let me think about that."
    assert [part.status async for part in await client.pull("mistral", stream=True)][-1] == "success"
    await client.copy("mistral", "mine")
    assert (await client.create("brief", from_="mine", system="Be brief.")).status == "success"
    assert "Be brief." in str(await client.show("brief"))
    await client.delete("mine")
    with pytest.raises(ollama.ResponseError, match="model 'mine' not found"):
        await client.generate("mine", "x")
    assert await asyncio.to_thread(the_sync_client_speaks, node.url)


def the_sync_client_speaks(url: str) -> bool:
    client = ollama.Client(url)
    try:
        whole = client.generate(CHAT, "why", options={"seed": 1}).response
        parts = [part.response or "" for part in client.generate(CHAT, "why", options={"seed": 1}, stream=True)]
        return "".join(parts) == whole
    finally:
        client._client.close()


async def test_the_official_client_uploads_a_blob_and_creates_from_it(
    client: ollama.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" * 100_000)
    digest = await client.create_blob(tmp_path / "m.gguf")
    assert digest == f"sha256:{hashlib.sha256(b'GGUF' * 100_000).hexdigest()}"
    assert (await client.create("fresh", files={"m.gguf": digest})).status == "success"
    assert (await client.generate("fresh", "why")).done


async def test_the_same_prompt_and_seed_give_the_same_words_and_another_seed_others(raw: RawClient) -> None:
    async def text(seed: int) -> str:
        return str((await raw.ask("POST", "/api/generate", ask(options={"seed": seed}))).json()["response"])

    assert await text(7) == await text(7) != await text(8)


@pytest.mark.parametrize("bound", [1, 5, 12])
async def test_num_predict_bounds_the_answer_exactly(bound: int, raw: RawClient) -> None:
    got = (await raw.ask("POST", "/api/generate", ask(stream=True, options={"num_predict": bound}))).lines()
    assert (got[-1]["done_reason"], got[-1]["eval_count"], len(got) - 1) == ("length", bound, bound)


async def test_thinking_counts_into_the_bound(raw: RawClient) -> None:
    got = (await raw.ask("POST", "/api/generate", ask(model=THINKER, options={"num_predict": 3}))).json()
    assert (got["thinking"], got["response"], got["eval_count"]) == ("Let me think", "", 3)
    got = (await raw.ask("POST", "/api/generate", ask(model=THINKER, think=False))).json()
    assert "thinking" not in got


async def test_num_predict_0_is_no_bound(raw: RawClient) -> None:
    got = (await raw.ask("POST", "/api/generate", ask(options={"num_predict": 0}))).json()
    assert (got["done_reason"], got["eval_count"] > 20) == ("stop", True)


async def test_a_stop_text_ends_the_answer_before_it(raw: RawClient) -> None:
    got = (await raw.ask("POST", "/api/generate", ask(options={"stop": ["nothing", "lated"]}))).json()
    assert (got["response"], got["done_reason"], got["eval_count"]) == ("This is a simu", "stop", 5)


async def test_a_prompt_over_the_context_is_cut_as_ollama_cuts_it(raw: RawClient) -> None:
    long = ask(prompt="word " * 1000, options={"num_ctx": 512})
    assert (await raw.ask("POST", "/api/generate", long)).json()["prompt_eval_count"] == 259
    refused = await raw.ask("POST", "/api/generate", long | {"truncate": False})
    inner = json.loads(refused.json()["error"])["error"]
    assert (refused.status, inner["type"], inner["n_ctx"]) == (400, "exceed_context_size_error", 512)


async def test_json_and_schemas_are_kept(raw: RawClient) -> None:
    sizes = {"type": "array", "items": {"type": "integer"}}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "sizes": sizes}}
    plain = (await raw.ask("POST", "/api/generate", ask(format="json"))).json()["response"]
    kept = json.loads(
        (await raw.ask("POST", "/api/chat", said("x", format=schema, stream=False))).json()["message"]["content"]
    )
    assert isinstance(json.loads(plain), dict)
    assert isinstance(kept["city"], str)
    assert isinstance(kept["sizes"][0], int)


async def test_a_tool_is_called_when_asked_for_and_only_by_a_model_that_can(raw: RawClient) -> None:
    called = (await raw.ask("POST", "/api/chat", said("use a tool", tools=[WEATHER], stream=False))).json()["message"]
    assert called["tool_calls"][0]["function"]["name"] == "get_weather"
    assert called["tool_calls"][0]["function"]["arguments"]["unit"] == "celsius"
    talk = (await raw.ask("POST", "/api/chat", said("hello", tools=[WEATHER], stream=False))).json()["message"]
    assert "tool_calls" not in talk
    messages = [{"role": "user", "content": "use a tool"}, {"role": "tool", "content": "sunny, says the tool"}]
    after = await raw.ask(
        "POST", "/api/chat", {"model": CHAT, "messages": messages, "tools": [WEATHER], "stream": False}
    )
    assert "tool_calls" not in after.json()["message"]
    refused = await raw.ask("POST", "/api/chat", said("use a tool", tools=[WEATHER]) | {"model": VECTORS})
    assert refused.status == 400


async def test_embeddings_have_length_1_with_and_without_dimensions(raw: RawClient) -> None:
    for wanted, size in ((None, 768), (8, 8), (10_000, 768)):
        got = (await raw.ask("POST", "/api/embed", {"model": VECTORS, "input": "the sky", "dimensions": wanted})).json()
        assert len(got["embeddings"][0]) == size
        assert math.isclose(math.hypot(*got["embeddings"][0]), 1, rel_tol=1e-6)
    one, two = (await raw.ask("POST", "/api/embed", {"model": VECTORS, "input": ["the sky", "a tree"]})).json()[
        "embeddings"
    ]
    assert one != two


@pytest.mark.parametrize("name", ["LLAMA3.2:1B", "library/llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b"])
async def test_a_model_answers_to_every_spelling_and_echoes_it(name: str, raw: RawClient) -> None:
    assert (await raw.ask("POST", "/api/generate", ask(model=name))).json()["model"] == name


async def test_a_loaded_model_is_listed_until_it_is_let_go(raw: RawClient) -> None:
    async def loaded() -> list[str]:
        return [model["name"] for model in (await raw.ask("GET", "/api/ps")).json()["models"]]

    assert await loaded() == []
    await raw.ask("POST", "/api/generate", ask(keep_alive="2h"))
    await raw.ask("POST", "/api/embed", {"model": VECTORS, "input": "x", "keep_alive": -1})
    assert await loaded() == [f"{VECTORS}:latest", CHAT]
    assert (await raw.ask("POST", "/api/generate", {"model": CHAT, "keep_alive": 0})).json()["done_reason"] == "unload"
    await raw.ask("POST", "/api/embed", {"model": VECTORS, "input": "x", "keep_alive": 0})
    assert await loaded() == []


# The wire


async def test_clients_that_leave_free_the_slot_and_the_queue() -> None:
    async with fake_ollama(parallel=1) as node:
        node.cue(Answer(hold_body=asyncio.Event()))
        async with raw_client(node.port) as third:
            async with raw_client(node.port) as first:
                await first.send(request_bytes("POST", "/api/generate", ask(stream=True)))
                await first.head()
                async with raw_client(node.port) as second:
                    await second.send(request_bytes("POST", "/api/generate", ask()))
                    await node.request_for("/api/generate", 1)
                await third.send(request_bytes("POST", "/api/generate", ask()))
                await node.request_for("/api/generate", 2)
            assert (await third.answer()).status == 200


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_request_beyond_the_slots_waits_its_turn(slots: int) -> None:
    gate = asyncio.Event()
    async with fake_ollama(parallel=slots) as node, raw_client(node.port) as one, raw_client(node.port) as two:
        node.cue(Answer(hold_body=gate))
        await one.send(request_bytes("POST", "/api/generate", ask(stream=True)))
        await one.head()
        await two.send(request_bytes("POST", "/api/generate", ask()))
        second = await node.request_for("/api/generate", 1)
        if slots == 2:
            await second.done.wait()
        for _ in range(100):  # many times what an answer needs that does not wait
            await asyncio.sleep(0)
        assert second.done.is_set() is (slots == 2)
        gate.set()
        assert (await two.answer()).status == 200


async def test_an_existing_blob_is_answered_before_its_bytes_are_sent(node: Simulator, raw: RawClient) -> None:
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    node.models.blobs[digest] = 1
    head = f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    await raw.send(head.encode())
    answer = re.sub(rb"Date: .*\r\n", b"", await raw.reader.read())
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_a_new_blob_is_asked_for_with_100_continue(raw: RawClient) -> None:
    body = b"x" * 1000
    head = f"POST /api/blobs/sha256:{hashlib.sha256(body).hexdigest()} HTTP/1.1\r\nHost: localhost\r\n"
    await raw.send(f"{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n".encode())
    assert await raw.head() == "HTTP/1.1 100 Continue\r\n\r\n"
    await raw.send(body)
    assert (await raw.answer()).status == 201


async def test_a_chunked_body_is_read(raw: RawClient) -> None:
    pieces = [b'{"model":"', CHAT.encode(), b'","prompt":"Why?","stream":false}']
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    await raw.send(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    await raw.send(b"0\r\n\r\n")
    assert (await raw.answer()).json()["model"] == CHAT


async def test_a_refused_request_leaves_the_connection_open(raw: RawClient) -> None:
    assert (await raw.ask("POST", "/api/generate", b"{")).json() == {"error": "unexpected EOF"}
    assert (await raw.ask("POST", "/api/generate", ask())).status == 200


async def test_a_connection_serves_pipelined_requests_in_order(raw: RawClient) -> None:
    await raw.send(request_bytes("GET", "/api/version") + request_bytes("POST", "/api/generate", ask()))
    assert (await raw.answer()).json() == {"version": "0.0.0"}
    assert (await raw.answer()).json()["model"] == CHAT


async def test_a_large_unread_body_closes_the_connection(raw: RawClient) -> None:
    got = await raw.ask("POST", "/api/nothing", b"x" * 400_000)
    assert ("Connection", "close") in got.headers
    assert await raw.reader.read() == b""


async def test_the_mark_is_on_every_answer_when_asked_for() -> None:
    async with Simulator(mark=True) as node, raw_client(node.port) as raw:
        for path in ("/", "/api/tags", "/nowhere"):
            assert ("x-parallama-simulated", "1") in (await raw.ask("GET", path)).headers
        assert ("x-parallama-simulated", "1") in (await raw.ask("POST", "/api/generate", ask(stream=True))).headers


async def test_a_node_can_be_taken_down_and_come_back_on_its_port() -> None:
    node = Simulator()
    await node.start()
    port = node.port
    await node.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await node.start(port=port)
    async with node, raw_client(port) as raw:
        assert (await raw.ask("GET", "/")).body == b"Ollama is running"


# The command


async def simulate(*args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parallama", "simulate", *args, stdout=-1, stderr=-1
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_tells_its_url_and_ends_cleanly(number: signal.Signals) -> None:
    process = await simulate("--port", "0", "--speed", "0")
    assert process.stdout
    line = (await process.stdout.readline()).decode()
    client = ollama.AsyncClient(line.split()[-1])
    assert len((await client.list()).models) == 3
    await client._client.aclose()
    process.send_signal(number)
    assert (await process.communicate(), process.returncode) == ((b"", b""), 0)


async def test_the_command_names_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await simulate("--port", str(port))
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in errors.decode()
    assert len(errors.decode().splitlines()) == 1
