"""Names of models that only a family has, and the parameters that go with them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from parallama.gateway.api import Outbound
from parallama.gateway.mappings import Aliases, ModelMapping


def aliases(**mappings: Any) -> Aliases:
    return Aliases({alias: ModelMapping.model_validate(given) for alias, given in mappings.items()})


def chat(model: str | None, **body: Any) -> Outbound:
    raw = b"the client's bytes"
    return Outbound(method="POST", path="/api/chat", model=model, body={"model": model, **body}, raw=raw)


@pytest.mark.parametrize("asked", ["gpt", "gpt:latest", "GPT", " gpt ", "library/gpt"])
def test_an_alias_is_found_as_ollama_finds_a_name(asked: str) -> None:
    found = aliases(gpt="llama2:70b").resolve(chat(asked, stream=True), parameters=True)
    assert (found.model, found.target, found.raw) == (asked, "llama2:70b", None)
    assert found.body == {"model": "llama2:70b", "stream": True}


@pytest.mark.parametrize("asked", ["gpt:7b", "gpt4", "llama2:70b", None, ""])
def test_other_names_pass_as_they_came(asked: str | None) -> None:
    outbound = chat(asked)
    assert aliases(gpt="llama2:70b").resolve(outbound, parameters=True) is outbound


def test_an_alias_leads_to_a_model_and_never_to_another_alias() -> None:
    names = aliases(one="two", two="three")
    assert names.target("one") == "two"
    assert names.resolve(chat("one"), parameters=True).target == "two"


def test_two_spellings_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="the same to Ollama: gpt:latest"):
        Aliases({"gpt": ModelMapping(model="a"), "GPT:latest": ModelMapping(model="b")})


def test_defaults_fill_in_only_where_the_client_says_nothing() -> None:
    mapping = {"model": "m", "num_ctx": 8192, "keep_alive": "30m", "parameters": {"options.temperature": 0.2}}
    names = aliases(gpt=mapping)
    assert names.resolve(chat("gpt"), parameters=True).body == {
        "model": "m",
        "keep_alive": "30m",
        "options": {"num_ctx": 8192, "temperature": 0.2},
    }
    said = {"keep_alive": 0, "options": {"num_ctx": 512, "temperature": 0, "seed": 1}}
    assert names.resolve(chat("gpt", **said), parameters=True).body == {"model": "m", **said}


def test_a_default_goes_before_what_the_codec_filled_in_and_not_before_the_client() -> None:
    names = aliases(gpt={"model": "m", "parameters": {"think": "high", "options.seed": 1}})
    filled = replace(chat("gpt", think=False, options={"seed": 2}), unasked=("think",))
    assert names.resolve(filled, parameters=True).body == {"model": "m", "think": "high", "options": {"seed": 2}}


@pytest.mark.parametrize("keep_alive", ["30m", "1h30m", "-1", "-1m", "0", "1.5h", 300, -1, 0, 2.5])
def test_a_model_may_stay_loaded_for_whatever_ollama_takes(keep_alive: Any) -> None:
    names = aliases(gpt={"model": "m", "keep_alive": keep_alive})
    assert names.resolve(chat("gpt"), parameters=True).body == {"model": "m", "keep_alive": keep_alive}


def test_a_null_is_as_good_as_nothing() -> None:
    names = aliases(gpt={"model": "m", "parameters": {"options.temperature": 0.2, "think": False}})
    asked = chat("gpt", think=None, options={"temperature": None})
    assert names.resolve(asked, parameters=True).body == {"model": "m", "think": False, "options": {"temperature": 0.2}}
    assert names.resolve(chat("gpt", options=None), parameters=True).body == {
        "model": "m",
        "think": False,
        "options": {"temperature": 0.2},
    }


def test_a_forced_value_is_sent_whatever_the_client_says() -> None:
    forced = {
        "options.num_ctx": {"value": 4096, "allow_override": False},
        "think": {"value": False, "allow_override": False},
    }
    names = aliases(gpt={"model": "m", "parameters": forced})
    asked = chat("gpt", think="high", options={"num_ctx": 9, "seed": 1})
    assert names.resolve(asked, parameters=True).body == {
        "model": "m",
        "think": False,
        "options": {"num_ctx": 4096, "seed": 1},
    }
    assert names.resolve(chat("gpt", options="nonsense"), parameters=True).body["options"] == {"num_ctx": 4096}  # type: ignore[index]


def test_a_default_does_not_replace_what_the_node_would_refuse() -> None:
    names = aliases(gpt={"model": "m", "parameters": {"options.num_ctx": 4096}})
    assert names.resolve(chat("gpt", options="nonsense"), parameters=True).body == {"model": "m", "options": "nonsense"}


def test_the_client_s_own_body_is_not_changed() -> None:
    asked = chat("gpt", options={"seed": 1})
    aliases(gpt={"model": "m", "num_ctx": 9}).resolve(asked, parameters=True)
    assert asked.body == {"model": "gpt", "options": {"seed": 1}}


def test_without_parameters_only_the_name_changes() -> None:
    found = aliases(gpt={"model": "m", "num_ctx": 9}).resolve(chat("gpt"), parameters=False)
    assert found.body == {"model": "m"}


@pytest.mark.parametrize(
    ("mapping", "wrong"),
    [
        ("", "at least 1 character"),
        ({"model": "m", "num_ctx": 0}, "greater than or equal to 1"),
        ({"model": "m", "numctx": 1}, "not permitted"),
        ({"model": "m", "parameters": {"temperature": 1}}, "did you mean options.temperature"),
        ({"model": "m", "parameters": {"messages": []}}, "no field"),
        ({"model": "m", "parameters": {"model": "x"}}, "no field"),
        ({"model": "m", "parameters": {"options..x": 1}}, "no path"),
        ({"model": "m", "parameters": {"options.x": {"value": 1, "override": True}}}, "not permitted"),
        ({"model": "a\nb"}, "match"),
        (7, "valid dictionary"),
        ({"model": "m", "keep_alive": "30q"}, "a duration such as 30m"),
        ({"model": "m", "keep_alive": True}, "a duration such as 30m"),
        ({"model": "m", "parameters": {"options.x": {"allow_override": False}}}, "lacks its value"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_what_would_be_right(mapping: Any, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        ModelMapping.model_validate(mapping)


_values = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
_json = st.recursive(
    _values, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@given(
    options=_json,
    value=_json,
    path=st.sampled_from(["options", "options.a", "options.a.b", "format"]),
    force=st.booleans(),
)
def test_no_body_and_no_value_breaks_it_and_a_forced_one_is_always_there(
    options: Any, value: Any, path: str, force: bool
) -> None:
    parameter = {"value": value, "allow_override": not force}
    names = aliases(gpt={"model": "m", "parameters": {path: parameter}})
    body: Any = names.resolve(chat("gpt", options=options), parameters=True).body
    assert body["model"] == "m"
    if force:
        for step in path.split("."):
            body = body[step]
        assert body == value
