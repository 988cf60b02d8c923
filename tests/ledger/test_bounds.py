"""A request costs no more than was reserved for it: what it can cost is known before, and the node is held to it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from held import held
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import recording

from parallama.gateway.api import Outbound, Use
from parallama.gateway.described import Model, described
from parallama.ledger.bounds import DEFAULT_OUTPUT, UNBOUNDED, bound, likely_output, most_output
from parallama.ledger.prompts import IMAGE_TOKENS
from parallama.ledger.store import Cost
from parallama.limits import Limit, Meter, Period, Scope

PNG = "iVBORw0KGgo="
UNKNOWN = Model()
PLAIN = Model(capabilities=frozenset({"completion"}))
THINKER = Model(capabilities=frozenset({"completion", "thinking"}))
USES = {"/api/chat": Use.CHAT, "/api/generate": Use.GENERATE}


def outbound(path: str, **body: Any) -> Outbound:
    whole = {"model": "m", **body}
    return Outbound(method="POST", path=path, model="m", body=whole, raw=orjson.dumps(whole))


def chat(*contents: str, **body: Any) -> Outbound:
    return outbound("/api/chat", messages=[{"role": "user", "content": text} for text in contents or ("Hi",)], **body)


def generate(prompt: str = "Hi", **body: Any) -> Outbound:
    return outbound("/api/generate", prompt=prompt, **body)


def cost(*outbounds: Outbound, model: Model = PLAIN, most: int | None = None, image_tokens: int = 100) -> Cost:
    use = USES.get(outbounds[0].path, Use.EMBED)
    return bound(outbounds, use, model, most=most, image_tokens=image_tokens)


def imposed(*outbounds: Outbound, output: int, model: Model = PLAIN) -> list[int]:
    return [(sent.body or {})["options"]["num_predict"] for sent in held(outbounds, model, output)]


def limit(meter: Meter, most: int | None = None) -> Limit:
    scope = Scope("*", None, meter, Period.HOUR)
    return Limit(subject=uuid4(), scope=scope, amount=1, max_output_tokens=most)


# what a prompt may have

SECRET = "geheim\u00fc" * 50
HIDDEN: list[dict[str, Any]] = [
    {"content": SECRET},
    {"thinking": SECRET},
    {"Content": SECRET},
    {"whatever": SECRET},
    {SECRET: 1},
    {"tool_calls": [{"function": {"name": "f", "arguments": {"images": SECRET}}}]},
    {"images": SECRET},
    {"images": {"a": SECRET}},
    {"images": [{"a": SECRET}]},
]


@pytest.mark.parametrize("message", HIDDEN)
def test_text_counts_under_whatever_key_it_lies(message: dict[str, Any]) -> None:
    assert cost(outbound("/api/chat", messages=[message])).prompt >= len(SECRET.encode())


@pytest.mark.parametrize("field", ["suffix", "system", "tools", "unheard", "context"])
def test_text_counts_in_every_field(field: str) -> None:
    hidden: dict[str, Any] = {field: {"images": SECRET}}
    assert cost(generate(**hidden)).prompt >= len(SECRET.encode())


def test_text_in_fragments_counts() -> None:
    messages = orjson.Fragment(orjson.dumps([{"content": SECRET}]))
    assert cost(outbound("/api/chat", messages=messages)).prompt >= len(SECRET.encode())


def test_text_that_an_equal_key_hides_counts() -> None:
    message = b'[{"content":"' + SECRET.encode() + b'","content":"Hi"}]'
    assert cost(outbound("/api/chat", messages=orjson.Fragment(message))).prompt >= len(SECRET.encode())


def test_every_message_costs_what_a_template_writes_round_it() -> None:
    many: list[Any] = [None] * 1000
    assert cost(outbound("/api/chat", messages=many)).prompt >= 16 * 1000


def test_every_text_to_embed_costs_the_tokens_round_it() -> None:
    assert cost(outbound("/api/embed", input=["a"] * 1000)).prompt >= 16 * 1000


@pytest.mark.parametrize("tools", [{"tools": ["<>&" * 100]}, {"tools": [[1e20] * 300]}])
def test_json_counts_as_the_node_writes_it(tools: dict[str, Any]) -> None:
    written_by_go = 6 * 300 if "<" in tools["tools"][0] else 21 * 300
    assert cost(chat(**tools)).prompt >= written_by_go


def test_json_of_earlier_calls_counts_as_the_node_writes_it() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "<" * 300}}}]}
    assert cost(outbound("/api/chat", messages=[call])).prompt >= 6 * 300


@pytest.mark.parametrize("spelling", ["images", "Images", "IMAGES", "image\u017f"])
def test_an_image_costs_what_an_image_costs_whatever_its_size(spelling: str) -> None:
    small = outbound("/api/chat", messages=[{"content": "", spelling: [PNG]}])
    large = outbound("/api/chat", messages=[{"content": "", spelling: [PNG * 100_000]}])
    assert 100 <= cost(small).prompt == cost(large).prompt < 300
    assert bound([small], Use.CHAT, PLAIN).prompt >= IMAGE_TOKENS


def test_images_cost_in_fragments_and_in_single_prompts_too() -> None:
    messages = orjson.dumps([{"images": [PNG * 100_000, PNG]}])
    assert 200 <= cost(outbound("/api/chat", messages=orjson.Fragment(messages))).prompt < 400
    assert 200 <= cost(generate(images=[PNG * 100_000, PNG])).prompt < 400
    assert 200 <= cost(generate(images=orjson.Fragment(orjson.dumps([PNG * 100_000, PNG])))).prompt < 400


def test_sound_costs_by_its_length() -> None:
    wav = "UklGR" + "A" * 320_000
    assert cost(chat()).prompt + 10_000 <= cost(outbound("/api/chat", messages=[{"images": [wav]}])).prompt < 12_000


def test_an_earlier_context_costs_a_token_an_id() -> None:
    without = cost(generate()).prompt
    assert without + 500 <= cost(generate(context=[128_000] * 500)).prompt < without + 520


def test_what_the_model_says_before_the_client_counts() -> None:
    assert cost(chat(), model=Model(own_bytes=1000)).prompt == cost(chat(), model=UNKNOWN).prompt + 1000


@pytest.mark.parametrize(
    ("num_ctx", "model", "most"),
    [
        (64, PLAIN, 256),
        (300, PLAIN, 512),
        (300.9, PLAIN, 512),
        (0, PLAIN, 256),
        (-1, PLAIN, 256),
        (64, Model(capabilities=frozenset({"vision"})), 2048),
        (64, UNKNOWN, 2048),
        (100_000, Model(longest_context=8192), 8192),
        (None, Model(longest_context=8192), 8192),
        ("64", Model(longest_context=8192), 8192),
        (1e30, Model(longest_context=8192), 8192),
    ],
)
def test_a_prompt_is_never_longer_than_the_context(num_ctx: Any, model: Model, most: int) -> None:
    found = cost(generate("a" * 50_000, options={"num_ctx": num_ctx}), model=model)
    assert (found.prompt, found.prompt_estimate) == (most, most)


def test_without_a_known_context_nothing_caps_the_prompt() -> None:
    assert cost(generate("a" * 50_000)).prompt > 50_000


def test_each_text_to_embed_has_the_context_for_itself() -> None:
    texts = ["a" * 5000, "b" * 5000, "c"]
    assert cost(outbound("/api/embed", input=texts, options={"num_ctx": 512})).prompt == 3 * 512


def test_a_template_of_the_client_may_fill_the_context() -> None:
    template = '{{printf "%100000d" 1}}'
    assert cost(generate(template=template)).prompt >= 100_000
    assert cost(generate(template=template, options={"num_ctx": 600})).prompt == 768
    assert cost(generate(template="")).prompt < 100


def test_an_estimate_is_a_third_of_the_bytes() -> None:
    found = cost(generate("a" * 30_000))
    assert 10_000 <= found.prompt_estimate <= 10_050 < found.prompt


@settings(max_examples=50)
@given(
    st.recursive(
        st.text() | st.integers(-9, 9) | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_text_escapes_at_any_depth(value: Any) -> None:
    texts, todo = 0, [value]
    while todo:
        match todo.pop():
            case str(text):
                texts += len(text.encode(errors="replace"))
            case list(items):
                todo += items
            case dict(members):
                todo += [*members, *members.values()]
            case _:
                pass
    assert cost(chat(unheard=value), model=PLAIN).prompt >= texts


# what an answer may have


@pytest.mark.parametrize("asked", [None, 0, -1, -2, 0.5, "10", True, [], 1e30, 2.0**64])
def test_a_client_that_names_no_maximum_asks_for_the_most(asked: Any) -> None:
    assert cost(chat(options={"num_predict": asked})).output == DEFAULT_OUTPUT
    assert cost(chat(options={"num_predict": asked}), most=50).output == 50
    assert cost(chat(options=None)).output == DEFAULT_OUTPUT


@pytest.mark.parametrize(("asked", "output"), [(1, 1), (100, 100), (3.9, 3), (1e3, 1000), (5000, 4096)])
def test_a_client_asks_for_its_own_maximum(asked: float, output: int) -> None:
    assert cost(chat(options={"num_predict": asked})).output == output


@pytest.mark.parametrize("asked", [-1, 0, 5000, None])
def test_no_answer_is_longer_than_ten_contexts(asked: int | None) -> None:
    assert cost(generate(options={"num_ctx": 64, "num_predict": asked})).output == 640


def test_the_maximum_of_the_model_holds_for_a_client_that_says_nothing() -> None:
    model = Model(own_output=100)
    assert cost(chat(), model=model).output == 100
    assert imposed(chat(), output=100, model=model) == [100]
    assert cost(chat(options={"num_predict": 200}), model=model).output == 200
    assert cost(chat(options={"num_predict": -1}), model=model).output == DEFAULT_OUTPUT


@pytest.mark.parametrize("format", ["json", {"type": "object"}, "", None])
@pytest.mark.parametrize("think", [{"think": True}, {"think": "low"}, {"think": False}, {}])
@pytest.mark.parametrize("model", [THINKER, UNKNOWN])
def test_thinking_and_a_format_make_two_runs_of_a_chat(format: Any, think: dict[str, Any], model: Model) -> None:
    once, twice = chat(**think, options={"num_predict": 12}), chat(**think, format=format, options={"num_predict": 12})
    found = cost(twice, model=model)
    assert (found.output, found.least_output) == (24, 2)
    # the second run is told what the first has thought
    assert found.prompt >= 2 * cost(once, model=model).prompt + 12
    assert found.prompt_estimate >= 2 * cost(once, model=model).prompt_estimate
    assert imposed(twice, output=23, model=model) == [11]
    assert imposed(twice, output=2, model=model) == [1]
    assert held([twice], model, 24)[0] is twice


def test_one_run_is_all_that_others_need() -> None:
    assert cost(chat(format="json"), model=PLAIN).least_output == 1
    assert cost(chat(think=True), model=THINKER).least_output == 1
    assert cost(generate(format="json", think=True), model=THINKER).least_output == 1


def test_a_prompt_that_is_read_twice_is_capped_twice() -> None:
    found = cost(chat("a" * 5000, format="json", options={"num_ctx": 512}), model=THINKER)
    assert found.prompt == 2 * 512


def test_several_answers_add_up() -> None:
    one, other = generate("a" * 100, options={"num_predict": 5}), generate("b" * 200)
    both = cost(one, other)
    assert both.prompt == cost(one).prompt + cost(other).prompt
    assert (both.output, both.least_output) == (5 + DEFAULT_OUTPUT, 2)


_MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "thinking", "tool_name", "images"]), st.text(max_size=9))
    | st.text()
)
_MODELS = st.builds(
    Model,
    longest_context=st.none() | st.integers(1, 3000),
    own_bytes=st.integers(0, 3000),
    own_output=st.none() | st.integers(1, 9000),
)


_NUMBERS = st.none() | st.integers(-2, 9000) | st.floats(-2, 9000) | st.just("5")
_OPTIONS = st.fixed_dictionaries(
    {}, optional={"num_predict": _NUMBERS, "num_ctx": _NUMBERS, "stop": st.lists(st.text(max_size=3), max_size=2)}
)
_MORE = st.fixed_dictionaries(
    {},
    optional={
        "options": st.none() | _OPTIONS,
        "tools": st.sampled_from([None, [], [{"type": "<"}]]),
        "think": st.booleans(),
        "format": st.just("json"),
        "stream": st.booleans(),
    },
)


@settings(max_examples=400)
@given(_MESSAGES, _MODELS, st.none() | st.integers(1, 9000), _MORE)
def test_an_answer_alone_costs_half_of_two(
    messages: list[Any], model: Model, most: int | None, more: dict[str, Any]
) -> None:
    asked = outbound("/api/chat", messages=messages, **more)
    one, both = (bound([asked] * times, Use.CHAT, model, most=most, weight=2.0) for times in (1, 2))
    assert both == one._replace(
        prompt=2 * one.prompt,
        prompt_estimate=2 * one.prompt_estimate,
        output=2 * one.output,
        least_output=2 * one.least_output,
        shares=[*one.shares, *one.shares],
    )
    if one.output:
        (sent,) = held([asked], model, one.least_output)
        assert sent.body is asked.body or sent.written == orjson.dumps(sent.body)


# what costs nothing, and what cannot be held

FREE = [
    outbound("/api/generate"),
    outbound("/api/generate", prompt=""),
    outbound("/api/generate", prompt="", keep_alive=0, system="Be brief."),
    outbound("/api/chat"),
    outbound("/api/chat", messages=[]),
    outbound("/api/chat", messages=orjson.Fragment(b" [ ] ")),
    outbound("/api/embed", input=[]),
    outbound("/api/embed", input=""),
    outbound("/api/embeddings", prompt=""),
    outbound("/api/experimental/web_search", query="Why?"),
    Outbound(method="GET", path="/api/tags"),
]


@pytest.mark.parametrize("free", FREE)
def test_a_request_without_a_prompt_costs_nothing_and_stays_as_it_is(free: Outbound) -> None:
    cost = bound([free], Use.CHAT, UNKNOWN)
    assert (cost.prompt, cost.prompt_estimate, cost.output, cost.least_output) == (0, 0, 0, 0)
    assert held([free], UNKNOWN, 0)[0] is free


@pytest.mark.parametrize("use", [Use.MANAGE, Use.SHOW, Use.LIST])
def test_what_manages_models_costs_no_tokens(use: Use) -> None:
    assert bound([outbound("/api/create", system="a" * 1000)], use, UNKNOWN).prompt == 0


def test_embeddings_have_no_output() -> None:
    for asked in (outbound("/api/embed", input="Why?"), outbound("/api/embeddings", prompt="Why?")):
        found = cost(asked)
        assert (found.output, found.least_output) == (0, 0)
        assert found.prompt >= 4
        assert held([asked], UNKNOWN, 0)[0] is asked


DEEP = orjson.Fragment(b'[{"content":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}]")
STRANGE = [
    outbound("/v1/chat/completions", messages=[], max_tokens=5),
    Outbound(method="POST", path="/api/chat"),
    outbound("/api/chat", messages=[{}], options={"num_predict": 1}, Options={"num_predict": -1}),
    outbound("/api/chat", messages=[{}], Format="json"),
    outbound("/api/chat", Messages=[{}]),
    outbound("/api/generate", **{"opt\u0131ons": {}, "\u017fuffix": "x"}),
    outbound("/api/chat", messages=[{}], options=orjson.Fragment(b'{"num_predict":1}')),
    outbound("/api/chat", messages=DEEP),
]


@pytest.mark.parametrize("strange", STRANGE)
def test_what_cannot_be_held_is_more_than_any_limit(strange: Outbound) -> None:
    found = bound([chat(), strange], Use.CHAT, PLAIN)
    assert (found.prompt, found.prompt_estimate, found.output, found.least_output) == (UNBOUNDED,) * 4


def test_messages_of_another_type_are_left_for_the_node_to_refuse() -> None:
    for messages in (5, True, "Hi", {"a": 1}):
        assert cost(outbound("/api/chat", messages=messages)).prompt < 100


# what the limits say


def test_the_least_output_of_the_limits_that_count_it_holds() -> None:
    tokens, output, prompt = Meter.TOTAL_TOKENS, Meter.OUTPUT_TOKENS, Meter.PROMPT_TOKENS
    assert most_output([limit(Meter.REQUESTS, 5), limit(prompt, 5), limit(Meter.CONCURRENCY)]) is None
    assert most_output([limit(tokens)]) == DEFAULT_OUTPUT
    assert most_output([limit(output, 9000)]) == 9000
    assert most_output([limit(output, 9000), limit(tokens)]) == DEFAULT_OUTPUT
    assert most_output([limit(output, 9000), limit(tokens, 7), limit(prompt, 5)]) == 7


# what an answer has at most when nothing holds it


@pytest.mark.parametrize(
    ("asked", "model", "most"),
    [
        ([generate()], UNKNOWN, 100),
        ([generate(options={"num_predict": 7})], UNKNOWN, 7),
        ([generate(options={"num_predict": 700})], UNKNOWN, 700),
        ([generate(options={"num_predict": 10**9, "num_ctx": 64})], PLAIN, 640),
        ([generate(options={"num_predict": -1})], UNKNOWN, 100),
        ([generate()], Model(own_output=50), 50),
        ([generate()], Model(longest_context=4), 40),
        ([generate(), generate(options={"num_predict": 7})], UNKNOWN, 107),
        ([chat(format="json")], THINKER, 200),
        ([generate(Options={"num_predict": 7})], UNKNOWN, 100),
    ],
)
def test_a_free_answer_has_what_its_client_asks_for_or_the_default(
    asked: list[Outbound], model: Model, most: int
) -> None:
    assert likely_output(asked, model, 100) == most


# how a node is held


def test_what_the_client_already_holds_itself_to_stays_byte_for_byte() -> None:
    asked = [chat(options={"num_predict": 5}), chat(options={"num_predict": 9.7})]
    assert held(asked, PLAIN, 14) is asked
    assert held(asked, PLAIN, 100) is asked


def test_only_what_asks_for_more_is_changed() -> None:
    asked = [chat(options={"num_predict": 5, "seed": 3}), chat(options={"num_predict": 9, "seed": 4})]
    first, second = held(asked, PLAIN, 13)
    assert first is asked[0]
    assert second.body == {**(asked[1].body or {}), "options": {"num_predict": 8, "seed": 4}}
    assert second.raw is None
    assert (asked[1].body or {})["options"]["num_predict"] == 9
    assert second.body["messages"] is (asked[1].body or {})["messages"]


@pytest.mark.parametrize("options", [{}, {"options": None}, {"options": {}}, {"options": {"num_predict": 0}}])
def test_a_bound_is_set_where_there_is_none(options: dict[str, Any]) -> None:
    assert imposed(chat(**options), output=7) == [7]


def test_no_bound_is_above_ten_contexts() -> None:
    assert imposed(generate(options={"num_ctx": 64}), output=4096) == [640]


@pytest.mark.parametrize("output", [0, 1, 2])
def test_too_little_for_every_answer_is_not_sent(output: int) -> None:
    with pytest.raises(ValueError, match="too few for 3 answers"):
        held([chat(), chat(format="json")], THINKER, output)


ASKED = st.lists(st.tuples(st.sampled_from([None, 1, 2, 5, 4000, 9000, -1]), st.booleans()), min_size=1, max_size=6)


@given(ASKED, st.integers(1, 10_000), st.data())
def test_answers_never_have_more_together_than_was_granted(
    asked: list[tuple[int | None, bool]], most: int, data: st.DataObject
) -> None:
    outbounds = [chat(options={"num_predict": n}, **({"format": "json"} if twice else {})) for n, twice in asked]
    found = bound(outbounds, Use.CHAT, THINKER, most=most)
    granted = data.draw(st.integers(found.least_output, found.output))
    bounds = imposed(*outbounds, output=granted, model=THINKER)
    runs = [2 if twice else 1 for _, twice in asked]
    assert sum(run * tokens for run, tokens in zip(runs, bounds, strict=True)) <= granted
    assert all(1 <= tokens <= most for tokens in bounds)
    assert granted < found.output or sum(run * n for run, n in zip(runs, bounds, strict=True)) == found.output


# what is known of a model


def test_a_model_is_known_by_its_description() -> None:
    shown = recording("show").messages[0]
    found = described(shown)
    assert (found.longest_context, found.capabilities) == (8192, frozenset({"completion"}))
    assert found.own_bytes >= len(shown["template"])
    assert found.own_output is None


def test_all_that_a_model_says_itself_counts() -> None:
    show = {
        "system": "ü" * 10,
        "messages": [{"role": "user", "content": "a" * 100}],
        "parameters": "num_predict 50\nstop x",
    }
    found = described(show)
    assert found.own_bytes >= 20 + 100 + 2 * 16
    assert (found.own_output, found.longest_context) == (50, None)
    assert described({"parameters": "num_predict -1"}) == described({"parameters": None, "messages": None})


def test_what_says_something_else_is_the_same_request() -> None:
    one = Outbound(
        method="PUT",
        path="/api/chat",
        model="a",
        target="b",
        model_key="name",
        body={"model": "a"},
        unasked=("top_k",),
        raw=b"{}",
        names=("c",),
        leaves_node=True,
        written=b"{}",
    )
    other = one.saying({"model": "b"})
    assert other == replace(one, body={"model": "b"}, raw=None, written=None)
    plain = Outbound(method="GET", path="/")
    assert all(getattr(one, field.name) != getattr(plain, field.name) for field in fields(Outbound))
