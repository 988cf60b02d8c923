"""Beside messages: the count of their tokens, the models, where all of it is found, and errors as whole answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic_events import GATEWAYS, QUESTION, WEATHER, WORDY, ask, image, opened, play, text, turn
from parallama_anthropic import Anthropic, AnthropicMessages, AnthropicModels, register_gateways

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
    Stopped,
    TimedOut,
    Unavailable,
    UpstreamFailed,
)
from parallama.exchange import Usage
from parallama.gateway.api import ReplyFacts, Use
from parallama.testing import Transcript, check_codec, load_recording

FOLDER = Path(__file__).parent / "recordings"
COUNT = "/anthropic/v1/messages/count_tokens"
LIST = "/anthropic/v1/models"
TAGS = Transcript.of(load_recording(FOLDER / "tags.json"))
NAMES = [f"{name}:latest" for name in ("wordy-tools", "wordy-think", "vectors", "wordy", "endless")]


# count_tokens


def counted(path: str = COUNT, known: dict[str, Any] | None = None, **more: Any) -> int:
    codec = opened({"model": WORDY, "messages": QUESTION, **more}, path, **(known or {}))
    assert codec.outbounds == ()
    assert codec.reply.header("content-type") == "application/json"
    told = json.loads(codec.finish())
    assert set(told) == {"input_tokens"}
    assert codec.usage == Usage()
    count: int = told["input_tokens"]
    return count


def test_tokens_are_counted_without_a_node_and_without_max_tokens() -> None:
    assert counted() == len("userWhy is the sky blue?") // 4
    assert counted(max_tokens=5) == counted()
    assert counted("/v1/messages/count_tokens") == counted()


def test_everything_that_the_model_reads_counts() -> None:
    plain = counted()
    assert counted(system="Be brief. " * 40) >= plain + 100
    assert counted(tools=[WEATHER]) > plain
    assert counted(tools=[WEATHER], tool_choice={"type": "none"}) == plain
    one, two = (counted(messages=[turn(text("Why is the sky blue?"), *[image()] * n)]) for n in (1, 2))
    assert (one - plain, two - plain) == (800, 1600), "an image counts for itself, not for its bytes"


def test_an_alias_is_counted_for() -> None:
    assert counted(known={"aliases": {"claude": WORDY}}, model="claude") == counted()


def test_the_start_of_a_stream_tells_the_same_count() -> None:
    codec = opened(ask(stream=True, system="x" * 400, tools=[WEATHER]))
    start = play(codec, Transcript.stream({"message": {"content": "a"}, "done": True})).split(b"\n")[1]
    told = json.loads(start.removeprefix(b"data: "))["message"]["usage"]["input_tokens"]
    assert told == counted(system="x" * 400, tools=[WEATHER])


def test_what_is_wrong_for_an_answer_is_wrong_for_a_count() -> None:
    wrongs: list[dict[str, Any]] = [{"messages": []}, {"tools": [{"type": "bash_20250124"}]}, {"max_tokens": 0}]
    for wrong in wrongs:
        with pytest.raises(BadRequest):
            counted(**wrong)


def test_the_tokens_of_an_unknown_model_are_not_counted() -> None:
    with pytest.raises(ModelUnknown) as caught:
        counted(model="nosuch")
    assert "nosuch" in str(caught.value)


# models


def listed(transcript: Transcript = TAGS, path: str = LIST, **known: Any) -> Any:
    codec = opened(None, path, "GET", **known)
    (outbound,) = codec.outbounds
    assert (outbound.method, outbound.path, outbound.model) == ("GET", "/api/tags", None)
    assert not codec.streams
    return json.loads(play(codec, transcript))


def test_models_are_listed_in_the_dialects_shape() -> None:
    page = listed()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (NAMES[0], NAMES[-1], False)
    assert [model["id"] for model in page["data"]] == NAMES
    assert page["data"][0] == {
        "type": "model",
        "id": "wordy-tools:latest",
        "display_name": "wordy-tools:latest",
        "created_at": "2026-11-21T01:55:52Z",
        "lifecycle": "active",
    }


@pytest.mark.parametrize("path", [LIST, f"{LIST}/wordy", "/v1/models", "/v1/models/wordy"])
def test_no_cut_changes_the_models(path: str) -> None:
    check_codec(lambda: opened(None, path, "GET"), TAGS, usage=Usage(final=True), cuts=20)


@pytest.mark.parametrize(
    ("query", "found", "more"),
    [
        ({"limit": "2"}, NAMES[:2], True),
        ({"limit": "5"}, NAMES, False),
        ({"limit": "1000"}, NAMES, False),
        ({"limit": ""}, NAMES, False),
        ({"after_id": NAMES[1]}, NAMES[2:], False),
        ({"after_id": "wordy-think", "limit": "1"}, NAMES[2:3], True),
        ({"after_id": NAMES[-1]}, [], False),
        ({"before_id": NAMES[3], "limit": "2"}, NAMES[1:3], True),
        ({"before_id": NAMES[2]}, NAMES[:2], False),
        ({"before_id": NAMES[0]}, [], False),
        ({"after_id": NAMES[0], "before_id": NAMES[4], "limit": "2"}, NAMES[1:3], True),
        ({"after_id": NAMES[4], "before_id": NAMES[0]}, [], False),
    ],
)
def test_models_come_in_pages(query: dict[str, Any], found: list[str], more: bool) -> None:
    page = listed(query=query)
    assert [model["id"] for model in page["data"]] == found
    assert (page["first_id"], page["last_id"]) == ((found[0], found[-1]) if found else (None, None))
    assert page["has_more"] is more


def test_a_page_has_twenty_models_if_nobody_says_more() -> None:
    many = Transcript.document({"models": [{"name": f"m{n}", "modified_at": ""} for n in range(30)]})
    page = listed(many)
    assert (len(page["data"]), page["has_more"]) == (20, True)
    assert page["data"][0]["created_at"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "٣", "9" * 5000, " 1"])
def test_a_wrong_limit_is_refused(limit: str) -> None:
    with pytest.raises(BadRequest) as caught:
        listed(query={"limit": limit})
    assert caught.value.param == "limit"


@pytest.mark.parametrize("name", ["after_id", "before_id"])
def test_a_page_of_no_model_is_refused(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        listed(query={name: "nosuch"})
    assert caught.value.param == name


def test_aliases_of_models_that_are_there_are_listed() -> None:
    known: dict[str, Any] = {"aliases": {"claude": "wordy", "gone": "nosuch", "endless": "wordy"}}
    models = {model["id"]: model for model in listed(**known)["data"]}
    assert list(models) == [*NAMES[:4], "claude", "endless"]
    assert models["claude"]["created_at"] == models["wordy:latest"]["created_at"]
    assert listed(path=f"{LIST}/claude", **known)["id"] == "claude"


@pytest.mark.parametrize("name", ["wordy", "wordy:latest", "WORDY", "library/wordy"])
def test_a_model_is_found_under_each_of_its_names(name: str) -> None:
    model = listed(path=f"{LIST}/{name}")
    assert (model["id"], model["display_name"], model["type"]) == (name, name, "model")


def test_a_model_that_is_not_there_is_unknown() -> None:
    with pytest.raises(ModelUnknown):
        listed(path=f"{LIST}/nosuch")


@pytest.mark.parametrize("models", [{"a": 1}, ["a"], 5])
def test_a_list_in_another_shape_is_the_nodes_fault(models: Any) -> None:
    with pytest.raises(UpstreamFailed):
        listed(Transcript.document({"models": models}))


@pytest.mark.parametrize("models", [[], None])
def test_a_node_without_models_has_an_empty_list(models: Any) -> None:
    assert listed(Transcript.document({"models": models})) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_models_without_names_and_times_are_told_all_the_same() -> None:
    assert len(listed(Transcript.document({"models": [{}, {"name": 5, "modified_at": [1]}]}))["data"]) == 2


# where it is found


def test_the_family_has_three_mounts() -> None:
    assert list(register_gateways()) == [Anthropic, AnthropicMessages, AnthropicModels]
    assert {gateway.name for gateway in GATEWAYS} == {"anthropic"}
    assert {gateway.roles for gateway in GATEWAYS} == {("admin", "premium")}
    assert [gateway.paths for gateway in GATEWAYS] == [("/anthropic/v1",), ("/v1/messages",), ("/v1/models",)]
    assert [gateway.required_header for gateway in GATEWAYS] == ["", "", "anthropic-version"]


def test_every_endpoint_is_at_the_root_too() -> None:
    def routes(*gateways: Any) -> set[tuple[str, str, str, Use]]:
        return {
            (route.method, (gateway.paths[0] + route.path).removeprefix("/anthropic"), route.switch, route.use)
            for gateway in gateways
            for route in gateway.routes()
        }

    assert routes(GATEWAYS[0]) == {
        ("POST", "/v1/messages", "messages", Use.CHAT),
        ("POST", "/v1/messages/count_tokens", "count_tokens", Use.SHOW),
        ("GET", "/v1/models", "models", Use.LIST),
        ("GET", "/v1/models/{model:.+}", "models", Use.SHOW),
    }
    assert routes(*GATEWAYS[1:]) == routes(GATEWAYS[0])


def test_every_answer_carries_the_id_where_the_sdk_looks() -> None:
    facts = ReplyFacts(request_id="0190a5d6", node=None, model=None)
    assert [gateway.headers(facts) for gateway in GATEWAYS] == [{"request-id": "0190a5d6"}] * 3


# errors


class Unpaid(ApiError):
    status = 402


class Over(ApiError):
    status = 429


class Full(ApiError):
    status = 503
    code = "queue_full"


ERRORS: list[tuple[ApiError, int, str]] = [
    (BadRequest("x"), 400, "invalid_request_error"),
    (NotAuthenticated("x"), 401, "authentication_error"),
    (Unpaid("x"), 402, "billing_error"),
    (NotAllowed("x"), 403, "permission_error"),
    (ModelUnknown("x"), 404, "not_found_error"),
    (NotFound("x"), 404, "not_found_error"),
    (NotAllowedMethod("x", allowed=["POST"]), 405, "api_error"),
    (BodyTooLarge("x"), 413, "request_too_large"),
    (Over("x"), 429, "rate_limit_error"),
    (ApiError("x"), 500, "api_error"),
    (UpstreamFailed("x"), 502, "api_error"),
    (UpstreamFailed("x", status=500), 500, "api_error"),
    (UpstreamFailed("x", status=503), 529, "overloaded_error"),
    (Full("x"), 529, "overloaded_error"),
    (NoNode("x"), 503, "api_error"),
    (Unavailable("x"), 503, "api_error"),
    (Stopped("x"), 503, "api_error"),
    (TimedOut("x"), 504, "timeout_error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS, ids=lambda value: getattr(value, "code", str(value)))
def test_errors_have_the_shape_and_the_type_of_their_status(error: ApiError, status: int, kind: str) -> None:
    for gateway in GATEWAYS:
        reply = gateway.render_error(error)
        assert (reply.status, reply.headers["Content-Type"]) == (status, "application/json")
        assert orjson.loads(reply.body) == {"type": "error", "error": {"type": kind, "message": "x"}}
