"""`parallama plugin`: which gateways are installed and what is wrong with them, and the beginning of a new one.

A new one is the template (plugins/template in the source, parallama/template in the wheel), copied and renamed.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

import parallama
from parallama.cli.context import echo_rows

if TYPE_CHECKING:
    from parallama.gateway.plugins import Plugin, Plugins

_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,38}[a-z0-9])?")
_SHIPPED = (".md", ".py", ".toml")
_COLUMNS = ["name", "distribution", "version", "api", "mounts", "problem"]


@click.group()
def plugin() -> None:
    """Gateways: what is installed, and a new one."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_plugins(as_json: bool) -> None:
    """List the plugins: where they come from, what they mount, and what is wrong with them."""
    plugins = _installed()
    plugins.add_commands(click.Group())  # some tell their problem only here
    rows = [_row(found) for found in plugins.found]
    if not as_json:
        rows = [{**row, "mounts": ", ".join(found.mounts)} for row, found in zip(rows, plugins.found, strict=True)]
    echo_rows(rows, _COLUMNS, as_json)


def _row(found: Plugin) -> dict[str, object]:
    return {
        "name": found.name,
        "distribution": found.distribution,
        "version": found.version,
        "api": found.api,
        "families": found.families,
        "mounts": found.mounts,
        "problem": "; ".join(found.problems) or None,
    }


@plugin.command()
@click.argument("name")
def new(name: str) -> None:
    """Make the folder parallama-NAME here: a gateway that works, with its tests, to be changed into yours."""
    if wrong := _wrong(name):
        raise click.ClickException(f"{name!r} {wrong}")
    folder = Path(f"parallama-{name}")
    try:
        folder.mkdir()
        for path, text in _files(_template()):
            target = folder / _renamed(path, name)
            target.parent.mkdir(exist_ok=True)
            target.write_text(_renamed(text, name), "utf-8")
    except FileExistsError:
        raise click.ClickException(f"{folder} is there already; nothing was changed") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror or error}") from error
    click.echo(_next(folder, _identifier(name)))


def _wrong(name: str) -> str | None:
    """Why a gateway cannot be called so; None: it can."""
    if not _NAME.fullmatch(name):
        return "must begin with a lower-case letter, go on with up to 39 of a-z, 0-9, - and _, and end with no - or _"
    word = _identifier(name)
    if keyword.iskeyword(word):
        return "is a word of Python; take another name"
    taken = _installed()
    if word in {called for found in taken.found for called in (found.name, *found.families)}:
        return "is the name of an installed gateway; `parallama plugin list` shows them"
    return _mounted(word, taken)


def _mounted(word: str, taken: Plugins) -> str | None:
    from parallama.gateway.fitness import OURS

    mounts = {path.split("/")[1] for found in taken.found for path in found.mounts}
    return f"would be mounted at /{word}, which is taken; take another name" if word in OURS | mounts else None


def _installed() -> Plugins:
    from parallama.gateway.plugins import Plugins

    return Plugins.load()


def _template() -> Path:
    package = Path(parallama.__file__).parent
    shipped = package / "template"
    return shipped if shipped.is_dir() else package.parent / "plugins" / "template"


def _files(folder: Path, below: str = "") -> Iterator[tuple[str, str]]:
    """The template's files by their paths; what building and running it has left there is passed over."""
    for entry in folder.iterdir():
        if entry.is_file() and entry.name.endswith(_SHIPPED):
            yield below + entry.name, entry.read_text("utf-8")
        elif entry.is_dir() and entry.name == "tests":
            yield from _files(entry, f"{entry.name}/")


def _renamed(text: str, name: str) -> str:
    """What belongs to `template`, called by `name`: distribution, class, and for all else an identifier."""
    word = _identifier(name)
    camel = "".join(part.capitalize() for part in word.split("_"))
    text = text.replace("parallama-template", f"parallama-{name}")
    return text.replace("TemplateGateway", f"{camel}Gateway").replace("template", word)


def _identifier(name: str) -> str:
    return name.replace("-", "_")


def _next(folder: Path, word: str) -> str:
    return f"""{folder} is a gateway that works. Next:

  cd {folder}
  pip install -e '.[test]'     # where parallama is installed
  pytest
  parallama plugin list        # shows it
  parallama quickstart         # serves it, and prints a key:
  curl 'http://127.0.0.1:8000/{word}/ask?model=llama3.2:1b' -H "Authorization: Bearer $PARALLAMA_KEY" -d 'Why?'

parallama_{word}.py is the gateway; README.md says what it does."""
