"""Whatever is public is named in the docs."""

import inspect
import re
from enum import Enum
from inspect import get_annotations
from pathlib import Path
from types import ModuleType

import click
import pytest
from prometheus_client import CollectorRegistry

import parallama
from parallama.cli import main
from parallama.errors import ApiError
from parallama.gateway import fields, generation, hookspecs, ndjson, sse
from parallama.metrics import Metrics

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def test_every_metric_is_documented_and_no_other() -> None:
    registry: CollectorRegistry = Metrics().registry
    ours = {family.name for family in registry.collect() if family.name.startswith("parallama_")}
    documented = {name.removesuffix("_total") for name in re.findall(r"`(parallama_\w+)`", _page("metrics.md"))}
    assert documented == ours


def _commands(group: click.Group, path: str = "") -> list[str]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        whole = f"{path} {name}".strip()
        found += _commands(command, whole) if isinstance(command, click.Group) else [whole]
    return found


def test_every_command_is_documented() -> None:
    page = _page("commands.md")
    missing = [command for command in _commands(main) if f"`{command}" not in page]
    assert missing == []


def test_every_public_name_is_documented() -> None:
    page = _page("gateways.md") + _page("client.md")
    names = [name for name in parallama.__all__ if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []
    assert all(getattr(parallama, name) is not None for name in names)


def _sections(page: str) -> dict[str, str]:
    """The text below each heading like "### `Name`", by its name."""
    return dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))


def _own_members(cls: type) -> list[str]:
    """What a class adds to its bases: fields, members of an enum, attributes, methods."""
    if issubclass(cls, Enum):
        return list(cls.__members__)
    names = {**vars(cls), **get_annotations(cls)}
    return [
        name for name in names if not name.startswith("_") and not any(hasattr(base, name) for base in cls.__bases__)
    ]


CLASSES = [getattr(parallama, name) for name in parallama.__all__ if isinstance(getattr(parallama, name), type)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_member_is_documented(cls: type) -> None:
    page = _page("gateways.md") + _page("client.md")
    told = _sections(page)["ApiError" if issubclass(cls, ApiError) else cls.__name__]
    code = " ".join(re.findall(r"`([^`]+)`", told))
    assert [name for name in _own_members(cls) if not re.search(rf"\b{name}\b", code)] == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_and_method_has_a_docstring(cls: type) -> None:
    methods = [member for name, member in vars(cls).items() if not name.startswith("_") and inspect.isroutine(member)]
    assert [member.__qualname__ for member in (cls, *methods) if not inspect.getdoc(member)] == []


@pytest.mark.parametrize("module", [sse, fields, generation, ndjson], ids=lambda module: module.__name__)
def test_every_public_name_of_the_modules_for_dialects_is_documented(module: ModuleType) -> None:
    page = _page("gateways.md")
    own = [
        name
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", module.__name__) == module.__name__
        and not isinstance(member, ModuleType)
    ]
    assert own
    assert [name for name in own if not re.search(rf"`{name}\b", page)] == []
    assert [name for name in own if callable(vars(module)[name]) and not vars(module)[name].__doc__] == []


def test_every_hook_is_documented() -> None:
    page = _page("gateways.md")
    hooks = [name for name, member in vars(hookspecs).items() if hasattr(member, "parallama_spec")]
    assert len(hooks) == 2
    assert all(f"`{hook}(" in page for hook in hooks)


@pytest.mark.parametrize("page", [*(p.relative_to(ROOT) for p in DOCS.glob("*.md")), Path("README.md")], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()] == []
