"""Whatever is public is named in the docs."""

import re
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

import parallama
from parallama.cli import main
from parallama.gateway import hookspecs
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
    page = _page("gateways.md")
    names = [name for name in parallama.__all__ if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []
    assert all(getattr(parallama, name) is not None for name in names)


def test_every_hook_is_documented() -> None:
    page = _page("gateways.md")
    hooks = [name for name, member in vars(hookspecs).items() if hasattr(member, "parallama_spec")]
    assert len(hooks) == 2
    assert all(f"`{hook}(" in page for hook in hooks)


@pytest.mark.parametrize("page", [*(p.relative_to(ROOT) for p in DOCS.glob("*.md")), Path("README.md")], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()] == []
