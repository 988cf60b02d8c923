"""A native body is read as Go reads it, and never as anything else."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallama_ollama import OllamaNative
from parallama_ollama.gojson import _has_equal_keys, read
from parallama_ollama.requests import CHAT, CREATE, GENERATE
from recorded import NAMES, open_codec, recording

from parallama.errors import ApiError, BadRequest
from parallama.gateway.api import Outbound

NATIVE = OllamaNative()
JSON_ROUTES = [r for r in NATIVE.routes() if r.body.value == "json"]


def understood(raw: bytes) -> dict[str, Any]:
    """The body as its next reader gets it."""
    reading = read(raw, GENERATE.struct)
    body: dict[str, Any] = json.loads(orjson.dumps(reading.body))
    return body


def refusal(raw: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        read(raw, GENERATE.struct)
    return str(caught.value)


def attempt(method: str, path: str, body: bytes) -> Outbound | int:
    """What goes to the node, or the status of the ApiError."""
    try:
        return open_codec(NATIVE, method, path, body).outbounds[0]
    except ApiError as error:
        return error.status


def was_answered(name: str) -> bool:
    head = recording(name).head
    return head is not None and head.status == 200


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("json-") and was_answered(name)])
def test_a_body_is_understood_as_ollama_understood_it(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    outbound = open_codec(NATIVE, record.method, record.path.removeprefix("/api"), record.body).outbounds[0]
    body = outbound.body or {}
    last = record.messages[-1]
    assert outbound.model == last["model"]
    assert body.get("stream", True) == (record.head.header("content-type") == "application/x-ndjson")
    bound: Any = (body.get("options") or {}).get("num_predict")
    if last["done_reason"] == "length" and last["eval_count"] < 640:
        assert int(bound) == last["eval_count"]
    elif last["done_reason"] == "stop":
        assert bound is None


ODD = [
    b'{"model":"a","Model":"a"}',
    b'{"model":"a","model":"a"}',
    b'{"MODEL":"a"}',
    b'{"model":"a"}{"model":"b"}',
    b'{"model":"a"} x',
    b'{"model":"a","prompt":"\xff"}',
    b'{"model":"a","prompt":"\\ud800"}',
    b'{"model":"a","x":"\\ud800"}',
    b'{"model":"a","option\\u017f":{}}',
    b'{"model":"a","\xe2\x84\xaaeep_alive":1}',
    b"null",
]
PLAIN = [
    b' {"model":"a"}\n',
    b'{"model":"a","stream":null,"options":null}',
    b'{"model":"a","x":{"Model":"b"},"y":1e400}',
    b'{"model":"a","format":{"a":1,"a":2}}',
    b'{"model":"a","prompt":"\\u0022quoted\\u0022 \\ud83d\\ude00"}',
    b'{"model":"a","x":' + b"[" * 9999 + b"]" * 9999 + b"}",
]


@pytest.mark.parametrize("raw", ODD)
def test_a_body_that_readers_could_disagree_on_is_encoded_anew(raw: bytes) -> None:
    assert read(raw, GENERATE.struct).raw is None


@pytest.mark.parametrize("raw", PLAIN)
def test_a_body_that_is_clear_to_every_reader_keeps_its_bytes(raw: bytes) -> None:
    assert read(raw, GENERATE.struct).raw == raw
    assert read(raw, GENERATE.struct).body["model"] == "a"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b'{"options":{"a":1,"b":2},"OPTIONS":{"b":3}}', {"options": {"a": 1, "b": 3}}),
        (b'{"options":{"a":1},"options":null}', {}),
        (b'{"options":{"a":1},"options":null,"options":{"b":2}}', {"options": {"b": 2}}),
        (b'{"options":{"a":1},"options":{"a":null}}', {"options": {"a": None}}),
        (b'{"options":{"A":1,"a":2}}', {"options": {"A": 1, "a": 2}}),
        (b'{"model":"a","model":null,"stream":true,"stream":null}', {"model": "a"}),
        (b'{"prompt":"a\xe2\x82","raw":true,"raw":null}', {"prompt": "a\ufffd\ufffd", "raw": True}),
        (b'{"prompt":"\\ud800\\ud83d\\ude00\\\\ud800\\udc00"}', {"prompt": "\ufffd\U0001f600\\ud800\ufffd"}),
        (b'{"format":{"a":1},"FORMAT":{"b":2},"keep_alive":5,"keep_alive":null}', {"format": {"b": 2}}),
        (b'{"nonsense":{"a":[1]}}', {"nonsense": {"a": [1]}}),
    ],
)
def test_equal_keys_nulls_and_bad_text_mean_what_they_mean_to_go(raw: bytes, body: dict[str, Any]) -> None:
    assert understood(raw) == body


FIELD = "json: cannot unmarshal {} into Go struct field GenerateRequest.{} of type {}"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b'{"model": "wordy", ', "unexpected EOF"),
        (b'{"model": "wor', "unexpected EOF"),
        (b'{"model": "wor\\', "unexpected EOF"),
        (b'{"a": tr', "unexpected EOF"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
        (b"\x1f\x8b", "invalid character '\\x1f' looking for beginning of value"),
        (b"\x85{}", "invalid character '\\u0085' looking for beginning of value"),
        (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":{"b":1 2}}', "invalid character '2' after object key:value pair"),
        (b'{"a":1 2}', "invalid character '2' after object key:value pair"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":[1,]}', "invalid character ']' looking for beginning of value"),
        (b'{"a":"\n"}', "invalid character '\\n' in string literal"),
        (b'{"a\x00":1}', "invalid character '\\x00' in string literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u00g0"}', "invalid character 'g' in \\u hexadecimal character escape"),
        (b'{"a":-}', "invalid character '}' in numeric literal"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":[1e+]}', "invalid character ']' in exponent of numeric literal"),
        (b'{"a":1.5.}', "invalid character '.' after object key:value pair"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a":nul}', "invalid character '}' in literal null (expecting 'l')"),
        (b'{"x":' + b"[" * 10000, "invalid character '[' exceeded max depth"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b"1", "json: cannot unmarshal number into Go value of type api.GenerateRequest"),
        (b'{"model":1}', FIELD.format("number", "model", "string")),
        (b'{"Stream":"false"}', FIELD.format("string", "stream", "bool")),
        (b'{"stream":0}', FIELD.format("number", "stream", "bool")),
        (b'{"options":"x"}', FIELD.format("string", "options", "map[string]interface {}")),
        (b'{"options":{"a":[-1e400]}}', FIELD.format("number -1e400", "options", "float64")),
        (b'{"top_logprobs":1.5}', FIELD.format("number 1.5", "top_logprobs", "int")),
        (b'{"prompt":["a"]}', FIELD.format("array", "prompt", "string")),
    ],
)
def test_what_go_refuses_is_refused_in_its_words(raw: bytes, message: str) -> None:
    assert refusal(raw) == message


def test_a_key_that_only_looks_like_a_field_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="'files'"):
        read('{"model":"a","ﬁles":{}}'.encode(), CREATE.struct)
    assert read('{"model":"a","ﬁles":{}}'.encode(), CHAT.struct).raw is not None


def test_a_body_of_countless_brackets_is_refused_before_it_holds_up_the_rest() -> None:
    assert "nested values" in refusal(b'{"x":[' + b"[]," * 600_000 + b"1]}x")


def go_model(members: list[tuple[str, Any]]) -> str:
    """What Go's decoder leaves in the field `model`: an oracle of four lines, on its own."""
    model = ""
    for key, value in members:
        folded = "".join({"ſ": "s", "K": "k"}.get(c, c.lower() if c < "\x80" else c) for c in key)
        model = value if folded == "model" and value is not None else model
    return model


@st.composite
def spelt(draw: st.DrawFn, word: str) -> str:
    """`word` in one of the spellings that fold to it."""
    variants = {"s": "sSſ", "k": "kKK"}
    return "".join(draw(st.sampled_from(variants.get(c, c + c.upper()))) for c in word)


@st.composite
def quoted(draw: st.DrawFn, text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if draw(st.booleans()) else c for c in text) + '"'


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, Any]]:
    words = st.sampled_from(["model", "options", "keep_alive", "modell"])
    keys = words.flatmap(lambda word: st.one_of(st.just(word), spelt(word)))
    values = st.one_of(st.none(), st.sampled_from(["a", "b", ""]))
    pairs = draw(st.lists(st.tuples(keys, values), max_size=5))
    return [(key, {} if "ption" in key.lower() and value else value) for key, value in pairs]


@given(data=st.data(), pairs=members())
def test_no_spelling_of_a_key_can_name_another_model(data: st.DataObject, pairs: list[tuple[str, Any]]) -> None:
    text = ",".join(f"{data.draw(quoted(key))}:{json.dumps(value)}" for key, value in pairs)
    raw = f"{{{text}}}".encode()
    outbound = attempt("POST", "/generate", raw)
    if isinstance(outbound, int):
        assert outbound == 400 or (outbound == 404 and go_model(pairs) == "")
        return
    assert outbound.model == go_model(pairs)
    sent = outbound.raw or orjson.dumps(outbound.body)
    reread: list[tuple[str, Any]] = json.loads(sent, object_pairs_hook=list)
    assert go_model(reread) == outbound.model
    if outbound.raw is None:
        assert [key for key, _ in reread if go_model([(key, "x")])] == ["model"]


class Pairs(list[tuple[str, Any]]):
    """An object as its members, equal ones among them."""


KEYS = st.text(alphabet='ab"\\/\u00e9', max_size=2)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(alphabet='ab"\\\n\u00e9', max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(KEYS, inner), min_size=1, max_size=3).map(Pairs)
    ),
    max_leaves=8,
)


def write(value: Any, draw: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{write(k, draw)}:{write(v, draw)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item, draw) for item in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    escape = draw(st.booleans())
    return '"' + "".join(f"\\u{ord(c):04x}" if escape else json.dumps(c)[1:-1] for c in value) + '"'


@given(data=st.data(), value=JSON)
def test_equal_keys_at_any_depth_never_pass_for_none(data: st.DataObject, value: Any) -> None:
    raw = write(value, data.draw).encode()
    equal = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal equal
        equal = equal or len(dict(pairs)) < len(pairs)

    json.loads(raw, object_pairs_hook=look)
    found = _has_equal_keys(raw, orjson.loads(raw))
    assert found == equal or (found and b"\\u0022" in raw)


VALID = b'{"model":"a","options":{"num_predict":3,"stop":["."]},"prompt":"h\\u00e9","stream":false,"x":[1,{"a":null}]}'


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(st.one_of(st.binary(max_size=3), st.just(b'"')))
    return bytes(body)


bodies = st.one_of(st.binary(max_size=40), mutated(), JSON.map(lambda value: json.dumps(value).encode()))


@given(body=bodies, route=st.sampled_from(JSON_ROUTES))
def test_no_body_raises_anything_but_an_api_error(body: bytes, route: Any) -> None:
    outbound = attempt(route.method, route.path, body)
    if isinstance(outbound, int):
        assert 400 <= outbound < 500
        return
    assert outbound.raw is not None or json.loads(orjson.dumps(outbound.body)) is not None
