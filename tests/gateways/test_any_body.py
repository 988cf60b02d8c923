"""No body whatsoever is a bug: every JSON endpoint of every installed gateway answers it, or refuses it as ApiError."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from bodies import GOOD, bodies, encode
from dialects import installed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import RunningGateway

from parallama.errors import ApiError
from parallama.gateway.api import Body, Codec, Gateway, Inbound, Route
from parallama.testing import Answer, FakeOllama, Transcript, inbound

_DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 5}
_LOGPROBS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]
ANSWER = {
    **{"model": "m", "response": "Hi", "message": {"role": "assistant", "content": "Hi"}, **_DONE},
    **{"logprobs": _LOGPROBS, "embedding": [0.5], "embeddings": [[0.5, 1.0]], "status": "success"},
}
"""One line that is a good answer to anything but several texts to embed."""

ENDPOINTS = [
    (gateway, route, gateway.paths[0] + route.path)
    for gateway in installed()
    for route in gateway.routes()
    if route.body is Body.JSON
]


def label(value: object) -> str | None:
    return value if isinstance(value, str) else ""


def asked(gateway: Gateway, route: Route, body: bytes) -> Inbound:
    return inbound(body, route.path, mount=gateway.paths[0])


def answer_to(body: Any) -> dict[str, Any]:
    """With as many vectors as the body has texts."""
    given = body.get("input") if isinstance(body, Mapping) else None
    return {**ANSWER, "embeddings": [[0.5, 1.0]] * len(given)} if isinstance(given, list) else ANSWER


def play(codec: Codec) -> None:
    """Play a good answer of a node for each outbound; nothing may go wrong."""
    for outbound in codec.outbounds:
        message = answer_to(outbound.body)
        answer = Transcript.stream(message) if codec.streams else Transcript.document(message)
        assert outbound.body is None or isinstance(json.loads(orjson.dumps(outbound.body)), dict)
        assert all(isinstance(name, str) for name in (outbound.model or "", *outbound.names))
        codec.begin(answer.head)
        assert codec.usage.final is False
        codec.feed(answer.body)
        codec.finish()
    if not codec.outbounds:
        codec.finish()


def check_refusal(gateway: Gateway, error: ApiError) -> None:
    """The client can read it."""
    assert 400 <= error.status < 500
    reply = gateway.render_error(error)
    assert reply.status == error.status
    assert json.loads(reply.body)


def check(gateway: Gateway, route: Route, body: bytes) -> None:
    try:
        codec = route.open(asked(gateway, route, body))
    except ApiError as error:
        check_refusal(gateway, error)
    else:
        play(codec)


@pytest.mark.parametrize(("gateway", "route", "path"), ENDPOINTS, ids=label)
def test_no_body_raises_anything_but_an_api_error(gateway: Gateway, route: Route, path: str) -> None:
    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(body=bodies(path))
    def examine(body: bytes) -> None:
        check(gateway, route, body)

    examine()


@pytest.mark.parametrize(("gateway", "route", "path"), ENDPOINTS, ids=label)
def test_the_good_body_is_answered(gateway: Gateway, route: Route, path: str) -> None:
    """Else the test above would look at refusals only."""
    if path in GOOD:
        play(route.open(asked(gateway, route, encode(GOOD[path]))))


def test_every_path_with_a_good_body_is_there() -> None:
    assert set(GOOD) <= {path for _, _, path in ENDPOINTS}


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\udc00\ud800"], ids=ascii)
@pytest.mark.parametrize("path", [path for path, good in GOOD.items() if {"prompt", "messages"} & set(good)])
def test_half_a_character_reaches_no_node(path: str, text: str) -> None:
    given: Any = {"messages": [{"role": "user", "content": text}]} if "messages" in GOOD[path] else {"prompt": text}
    body = {key: value for key, value in GOOD[path].items() if not key.startswith("tool")} | given
    ((gateway, route, _),) = [one for one in ENDPOINTS if one[2] == path]
    codec = route.open(asked(gateway, route, encode(body)))
    for outbound in codec.outbounds:
        assert "\ufffd" in json.dumps(json.loads(orjson.dumps(outbound.body)), ensure_ascii=False)
    play(codec)


def value_of(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_no_body_is_a_server_error_over_http(
    gateway: RunningGateway, node: FakeOllama, data: st.DataObject
) -> None:
    _, route, path = data.draw(st.sampled_from(ENDPOINTS))
    body = data.draw(bodies(path))
    node.clear()
    node.cue(Answer(lines=[orjson.dumps(answer_to(value_of(body))) + b"\n"]), times=None)
    url, headers = gateway.url + path, gateway.admin_auth
    async with gateway.http.request(route.method, url, data=body, headers=headers) as answer:
        assert await answer.read()
    assert answer.status < 500


ODD_NAMES = [["x"], [], {"x": 1}, 1, 0.5, True, "\x00", "\ud800", " ", "x" * 10_000, "@huge@", "@long@"]


async def test_no_name_of_a_model_keeps_rows_from_being_stored(gateway: RunningGateway, node: FakeOllama) -> None:
    """A row that nothing can store must not hold up those behind it."""
    node.cue(Answer(lines=[orjson.dumps(ANSWER) + b"\n"]), times=None)
    asks = [
        (route, path, encode({**GOOD.get(path, {}), "model": name}))
        for name in ODD_NAMES
        for _, route, path in ENDPOINTS
    ]
    for route, path, body in asks:
        url = gateway.url + path
        async with gateway.http.request(route.method, url, data=body, headers=gateway.admin_auth) as answer:
            await answer.read()
    assert len(await gateway.rows(len(asks))) == len(asks)
