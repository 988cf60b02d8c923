"""`parallama plugin`: what is installed and what is wrong with it, and a new gateway's folder."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from parallama.cli import main
from parallama.cli.plugin import _files, plugin
from parallama.gateway.fitness import OURS
from parallama.version import __version__

TEMPLATE = Path(__file__).parent.parent / "plugins" / "template"
FILES = {"README.md", "parallama_template.py", "pyproject.toml", "tests/test_parallama_template.py"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(name: str) -> Result:
    return CliRunner().invoke(plugin, ["new", "--", name])


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "word", "camel"),
    [
        ("notes", "notes", "Notes"),
        ("my-notes", "my_notes", "MyNotes"),
        ("a2_b", "a2_b", "A2B"),
        ("none", "none", "None"),
    ],
)
def test_a_new_gateway_bears_its_name_everywhere(here: Path, name: str, word: str, camel: str) -> None:
    result = new(name)
    assert result.exit_code == 0, result.output
    made = files(here / f"parallama-{name}")
    assert set(made) == {path.replace("template", word) for path in FILES}
    assert not [path for path, text in made.items() if re.search("template", text, re.IGNORECASE)]
    package = tomllib.loads(made["pyproject.toml"])
    assert package["project"]["name"] == f"parallama-{name}"
    assert package["project"]["entry-points"] == {"parallama": {word: f"parallama_{word}"}}
    gateway = made[f"parallama_{word}.py"]
    assert f"class {camel}Gateway(Gateway)" in gateway
    assert f'name = "{word}"\n    paths = ("/{word}",)' in gateway
    for path, text in made.items():
        if path.endswith(".py"):
            ast.parse(text)


def test_what_to_do_next_is_said(here: Path) -> None:
    said = new("notes").output
    for step in ("cd parallama-notes", "pip install -e '.[test]'", "pytest", "parallama quickstart", "/notes/ask"):
        assert step in said


@pytest.mark.parametrize(
    "name",
    ["", "Notes", "1notes", "_notes", "-notes", "notes-", "notes_", "no tes", "no.tes", "../x", "nötes", "n" * 41],
)
def test_a_name_that_is_none_is_refused(here: Path, name: str) -> None:
    result = new(name)
    assert result.exit_code == 1
    assert "must begin with a lower-case letter" in result.output
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["class", "import", "not"], "a word of Python"),
        (["ollama", "openai", "anthropic"], "the name of an installed gateway"),
        (["api", "v1", *sorted(OURS)], "which is taken"),
    ],
)
def test_a_name_that_cannot_work_is_refused(here: Path, names: list[str], said: str) -> None:
    for name in names:
        result = new(name)
        assert result.exit_code == 1, name
        assert said in result.output, name
    assert not list(here.iterdir())


def test_a_folder_that_is_there_is_left_alone(here: Path) -> None:
    mine = here / "parallama-notes"
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    result = new("notes")
    assert result.exit_code == 1
    assert "is there already" in result.output
    assert files(mine) == {"precious.txt": "mine"}


def test_a_place_where_nothing_can_be_written_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = new("notes")
    assert result.exit_code == 1
    assert "No such file or directory" in result.output


def test_what_building_leaves_in_the_template_is_not_copied(tmp_path: Path) -> None:
    folder = shutil.copytree(TEMPLATE, tmp_path / "template")
    for left in ("build/lib/old.py", "parallama_template.egg-info/x.md", "__pycache__/x.py", "tests/__pycache__/x.py"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_text("left")
    assert set(dict(_files(folder))) == FILES


def test_the_installed_gateways_are_listed() -> None:
    result = CliRunner().invoke(main, ["plugin", "list", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.output)}
    ollama = rows["ollama"]
    assert (ollama["distribution"], ollama["version"], ollama["api"]) == ("parallama", __version__, 1)
    assert {"/api", "/ollama/api"} <= set(ollama["mounts"])
    assert ollama["problem"] is None


BROKEN = {
    "absent": "import no_such_module_anywhere\n",
    "leaving": "raise SystemExit(3)\n",
    "misspelt": "from parallama import hookimpl\n@hookimpl\ndef register_gateway(): return []\n",
    "commanding": "from parallama import hookimpl\n@hookimpl\ndef register_commands(cli): raise SystemExit(3)\n",
    "older": (
        "from parallama import Gateway, hookimpl\n"
        "class Older(Gateway):\n    name, paths, api = 'older', ('/older',), 0\n"
        "@hookimpl\ndef register_gateways(): return [Older]\n"
    ),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A directory of installed plugins that cannot be used."""
    for name, code in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(code)
        info = tmp_path / f"broken_{name}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[parallama]\n{name} = broken_{name}\n")
    return tmp_path


def listed(broken: Path, *options: str) -> str:
    command = [sys.executable, "-m", "parallama", "plugin", "list", *options]
    env = {"PYTHONPATH": str(broken), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_broken_plugin_is_listed_with_its_problem(broken: Path) -> None:
    rows = {row["name"]: row for row in json.loads(listed(broken, "--json"))}
    assert all((rows[name]["distribution"], rows[name]["version"]) == (f"broken-{name}", "2.5") for name in BROKEN)
    assert "no_such_module_anywhere" in rows["absent"]["problem"]
    assert rows["leaving"]["problem"] == "cannot be loaded: SystemExit: 3"
    assert "register_gateway" in rows["misspelt"]["problem"]
    assert rows["commanding"]["problem"] == "register_commands failed: SystemExit: 3"
    assert (rows["older"]["api"], rows["older"]["families"], rows["older"]["mounts"]) == (0, ["older"], [])
    assert "generation 0" in rows["older"]["problem"]
    assert rows["ollama"]["problem"] is None


def test_the_table_tells_it_on_one_line_each(broken: Path) -> None:
    lines = listed(broken).splitlines()
    for name in BROKEN:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.split()[1:3] == [f"broken-{name}", "2.5"]
