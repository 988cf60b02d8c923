"""The page of faults names tests that exist, one at least on each line, and every fault that the kit can play."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parallama.testing import Fault

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")
HEADS = ("|---", "| fault |", "| hidden |")
LINES = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(HEADS)]
_DEF = re.compile(r"^(?:async )?def (test_\w+)", re.M)
DEFINED = {name for path in TESTS.rglob("test_*.py") for name in _DEF.findall(path.read_text("utf-8"))}


@pytest.mark.parametrize("name", ["faults.md", "dialects.md"])
def test_every_test_that_is_named_exists(name: str) -> None:
    page = (TESTS.parent / "docs" / name).read_text("utf-8")
    files = set(re.findall(r"`tests/(test_\w+\.py)`", page))
    named = set(re.findall(r"\btest_\w+", page)) - {name.removesuffix(".py") for name in files}
    assert named - DEFINED == set()
    assert {name for name in files if not (TESTS / name).exists()} == set()


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:40])
def test_every_line_names_its_test(line: str) -> None:
    assert re.fullmatch(r"test_\w+(, test_\w+)*", line.split("|")[-2].strip())


@pytest.mark.parametrize("section", ["Leaving", "Node", "Slow clients", "HTTP abuse", "Bodies", "Drain"])
def test_every_section_has_lines(section: str) -> None:
    _, _, rest = PAGE.partition(f"\n## {section}\n")
    assert rest.partition("\n## ")[0].count("\n|") > 5


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_of_the_kit_is_on_the_page(fault: Fault) -> None:
    assert f"`Fault.{fault.name}`" in PAGE


@pytest.mark.parametrize("kind", ["BAD_HEADS", "BAD_CHUNKS"])
def test_the_malformed_answers_of_the_kit_are_on_the_page(kind: str) -> None:
    assert f"`{kind}`" in PAGE
