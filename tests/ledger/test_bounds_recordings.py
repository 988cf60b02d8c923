"""No spelling escapes: whatever a client writes, the body that the node gets holds one bound that Go reads."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from held import held
from hypothesis import given, settings
from hypothesis import strategies as st
from parallama_anthropic import Anthropic
from parallama_ollama import OllamaNative, OllamaSimple
from parallama_ollama.gojson import read
from parallama_ollama.requests import CHAT, GENERATE
from parallama_openai import OpenAI
from recorded import NAMES, Recording, open_codec, recording

from parallama.errors import ApiError
from parallama.gateway.api import Gateway, Outbound, Use
from parallama.gateway.described import Model
from parallama.ledger.bounds import bound
from parallama.proxy.conversation import _content
from parallama.simulated.go import Refused, decode

UNKNOWN = Model()
STRUCTS = {"/api/chat": CHAT.struct, "/api/generate": GENERATE.struct}
PROMPTS = {"/api/chat": "messages", "/api/generate": "prompt"}
USES = {"/api/chat": Use.CHAT, "/api/generate": Use.GENERATE}


def sent(outbound: Outbound) -> bytes:
    """What goes over the wire."""
    content, _waits = _content(outbound, None, {})
    assert isinstance(content, bytes)
    return content


def held_to(outbound: Outbound) -> int:
    """Tokens that the node may generate for `outbound` in all its runs, as two readers of Go's JSON agree."""
    raw = sent(outbound)
    one, other = read(raw, STRUCTS[outbound.path]).body, decode(raw, "Request")
    if not other.get(PROMPTS[outbound.path]):
        return 0
    tokens = int(one["options"]["num_predict"])
    assert tokens == other.option("num_predict", int, -1)
    assert tokens >= 1
    return tokens * (2 if outbound.path == "/api/chat" and "format" in other else 1)


def check_held(outbounds: list[Outbound]) -> None:
    """Whatever is granted of the cost, the node spends no more."""
    found = bound(outbounds, USES.get(outbounds[0].path, Use.EMBED), UNKNOWN)
    for output in {found.least_output, (found.least_output + found.output) // 2, found.output}:
        with suppress(Refused):  # such as 1e400, wherever it stands: nothing is spent on it
            total = sum(held_to(outbound) for outbound in held(outbounds, UNKNOWN, output))
            assert found.least_output <= total <= output


def opened(gateway: Gateway, path: str, body: bytes) -> list[Outbound] | None:
    """What would go to the node; None: the request is refused."""
    try:
        return list(open_codec(gateway, "POST", path, body).outbounds)
    except ApiError:
        return None


# the recordings


def generating(record: Recording) -> bool:
    return record.method == "POST" and record.path in STRUCTS


ODD = [name for name in NAMES if name.startswith(("json-", "budget-")) and generating(recording(name))]
ODD.remove("json-deep")  # deeper than one of the two readers goes


@pytest.mark.parametrize("name", ODD)
def test_every_recorded_spelling_is_held(name: str) -> None:
    record = recording(name)
    outbounds = opened(OllamaNative(), record.path.removeprefix("/api"), record.body)
    if outbounds is None:
        assert record.head is not None
        assert record.head.status == 400
    else:
        check_held(outbounds)


def counted(name: str) -> dict[str, Any] | None:
    """The last line of an answer that tells its tokens, of a request that is understood."""
    record = recording(name)
    if name.startswith("http-") or not generating(record) or record.head is None or record.head.status != 200:
        return None
    last = record.messages[-1] if record.messages else {}
    return last if "eval_count" in last else None


COUNTED = [name for name in NAMES if counted(name)]


@pytest.mark.parametrize("name", COUNTED)
def test_every_recorded_answer_cost_no_more_than_its_bound(name: str) -> None:
    record, last = recording(name), counted(name)
    assert last is not None
    outbounds = opened(OllamaNative(), record.path.removeprefix("/api"), record.body)
    assert outbounds is not None
    found = bound(outbounds, USES[record.path], UNKNOWN, most=100_000)
    assert last["prompt_eval_count"] <= found.prompt
    assert last["eval_count"] <= found.output


def test_what_is_recorded_is_looked_at() -> None:
    assert len(ODD) > 30
    assert len(COUNTED) > 40


@pytest.mark.parametrize("name", ["budget-think-schema-12", "budget-think-schema-stream"])
def test_both_runs_of_a_thinking_model_with_a_format_are_within_the_bound(name: str) -> None:
    record, last = recording(name), counted(name)
    assert last is not None
    outbounds = opened(OllamaNative(), "/chat", record.body)
    assert outbounds is not None
    found = bound(outbounds, Use.CHAT, UNKNOWN)
    thought, prompt = 7, 24  # of the first run, which the node does not report
    assert found.prompt >= prompt + last["prompt_eval_count"]
    assert found.output == 24 >= thought + last["eval_count"]


# whatever else may come

NUMBERS = ["-1", "-2", "0", "0.5", "1", "3", "3.9", "1e3", "1E2", "-0", "5000", "9007199254740993", "1e300", "1e400"]
NUMBERS += ["18446744073709551616", "18446744073709551617", "9223372036854775807", "9223372036854775808"]
VALUES = [*NUMBERS, "null", "true", '"10"', '""', "[]", "[5]", "{}", '{"num_predict":5}']
LIMITS = [r"num_predict", "NUM_PREDICT", "Num_Predict", r"num\u005fpredict", "num_predict ", "draft_num_predict"]
OPTIONS = ["options", "OPTIONS", "Options", r"option\u017f", "option\u017f", r"\u006fptions", "opt\u0131ons"]
FORMATS = ["format", "FORMAT", "Format"]

scalars = st.sampled_from(VALUES)
others = st.sampled_from(['"seed":1', '"num_ctx":64', '"num_ctx":0', '"num_ctx":1e30', '"stop":["a"]', '"x":"\\ud800"'])
limits = st.builds(lambda key, value: f'"{key}":{value}', st.sampled_from(LIMITS), scalars)
objects = st.lists(limits | others, max_size=4).map(lambda members: "{" + ",".join(members) + "}")
options = st.builds(lambda key, value: f'"{key}":{value}', st.sampled_from(OPTIONS), objects | scalars)
formats = st.builds(
    lambda key, value: f'"{key}":{value}', st.sampled_from(FORMATS), st.sampled_from(["null", '""', '"json"', "{}"])
)
thinks = st.sampled_from(['"think":true', '"think":null', '"Think":false', r'"thin\u212a":true'])
prompts = st.sampled_from(['"prompt":"Why?"', '"prompt":""', '"PROMPT":"How?"', '"prompt":null'])
messages = st.sampled_from(['"messages":[{"role":"user","content":"a"}]', '"Messages":[{}]', '"messages":null'])
tails = st.sampled_from(["", "\n", '{"options":{"num_predict":-1}}', " x", "\x00"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body, most of which Ollama takes."""
    path = draw(st.sampled_from(sorted(STRUCTS)))
    first = '"messages":[{"role":"user","content":"a"}]' if path == "/api/chat" else '"prompt":"Why?"'
    prompt = messages if path == "/api/chat" else prompts
    members = ['"model":"m"', first, *draw(st.lists(options | options | formats | thinks | prompt, max_size=6))]
    body = "{" + ",".join(draw(st.permutations(members))) + "}" + draw(tails)
    return path, body.encode()


@given(requests())
@settings(max_examples=300)
def test_no_native_body_escapes(request: tuple[str, bytes]) -> None:
    path, body = request
    if outbounds := opened(OllamaNative(), path.removeprefix("/api"), body):
        check_held(outbounds)


ESCAPES = [
    ("/api/generate", b'{"model":"m","prompt":"a","options":{"num_predict":5},"options":null}'),
    ("/api/generate", b'{"model":"m","prompt":"a","options":{"num_predict":5},"Options":{"num_predict":-1}}'),
    ("/api/generate", b'{"model":"m","prompt":"a","options":{"num_predict":5,"num_predict":0}}'),
    (
        "/api/generate",
        '{"model":"m","prompt":"a","options":{"num_predict":5},"option\u017f":{"num_predict":0}}'.encode(),
    ),
    ("/api/generate", b'{"model":"m","prompt":"a","options":{"NUM_PREDICT":5}}'),
    ("/api/generate", b'{"model":"m","prompt":"a","options":{"num_predict":5}}{"options":{"num_predict":-1}}'),
    ("/api/generate", b'{"model":"m","prompt":"","prompt":"a","options":{"num_predict":0.9}}'),
    ("/api/chat", b'{"model":"m","messages":[],"MESSAGES":[{}],"options":{"num_predict":1e300}}'),
    ("/api/chat", b'{"model":"m","messages":[{}],"options":{"num_predict":5},"format":null}'),
    ("/api/chat", b'{"model":"m","messages":[{}],"options":{"num_predict":5},"format":"json","FORMAT":null}'),
    ("/api/chat", b'{"model":"m","messages":[{}],"options":{"num_predict":5},"format":""}'),
]


@pytest.mark.parametrize(("path", "body"), ESCAPES)
def test_known_escapes_are_shut(path: str, body: bytes) -> None:
    outbounds = opened(OllamaNative(), path.removeprefix("/api"), body)
    assert outbounds is not None
    check_held(outbounds)


def test_a_clear_body_below_its_grant_keeps_its_bytes() -> None:
    raw = b'{ "model":"m", "prompt":"a", "options":{"num_predict":5.0} }'
    outbounds = opened(OllamaNative(), "/generate", raw)
    assert outbounds is not None
    assert sent(held(outbounds, UNKNOWN, 5)[0]) == raw


def test_a_body_is_changed_in_its_bound_alone() -> None:
    deep = "[" * 9990 + "]" * 9990
    raw = f'{{"model":"m","prompt":"a","x":{deep},"options":{{"num_predict":50,"seed":7}},"stream":null}}'.encode()
    outbounds = opened(OllamaNative(), "/generate", raw)
    assert outbounds is not None
    changed = sent(held(outbounds, UNKNOWN, 5)[0])
    expected = raw.replace(b'"num_predict":50', b'"num_predict":5').replace(b',"stream":null', b"")
    assert changed == expected


# the other dialects

MAXIMA = st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens", "MAX_TOKENS", r"max_token\u017f"])
more = st.builds(lambda key, value: f'"{key}":{value}', MAXIMA, scalars)
count = st.sampled_from(['"n":1', '"n":3', '"n":16', '"n":0', '"N":9', '"best_of":3', '"n":null'])
native = st.sampled_from(['"options":{"num_predict":-1}', '"num_predict":-1', '"format":"json"', '"stream":true'])
wanted = st.sampled_from(
    [
        '"response_format":{"type":"json_object"}',
        '"text":{"format":{"type":"json_object"}}',
        '"reasoning_effort":"high"',
    ]
)
parameters = st.builds(lambda inner: f'"parameters":{inner}', objects)
DIALECTS: list[tuple[Gateway, str, str]] = [
    (OpenAI(), "/chat/completions", '"messages":[{"role":"user","content":"a"}]'),
    (OpenAI(), "/completions", '"prompt":["a","b"]'),
    (OpenAI(), "/responses", '"input":"a"'),
    (Anthropic(), "/messages", '"messages":[{"role":"user","content":"a"}]'),
    (OllamaSimple(), "/generate", '"prompt":"a"'),
    (OllamaSimple(), "/chat", '"messages":[{"role":"user","content":"a"}]'),
]


@pytest.mark.parametrize(("gateway", "path", "asked"), DIALECTS)
@given(data=st.data())
@settings(max_examples=50)
def test_no_body_of_another_dialect_escapes(gateway: Gateway, path: str, asked: str, data: st.DataObject) -> None:
    kinds = more | more | (parameters if isinstance(gateway, OllamaSimple) else count | native | wanted)
    members = ['"model":"m"', asked, *data.draw(st.lists(kinds, max_size=5))]
    body = ("{" + ",".join(data.draw(st.permutations(members))) + "}").encode()
    if outbounds := opened(gateway, path, body):
        check_held(outbounds)


@pytest.mark.parametrize(
    ("gateway", "path", "body", "output"),
    [
        (OpenAI(), "/chat/completions", {"max_tokens": 7, "n": 3}, 21),
        (OpenAI(), "/chat/completions", {"max_tokens": 900, "max_completion_tokens": 7}, 7),
        (OpenAI(), "/responses", {"input": "a", "max_output_tokens": 7}, 7),
        (OpenAI(), "/completions", {"prompt": ["a", "b"], "max_tokens": 7, "n": 2}, 28),
        (Anthropic(), "/messages", {"max_tokens": 7}, 7),
    ],
)
def test_a_dialects_own_maximum_is_the_bound(gateway: Gateway, path: str, body: dict[str, Any], output: int) -> None:
    question = {} if "prompt" in body or "input" in body else {"messages": [{"role": "user", "content": "a"}]}
    outbounds = opened(gateway, path, json.dumps({"model": "m", **question, **body}).encode())
    assert outbounds is not None
    assert bound(outbounds, Use.CHAT, UNKNOWN).output == output
    assert held(outbounds, UNKNOWN, output) is outbounds
    check_held(outbounds)
