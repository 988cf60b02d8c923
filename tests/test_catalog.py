"""What the nodes have."""

import pytest

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
