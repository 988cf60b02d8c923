"""The OpenAI gateway's lists of models, its errors, and its place among the gateways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parallama_openai import OpenAI
from parallama_openai.errors import error_reply
from parallama_openai.models import open_model, open_models
from pydantic import TypeAdapter, ValidationError
from raw_http import raw_client
from recorded import recording
from running import RunningGateway

from parallama.errors import (
    ApiError,
    BadRequest,
    BodyTooLarge,
    ModelUnknown,
    NoNode,
    NotAllowed,
    NotAllowedMethod,
    NotAuthenticated,
    NotFound,
    TimedOut,
    UpstreamFailed,
)
from parallama.exchange import Usage
from parallama.gateway.api import Codec
from parallama.testing import FakeOllama, Model, Transcript, check_codec, inbound, load_recording

FOLDER = Path(__file__).parent / "recordings"
TAGS: dict[str, Any] = {
    "models": [
        {"name": "Me/Mine:7b", "modified_at": "2026-11-21T03:52:33.881760197+02:00"},
        {"name": "llama3:latest", "modified_at": "2026-11-21T01:52:33Z"},
        {"name": "odd", "modified_at": "yesterday"},
    ]
}
AT = 1_795_225_953
ALIASES = {"gpt-4o": "LLaMA3", "text-embedding": "nosuch", "ODD": "me/mine:7b"}


def listed(aliases: dict[str, str] | None = None) -> Codec:
    return open_models(inbound(method="GET", aliases=aliases))


def one(name: str, aliases: dict[str, str] | None = None) -> Codec:
    return open_model(inbound(method="GET", params={"model": name}, aliases=aliases))


def play(codec: Codec, answer: Transcript) -> dict[str, Any]:
    codec.begin(answer.head)
    told: dict[str, Any] = json.loads(codec.feed(answer.body) + codec.finish())
    return told


def model(name: str, created: int = AT) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "parallama"}


def test_models_are_listed_as_the_node_has_them() -> None:
    codec = listed()
    assert play(codec, Transcript.document(TAGS)) == {
        "object": "list",
        "data": [model("Me/Mine:7b"), model("llama3:latest"), model("odd", 0)],
    }
    assert codec.usage == Usage(final=True)
    assert [(one.method, one.path, one.model) for one in codec.outbounds] == [("GET", "/api/tags", None)]


def test_no_models_are_an_empty_list() -> None:
    empties: list[dict[str, Any]] = [{"models": []}, {"models": None}, {}]
    for tags in empties:
        assert play(listed(), Transcript.document(tags)) == {"object": "list", "data": []}


def test_aliases_are_listed_where_the_node_has_their_model() -> None:
    data = play(listed(ALIASES), Transcript.document(TAGS))["data"]
    assert data == [model("Me/Mine:7b"), model("llama3:latest"), model("gpt-4o"), model("ODD")]


@pytest.mark.parametrize(
    ("name", "created"),
    [("Me/Mine:7b", AT), ("me/mine:7B", AT), ("llama3", AT), ("llama3:latest", AT), ("gpt-4o", AT), ("odd:latest", AT)],
)
def test_a_model_is_told_under_the_name_that_was_asked_for(name: str, created: int) -> None:
    assert play(one(name, ALIASES), Transcript.document(TAGS)) == model(name, created)


@pytest.mark.parametrize(
    "name", ["nosuch", "text-embedding", "llama3:8b", "Me", "mine:7b", "llama3/", "\0", "x" * 9999]
)
def test_a_model_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(ModelUnknown) as caught:
        play(one(name, ALIASES), Transcript.document(TAGS))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert repr(name[:64])[:-1] in str(caught.value)


@pytest.mark.parametrize("name", ["tags", "tags-registry-name"])
def test_recorded_lists_keep_every_promise_of_a_codec(name: str) -> None:
    first = recording(name).messages[0]["models"][0]["name"]
    for make in (listed, lambda: one(first), lambda: one("nosuch")):
        check_codec(make, load_recording(FOLDER / f"{name}.json"), cuts=20)


@pytest.mark.parametrize("tags", [{"models": 5}, {"models": [5]}, {"models": {}, "error": "disk"}])
def test_a_list_in_another_shape_is_a_failure_of_the_node(tags: Any) -> None:
    for codec in (listed(), one("llama3")):
        with pytest.raises(UpstreamFailed):
            play(codec, Transcript.document(tags))


def test_entries_without_names_or_times_break_nothing() -> None:
    told = play(listed(), Transcript.document({"models": [{}, {"name": 5, "modified_at": 5}]}))
    assert [entry["created"] for entry in told["data"]] == [0, 0]


ERRORS: list[tuple[ApiError, int, str, str]] = [
    (BadRequest("n: wrong", code="invalid_parameter", param="n"), 400, "invalid_request_error", "invalid_parameter"),
    (NotAuthenticated("no key"), 401, "invalid_request_error", "invalid_api_key"),
    (NotAuthenticated("off", code="disabled_api_key"), 401, "invalid_request_error", "disabled_api_key"),
    (NotAllowed("no"), 403, "permission_error", "not_allowed"),
    (ModelUnknown("no"), 404, "invalid_request_error", "model_not_found"),
    (NotFound("no"), 404, "invalid_request_error", "not_found"),
    (NotAllowedMethod("no", allowed=["GET"]), 405, "invalid_request_error", "method_not_allowed"),
    (BodyTooLarge("no"), 413, "invalid_request_error", "body_too_large"),
    (UpstreamFailed("slow down", status=429), 429, "requests", "rate_limit_exceeded"),
    (ApiError("a bug"), 500, "api_error", "internal_error"),
    (UpstreamFailed("it died"), 502, "api_error", "upstream_failed"),
    (NoNode("none"), 503, "api_error", "no_node"),
    (TimedOut("late"), 504, "api_error", "timed_out"),
]


@pytest.mark.parametrize(("error", "status", "kind", "code"), ERRORS, ids=[type(row[0]).__name__ for row in ERRORS])
def test_every_error_has_openais_shape(error: ApiError, status: int, kind: str, code: str) -> None:
    reply = error_reply(error)
    told = {"message": str(error), "type": kind, "param": error.param, "code": code}
    assert (reply.status, json.loads(reply.body)) == (status, {"error": told})
    assert reply.headers["Content-Type"] == "application/json"
    assert OpenAI().render_error(error) == reply


async def ask(gateway: RunningGateway, target: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    """The status and the document that come of the very bytes of `target`."""
    async with raw_client(gateway.port) as client:
        got = await client.ask(method, target, body, f"Authorization: Bearer {gateway.key}")
    return got.status, got.json()


@pytest.mark.parametrize("mount", OpenAI.paths)
@pytest.mark.parametrize("name", ["me/mine:7b", "me%2Fmine%3A7b", "ME%2fmine:7b"])
async def test_an_id_may_hold_slashes_and_colons(
    gateway: RunningGateway, node: FakeOllama, mount: str, name: str
) -> None:
    node.models.add(Model(name="me/mine:7b"))
    status, told = await ask(gateway, f"{mount}/models/{name}")
    assert (status, told["id"].lower(), told["object"]) == (200, "me/mine:7b", "model")


async def test_lists_and_models_agree(gateway: RunningGateway) -> None:
    _, told = await ask(gateway, "/openai/v1/models")
    assert told["data"]
    for entry in told["data"]:
        assert await ask(gateway, f"/v1/models/{entry['id']}") == (200, entry)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/models/nosuch", 404, "model_not_found"),
        ("GET", "/models/llama3.2:1b/", 404, "model_not_found"),
        ("GET", "/models/", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/models/llama3.2:1b", 405, "method_not_allowed"),
        ("POST", "/chat/completions", 400, "invalid_json_shape"),
    ],
)
async def test_whatever_is_wrong_is_told_in_openais_shape(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    found, told = await ask(gateway, f"/v1{path}", method, [] if method == "POST" else None)
    assert (found, told["error"]["code"], set(told["error"])) == (status, code, {"message", "type", "param", "code"})


def test_each_endpoint_has_a_switch() -> None:
    assert [(route.switch, route.path) for route in OpenAI().routes()] == [
        ("models", "/models"),
        ("models", "/models/{model:.+}"),
        ("chat", "/chat/completions"),
        ("completions", "/completions"),
        ("embeddings", "/embeddings"),
        ("responses", "/responses"),
    ]


def test_an_option_that_allows_nothing_is_refused() -> None:
    options = TypeAdapter(OpenAI.Options)
    assert options.validate_python({}).max_embedding_inputs == 100
    with pytest.raises(ValidationError):
        options.validate_python({"max_embedding_inputs": 0})
