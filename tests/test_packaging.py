"""What is in the tree is in the wheel."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _layout() -> tuple[set[str], dict[str, str]]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    options = parser["options"]
    placed = dict(line.split(" = ") for line in options["package_dir"].split("\n") if line)
    return set(options["packages"].split()), placed


def test_every_package_is_in_the_wheel() -> None:
    named, placed = _layout()
    ours = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "parallama").rglob("__init__.py")}
    plugins = {p.parent.name for p in (ROOT / "plugins").glob("*/__init__.py")}
    assert named == ours | plugins | {"parallama.migrations", "parallama.template"}
    assert all((ROOT / folder).is_dir() for folder in placed.values())
