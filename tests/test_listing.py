"""A node's models as a family lists them, in every dialect alike: what an alias hides, and what it adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from dialects import installed

from parallama import listed
from parallama.errors import ModelUnknown, UpstreamFailed
from parallama.gateway.api import Codec, Route
from parallama.gateway.listing import modified
from parallama.testing import Transcript, inbound

TAGS: dict[str, Any] = {
    "models": [
        {"name": "Me/Mine:7b", "model": "Me/Mine:7b", "modified_at": "2026-11-21T03:52:33.881760197+02:00", "size": 7},
        {"name": "llama3:latest", "model": "llama3:latest", "modified_at": "2026-11-20T00:00:00Z", "size": 3},
        {"name": "odd", "model": "odd", "modified_at": "yesterday", "size": 1},
    ]
}
NAMES = ["Me/Mine:7b", "llama3:latest", "odd"]


def names(aliases: Mapping[str, str], tags: Mapping[str, Any] = TAGS) -> list[str]:
    return [name for name, _entry in listed(tags, aliases)]


def test_without_aliases_the_nodes_own_models_are_listed_in_their_order() -> None:
    assert listed(TAGS, {}) == list(zip(NAMES, TAGS["models"], strict=True))


def test_an_alias_has_the_entry_of_its_model_under_its_own_name() -> None:
    found = listed(TAGS, {"gpt-4": "LLaMA3", "tiny": "registry.ollama.ai/library/odd"})
    assert [name for name, _entry in found] == [*NAMES, "gpt-4", "tiny"]
    assert dict(found)["gpt-4"] == {**TAGS["models"][1], "name": "gpt-4", "model": "gpt-4"}
    assert TAGS["models"][1]["name"] == "llama3:latest", "the node's entry is not touched"


@pytest.mark.parametrize(
    ("aliases", "found"),
    [
        ({"gpt-4": "nosuch"}, NAMES),
        ({"LLAMA3": "odd"}, ["Me/Mine:7b", "odd", "LLAMA3"]),
        ({"llama3:latest": "nosuch"}, ["Me/Mine:7b", "odd"]),
        ({"odd": "odd"}, [*NAMES[:2], "odd"]),
        ({"a": "odd", "odd": "llama3"}, [*NAMES[:2], "a", "odd"]),
        ({"a": "b", "b": "odd"}, [*NAMES, "b"]),
    ],
)
def test_an_alias_hides_a_model_of_its_name_and_is_listed_where_its_own_is_there(
    aliases: dict[str, str], found: list[str]
) -> None:
    assert names(aliases) == found


def test_entries_without_names_are_listed_all_the_same() -> None:
    entries = [{}, {"name": None, "model": "m"}, {"name": 5}]
    assert names({"x": "m"}, {"models": entries}) == ["", "m", "5", "x"]


@pytest.mark.parametrize("tags", [{"models": []}, {"models": None}, {}])
def test_a_node_without_models_has_none_to_list(tags: dict[str, Any]) -> None:
    assert listed(tags, {"gpt-4": "llama3"}) == []


DEEP: Any = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize("models", [5, "m", {"a": 1}, [5], [{}, None], [{"name": "a", "details": DEEP}]])
def test_what_is_no_list_of_models_is_a_failure_of_the_node(models: Any) -> None:
    with pytest.raises(UpstreamFailed):
        listed({"models": models}, {})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("2026-11-21T03:52:33.881760197+02:00", datetime(2026, 11, 21, 1, 52, 33, tzinfo=UTC)),
        ("2026-11-21T01:52:33Z", datetime(2026, 11, 21, 1, 52, 33, tzinfo=UTC)),
        ("2026-11-21T01:52:33", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("yesterday", None),
        (5, None),
        (None, None),
    ],
)
def test_the_time_of_a_model_is_told_in_utc_or_is_unknown(given: Any, told: datetime | None) -> None:
    assert modified({"modified_at": given}) == told
    assert modified({}) is None


# in every dialect


def found_by(codec: Codec) -> list[str]:
    """The names in what a client gets of the node's models."""
    answer = Transcript.document(TAGS)
    codec.begin(answer.head)
    told = json.loads(codec.feed(answer.body) + codec.finish())
    return [entry.get("id") or entry["name"] for entry in told.get("data") or told.get("models") or [told]]


def routes(*ends: str) -> list[Any]:
    """The GET routes of all dialects with paths that end so."""
    return [
        pytest.param(route, id=gateway.paths[0] + route.path)
        for gateway in installed()
        for route in gateway.routes()
        if route.method == "GET" and (gateway.paths[0] + route.path).endswith(ends)
    ]


ALIASES = {"gpt-4": "llama3", "LLAMA3": "odd", "me/mine:7b": "nosuch", "gone": "nosuch"}
LISTS, ONES = routes("/models", "/tags"), routes("/{model:.+}")


def test_every_dialect_has_a_list() -> None:
    assert {"/v1", "/anthropic/v1", "/ollama/v1", "/ollama/api"} <= {str(one.id).rpartition("/")[0] for one in LISTS}


@pytest.mark.parametrize("route", LISTS)
def test_every_dialect_lists_the_same_in_the_same_order(route: Route) -> None:
    assert found_by(route.open(inbound(method="GET", aliases=ALIASES))) == ["odd", "gpt-4", "LLAMA3"]


@pytest.mark.parametrize("route", ONES)
def test_a_model_is_told_by_name_exactly_where_it_is_listed(route: Route) -> None:
    def one(name: str) -> Codec:
        return route.open(inbound(method="GET", params={"model": name}, aliases=ALIASES))

    for name in ("odd", "gpt-4", "llama3:latest"):
        assert found_by(one(name)) == [name]
    for name in ("me/mine:7b", "gone"):
        with pytest.raises(ModelUnknown):
            found_by(one(name))
