"""Embeddings and lists of models through the official `openai` client."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import pytest
from openai_clients import EMBEDDER, MODEL, Ai, asked
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.simulated.models import Model
from parallama.testing import FakeOllama

pytestmark = in_one_loop

PATH = "/api/embed"
FAR = "hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M"


async def embed(ai: Ai, given: Any, **arguments: Any) -> Any:
    return await ai("embeddings.create", **{"model": EMBEDDER, "input": given, **arguments})


async def test_a_text_is_embedded_as_the_sdk_asks_by_itself(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    """It asks for base64 where the program does not say."""
    got = await embed(ai, "the sky")
    exact = await embed(ai, "the sky", encoding_format="float")
    (one,) = got.data
    assert (got.object, got.model, one.object, one.index) == ("list", EMBEDDER, "embedding", 0)
    assert len(one.embedding) == 768
    assert one.embedding == pytest.approx(exact.data[0].embedding, rel=1e-6)
    assert got.usage.prompt_tokens == got.usage.total_tokens > 0
    sent = await asked(node, PATH)
    assert (sent["model"], sent["input"]) in [(EMBEDDER, "the sky"), (EMBEDDER, ["the sky"])]
    assert not {"encoding_format", "stream"} & set(sent)
    rows = await gateway.rows(2)
    expected = [("openai", "embed", got.usage.prompt_tokens, None)] * 2
    assert [(row["gateway"], row["operation"], row["prompt_tokens"], row["output_tokens"]) for row in rows] == expected


async def test_the_bytes_of_base64_are_32_bit_floats_little_end_first(ai: Ai) -> None:
    told = (await embed(ai, "the sky", encoding_format="base64")).data[0].embedding
    data = base64.b64decode(told, validate=True)
    exact = (await embed(ai, "the sky", encoding_format="float")).data[0].embedding
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(exact, rel=1e-6)


async def test_several_texts_are_embedded_in_their_order(ai: Ai) -> None:
    texts = ["the sky", "the sea", "the sky"]
    got = await embed(ai, texts, encoding_format="float")
    assert [one.index for one in got.data] == [0, 1, 2]
    alone = [(await embed(ai, text, encoding_format="float")).data[0].embedding for text in texts]
    assert [one.embedding for one in got.data] == alone


async def test_dimensions_are_the_nodes_to_cut(node: FakeOllama, ai: Ai) -> None:
    got = await embed(ai, "the sky", dimensions=8, user="someone")
    assert len(got.data[0].embedding) == 8
    assert (await asked(node, PATH))["dimensions"] == 8


async def test_a_hundred_texts_are_taken_and_no_more(node: FakeOllama, ai: Ai) -> None:
    assert len((await embed(ai, ["sky"] * 100, dimensions=2)).data) == 100
    with pytest.raises(openai.BadRequestError, match="100") as caught:
        await embed(ai, ["sky"] * 101)
    assert caught.value.param == "input"
    assert len(node.seen(PATH)) == 1


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "tokens": ([1, 2, 3], {}, "input"),
    "lists of tokens": ([[1, 2], [3]], {}, "input"),
    "no text": ("", {}, "input"),
    "no texts": ([], {}, "input"),
    "another format": ("sky", {"encoding_format": "hex"}, "encoding_format"),
    "no dimension": ("sky", {"dimensions": 0}, "dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_embedded_is_refused(node: FakeOllama, ai: Ai, name: str) -> None:
    given, arguments, param = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await embed(ai, given, **arguments)
    assert str(caught.value.param).split("[")[0] == param
    assert not node.seen(PATH)


async def test_models_are_listed(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.models.add(Model(name=FAR))
    page = await ai("models.list")
    assert page.object == "list"
    assert [model.id for model in page.data] == [entry["name"] for entry in node.models.tags()]
    assert {(model.object, model.owned_by) for model in page.data} == {("model", "parallama")}
    found = node.models.find(MODEL)
    assert found is not None
    assert next(model.created for model in page.data if model.id == MODEL) == found.modified_ns // 10**9
    row = await gateway.row()
    assert (row["operation"], row["outcome"], row["prompt_tokens"]) == ("list", "ok", None)


@pytest.mark.parametrize("name", [MODEL, FAR, "nomic-embed-text:latest"])
async def test_a_model_is_found_by_its_name(node: FakeOllama, ai: Ai, name: str) -> None:
    node.models.add(Model(name=FAR))
    got = await ai("models.retrieve", name)
    assert (got.id, got.object, got.owned_by) == (name, "model", "parallama")


async def test_a_name_of_a_model_may_hold_plain_slashes(gateway: RunningGateway, node: FakeOllama) -> None:
    node.models.add(Model(name=FAR))
    async with gateway.http.get(f"{gateway.url}/v1/models/{FAR}", headers=gateway.auth) as answer:
        assert (answer.status, (await answer.json())["id"]) == (200, FAR)


async def test_a_model_that_is_not_there_is_not_found(ai: Ai) -> None:
    for name in ("nosuch", "no/such:model"):
        with pytest.raises(openai.NotFoundError) as caught:
            await ai("models.retrieve", name)
        assert caught.value.code == "model_not_found"
