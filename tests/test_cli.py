"""The command line as a whole: what it lists, how little it imports, how plugins add to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from parallama.cli import _COMMANDS, main
from parallama.version import __version__

HEAVY = ("aiohttp", "asyncpg", "pydantic", "redis", "rich", "prometheus_client", "uvloop", "orjson", "yaml")


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env or None)


def test_the_version_is_told_without_loading_the_gateway() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from parallama.cli import main\n"
        "try: main(prog_name='parallama')\n"
        f"finally: print(sorted(set(sys.modules) & {set(HEAVY)!r}), file=sys.stderr)"
    )
    done = python(code)
    assert (done.returncode, done.stdout) == (0, f"parallama, version {__version__}\n")
    assert done.stderr == "[]\n"


def test_commands_on_records_do_not_load_the_http_server(database_url: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from parallama.cli import main\n"
        "for words in (['user', 'list'], ['role', 'list'], ['audit', 'list'], ['gateway', 'status']):\n"
        "    main(words, standalone_mode=False)\n"
        "print('aiohttp' in sys.modules or 'httpx2' in sys.modules, file=sys.stderr)"
    )
    done = python(code, PARALLAMA_DB_URL=database_url, PARALLAMA_DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "False\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_every_command_is_listed_with_its_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == (0 if arguments else 2)
    for command, line in _COMMANDS.items():
        assert any(text.split()[:1] == [command] and text.endswith(line) for text in result.output.splitlines()), (
            command
        )


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_every_command_has_the_help_that_the_list_promises(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command} ")


@pytest.mark.parametrize("arguments", [["sevre"], ["--nonsense"], ["serve", "--nonsense"], ["key", "nonsense"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A directory with an installed plugin that adds the command `greet`, and one that is broken."""
    (tmp_path / "greeting.py").write_text(
        "import click\n"
        "from parallama import hookimpl\n"
        "@click.command(short_help='Say hello.')\n"
        "def greet(): click.echo('hello from a plugin')\n"
        "@hookimpl\n"
        "def register_commands(cli): cli.add_command(greet)\n"
    )
    (tmp_path / "breaking.py").write_text("raise RuntimeError('broken')\n")
    for name in ("greeting", "breaking"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[parallama]\n{name} = {name}\n")
    return tmp_path


def test_commands_of_plugins_are_listed_and_run(plugin: Path) -> None:
    listed = run_with(plugin, "--help")
    assert listed.returncode == 0
    assert any(line.split() == ["greet", "Say", "hello."] for line in listed.stdout.splitlines())
    greeted = run_with(plugin, "greet")
    assert (greeted.returncode, greeted.stdout) == (0, "hello from a plugin\n")


def test_a_broken_plugin_does_not_break_the_command_line(plugin: Path) -> None:
    assert "quickstart" in run_with(plugin, "--help").stdout
    assert run_with(plugin, "--version").returncode == 0


def run_with(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parallama", *arguments]
    env = {"PYTHONPATH": str(plugin), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
