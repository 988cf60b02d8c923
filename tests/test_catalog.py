"""What the nodes have."""

import pytest

from parallama.gateway.described import described
from parallama.gateway.names import canonical
from parallama.nodes.catalog import Catalog

TAGS = {
    "models": [
        {"name": "Wordy:latest", "digest": "d1", "capabilities": ["completion", "tools"]},
        {"name": "wordy-copy:latest", "digest": "d1"},
        {"name": "host.example/team/other:7b", "digest": "d2", "remote_model": "x"},
        "nonsense",
    ]
}
PS = {"models": [{"name": "wordy:latest", "digest": "d1", "context_length": 2048}]}


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog()
    catalog.fill(TAGS, PS)
    return catalog


@pytest.mark.parametrize(
    "name", ["wordy", "WORDY", " wordy:latest ", "library/wordy", "registry.ollama.ai/library/wordy"]
)
def test_names_match_as_ollama_matches_them(catalog: Catalog, name: str) -> None:
    assert catalog.exists(name)
    assert catalog.capabilities(name) == {"completion", "tools"}


def test_a_port_is_no_tag() -> None:
    assert canonical("127.0.0.1:5000/library/wordy") == "127.0.0.1:5000/library/wordy:latest"


def test_the_loaded_context_is_found_by_digest_under_every_name(catalog: Catalog) -> None:
    assert catalog.context("wordy") == catalog.context("wordy-copy") == 2048
    assert catalog.context("host.example/team/other:7b") is None


def test_stubs_of_cloud_models_are_known(catalog: Catalog) -> None:
    assert catalog.remote("host.example/team/other:7b")
    assert not catalog.remote("wordy")


def test_only_local_models_that_complete_are_offered_for_a_prompt(catalog: Catalog) -> None:
    stub = {"name": "stub:latest", "digest": "d3", "capabilities": ["completion"], "remote_host": "x"}
    catalog.fill({"models": [stub, *TAGS["models"]]}, PS)
    assert catalog.answering() == ["Wordy:latest"]


def test_what_is_not_known_is_said_to_be_unknown(catalog: Catalog) -> None:
    assert not catalog.exists("nosuch")
    assert catalog.capabilities("nosuch") == frozenset()
    assert catalog.context("nosuch") is None


@pytest.mark.parametrize("document", [{}, {"models": None}, {"models": 7}, {"models": [1, None, {}]}])
def test_any_answer_of_a_node_is_taken(document: dict[str, object]) -> None:
    catalog = Catalog()
    catalog.fill(document, document)
    assert catalog.heard


SHOW = {"template": "abc", "model_info": {"llama.context_length": 4096}, "capabilities": ["completion", "vision"]}


def test_a_description_holds_for_every_name_of_the_same_file(catalog: Catalog) -> None:
    catalog.describe("d1", SHOW)
    assert catalog.described("wordy") == catalog.described("Wordy-Copy:latest") == described(SHOW)


def test_what_the_list_says_stands_where_the_description_is_silent(catalog: Catalog) -> None:
    assert catalog.described("wordy").capabilities == {"completion", "tools"}
    catalog.describe("d1", {"template": "abc"})
    found = catalog.described("wordy")
    assert (found.capabilities, found.own_bytes) == ({"completion", "tools"}, described({"template": "abc"}).own_bytes)


def test_stubs_and_what_is_described_are_not_asked_for(catalog: Catalog) -> None:
    assert set(catalog.undescribed()) == {"d1"}
    catalog.describe("d1", SHOW)
    assert not catalog.undescribed()


def test_a_description_goes_with_the_file(catalog: Catalog) -> None:
    catalog.describe("d1", SHOW)
    catalog.fill({"models": []}, {})
    catalog.fill(TAGS, PS)
    assert set(catalog.undescribed()) == {"d1"}


@pytest.mark.parametrize("odd", [None, 7, "x", [], ["x", 7], {"a.context_length": "x"}, {"a.context_length": -1}])
def test_any_description_is_taken(catalog: Catalog, odd: object) -> None:
    keys = ("model_info", "messages", "capabilities", "parameters", "template", "system")
    catalog.describe("d1", dict.fromkeys(keys, odd))
    assert catalog.described("wordy").longest_context is None
