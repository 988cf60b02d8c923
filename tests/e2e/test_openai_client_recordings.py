"""What the official `openai` client really sent to an Ollama, byte for byte but for the key, answered by the gateway.

The answers are read with the client's own types, which here, other than in the client, insist on every field.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from openai.pagination import SyncPage
from openai.types import Completion, CreateEmbeddingResponse
from openai.types import Model as ListedModel
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel
from raw_http import Got, raw_client
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.simulated.models import Model
from parallama.testing import FakeOllama, load_recording

pytestmark = in_one_loop

FOLDER = Path(__file__).parent / "openai_requests"
UNKNOWN = "sdk-openai-404"
NAMES = sorted({path.stem for path in FOLDER.glob("*.json")} - {UNKNOWN})
ANSWERS: dict[str, type[BaseModel]] = {
    "sdk-openai-chat": ChatCompletion,
    "sdk-openai-chat-parse": ChatCompletion,
    "sdk-openai-chat-stream": ChatCompletionChunk,
    "sdk-openai-chat-tools": ChatCompletion,
    "sdk-openai-completions": Completion,
    "sdk-openai-embeddings": CreateEmbeddingResponse,
    "sdk-openai-models": SyncPage[ListedModel],
    "sdk-openai-responses": Response,
}
MODELS = ("wordy", "wordy-tools", "wordy-think", "vectors", "endless")


@pytest.fixture
def wordy_node(node: FakeOllama) -> FakeOllama:
    """The node with the models of the recordings."""
    for name in MODELS:
        capabilities = ("embedding",) if name == "vectors" else ("completion", "tools")
        node.models.add(Model(name=name, capabilities=capabilities))
    return node


async def replayed(gateway: RunningGateway, name: str, mount: str) -> Got:
    """The answer to a recorded request, asked below `mount` with alice's key."""
    recording = load_recording(FOLDER / f"{name}.json")
    sent = recording.request_bytes()
    assert b"authorization: Bearer sk-test\r\n" in sent
    sent = sent.replace(b"Bearer sk-test", f"Bearer {gateway.key}".encode(), 1).replace(
        b" /v1/", f" {mount}/".encode(), 1
    )
    async with raw_client(gateway.port) as client:
        await client.send(sent)
        return await client.answer()


def events(got: Got) -> list[Any]:
    """The JSON of each event before the end that must be there."""
    *told, end, rest = got.body.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in told]


def unpacked(document: dict[str, Any]) -> dict[str, Any]:
    """The document with floats for base64, as the client makes it before its types fit."""
    for one in document.get("data", ()):
        if "embedding" in one:
            data = base64.b64decode(one["embedding"], validate=True)
            one["embedding"] = list(struct.unpack(f"<{len(data) // 4}f", data))
    return document


@pytest.mark.parametrize("mount", ["/v1", "/openai/v1"])
@pytest.mark.parametrize("name", NAMES)
async def test_a_recorded_request_is_answered(
    gateway: RunningGateway, wordy_node: FakeOllama, name: str, mount: str
) -> None:
    got = await replayed(gateway, name, mount)
    assert got.status == 200, got.body
    headers = {key.lower(): value for key, value in got.headers}
    assert headers["x-request-id"]
    streams = name.endswith("-stream")
    assert headers["content-type"].split(";")[0] == ("text/event-stream" if streams else "application/json")
    for document in events(got) if streams else [got.json()]:
        ANSWERS[name].model_validate(unpacked(document))
        assert document.get("model") in (None, *MODELS)
    row = await gateway.row()
    assert (row["gateway"], row["outcome"], row["streamed"]) == ("openai", "ok", streams)


async def test_the_recorded_question_for_an_unknown_model_is_answered_404(
    gateway: RunningGateway, wordy_node: FakeOllama
) -> None:
    got = await replayed(gateway, UNKNOWN, "/v1")
    assert (got.status, got.json()["error"]["code"]) == (404, "model_not_found")
    assert got.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", ["sdk-openai-chat", "sdk-openai-chat-stream"])
async def test_what_the_client_sent_beside_the_question_does_not_reach_the_node(
    gateway: RunningGateway, wordy_node: FakeOllama, name: str
) -> None:
    await replayed(gateway, name, "/v1")
    seen = await wordy_node.request_for("/api/chat")
    headers = {key.lower(): value for key, value in seen.headers}
    assert not [one for one in headers if one.startswith(("x-stainless", "authorization"))]
    assert "OpenAI" not in headers["user-agent"]
    assert json.loads(seen.body)["options"] == {"num_predict": 8, "seed": 3}
