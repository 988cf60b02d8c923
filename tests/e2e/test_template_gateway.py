"""The plugin kit as a stranger has it: a clean environment, the template, one made of it, the tutorial's.

Parallama comes as the wheel of this checkout, everything else through pip as the packages say.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from databases import fresh_database
from processes import CEILING_S, Answer, Place, ask, place, wait_for

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "gateways.md").read_text("utf-8")
TUTORIAL = PAGE.partition("## Tutorial")[2].partition("\n## ")[0]

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "bench", "docs", "*.egg-info", "__pycache__")
"""Of the checkout, what its wheel is not made of."""
BUILT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")

PIP = {"PIP_QUIET": "1", "PIP_NO_COMPILE": "1", "PIP_NO_BUILD_ISOLATION": "0"}
"""To save time: 0 says that packages are built by the setuptools which is there."""

pytestmark = pytest.mark.timeout(600)  # packages come over the network

MODEL = "llama3.2:1b"
EOT = b"\x04"


def commands(number: int) -> str:
    """One of the tutorial's blocks of commands, from 0."""
    return re.findall(r"^```sh\n(.*?)```", TUTORIAL, re.MULTILINE | re.DOTALL)[number]


def write_tutorial(folder: Path) -> None:
    """The tutorial's files, each as the block behind its name says."""
    files = re.findall(r"^`(\w+\.\w+)`(?:(?!^```).)*^```(?:python|toml)\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["parallama_plain.py", "pyproject.toml", "test_plain.py"]
    folder.mkdir()
    for name, text in files:
        (folder / name).write_text(text, "utf-8")


@dataclass(frozen=True)
class Clean:
    """An environment without anything of this checkout, and a folder to work in."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "venv" / "bin"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def run(self, command: str, below: str = "", **env: str) -> str:
        """What the shell's commands print, run as if the environment were activated; fails when one does."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PARALLAMA", "PYTHON"))}
        clean |= {"PATH": f"{self.bin}:{os.environ['PATH']}", **PIP, **env}
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=self.work / below,
            env=clean,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    clean = Clean(tmp_path_factory.mktemp("clean"))
    source = shutil.copytree(ROOT, clean.root / "source", ignore=NOT_SOURCE)  # pip builds in it
    shutil.copytree(ROOT / "plugins" / "template", clean.work / "parallama-template", ignore=BUILT)
    write_tutorial(clean.work / "parallama-plain")
    subprocess.run([sys.executable, "-m", "venv", clean.root / "venv"], check=True)
    clean.run("pip install 'setuptools>=77'")
    clean.run(f"pip install '{source}'")
    clean.run("parallama plugin new my-notes")
    clean.run("pip install './parallama-template[test]' './parallama-my-notes[test]'")
    return clean


@pytest.mark.parametrize("package", ["parallama-template", "parallama-my-notes"])
def test_its_own_tests_pass_as_they_come(clean: Clean, package: str) -> None:
    assert " passed" in clean.run("pytest", package)


def test_a_new_gateway_is_the_template_under_its_own_name(clean: Clean) -> None:
    def files(package: str) -> dict[str, str]:
        paths = (path for path in (clean.work / package).rglob("*") if path.suffix in (".md", ".py", ".toml"))
        return {str(path.relative_to(clean.work / package)): path.read_text() for path in paths}

    ours, made = files("parallama-template"), files("parallama-my-notes")
    assert set(made) == {path.replace("template", "my_notes") for path in ours}
    assert "template" not in "".join(made.values()).lower()


@pytest.fixture(scope="module")
def tutorial(clean: Clean) -> str:
    """What the tutorial's commands print: install, test, list."""
    return clean.run(commands(1), "parallama-plain")


def test_the_tutorials_gateway_passes_its_tests(tutorial: str) -> None:
    assert "7 passed" in tutorial
    assert re.search(r"plain +parallama-plain +0\.1 +1 +/plain +-", tutorial)


@dataclass(frozen=True)
class Server:
    """A `parallama serve` of the clean environment, before a simulated node."""

    url: str
    key: str
    place: Place
    database_url: str

    def ask(self, path: str, text: bytes | None = None) -> Answer:
        return ask(self.url + path, text, self.key)


@contextmanager
def database(postgres: str) -> Iterator[str]:
    """The DSN of a fresh database."""
    # a loop of its own: Runner would otherwise take away the one that pytest-asyncio has set
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        fresh = fresh_database(postgres)
        try:
            yield runner.run(fresh.__aenter__())
        finally:
            runner.run(fresh.__aexit__(None, None, None))


def simulated(here: Place) -> str:
    """The URL of a simulated node that runs there."""
    node = here.start("simulate", "--port", "0", "--speed", "0")
    found = wait_for(lambda: re.search(r"listens on (\S+)", node.out))
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def server(clean: Clean, tutorial: str, postgres: str) -> Iterator[Server]:
    with database(postgres) as url, place(program=(str(clean.bin / "parallama"),)) as here:
        settings = {
            "server": {"port": 0},
            "nodes": [{"name": "node-1", "url": simulated(here)}],
            "gateways": {"template": {"longest": 20}, "my_notes": {"system": "Be brief."}},
        }
        config = here.root / "config.yaml"
        config.write_text(json.dumps(settings))
        assert here.run("user", "create", "alice", "--role", "premium", PARALLAMA_DB_URL=url).returncode == 0
        key = here.run("key", "generate", "alice", PARALLAMA_DB_URL=url).stdout.strip()
        running = here.start("serve", "--config", str(config), PARALLAMA_DB_URL=url).ready()
        yield Server(running.url, key, here, url)
        assert running.end() == 0, running.err


def test_all_of_them_are_listed(clean: Clean, tutorial: str) -> None:
    rows = {row["name"]: row for row in json.loads(clean.run("parallama plugin list --json"))}
    assert [row["problem"] for row in rows.values()] == [None] * len(rows)
    found = {name: (rows[name]["distribution"], rows[name]["mounts"]) for name in ("template", "my_notes", "plain")}
    assert found == {
        "template": ("parallama-template", ["/template"]),
        "my_notes": ("parallama-my-notes", ["/my_notes"]),
        "plain": ("parallama-plain", ["/plain"]),
    }


@pytest.mark.parametrize("mount", ["/template", "/my_notes"])
def test_it_answers_over_http(server: Server, mount: str) -> None:
    streamed = server.ask(f"{mount}/ask?model={MODEL}", b"Why?")
    assert streamed.status == 200
    assert streamed.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert len(streamed.body) > 20
    assert streamed.body.endswith(EOT)
    whole = server.ask(f"{mount}/ask?model={MODEL}&stream=no", b"Why?")
    assert whole.status == 200
    assert len(whole.body) > 20
    assert EOT not in whole.body
    assert MODEL in server.ask(f"{mount}/models").body.decode().splitlines()


@pytest.mark.parametrize(
    ("path", "text", "status", "said"),
    [
        (f"/template/ask?model={MODEL}", b"x" * 21, 400, b"invalid_parameter: the question is over 20 characters\n"),
        ("/template/ask", b"Why?", 400, b"missing_parameter: say which model: ?model=NAME\n"),
        ("/template/ask?model=nosuch", b"Why?", 404, b"model_not_found: "),
        ("/template/nowhere", None, 404, b"not_found: "),
        ("/template/ask", None, 405, b"method_not_allowed: "),
    ],
)
def test_errors_are_told_in_its_own_words(
    server: Server, path: str, text: bytes | None, status: int, said: bytes
) -> None:
    answer = server.ask(path, text)
    assert answer.status == status
    assert answer.body.startswith(said)


def test_it_is_accounted(server: Server) -> None:
    server.ask(f"/template/ask?model={MODEL}", b"Why?")

    def rows() -> list[dict[str, object]]:
        done = server.place.run("usage", "list", "alice", "--json", PARALLAMA_DB_URL=server.database_url)
        return [row for row in json.loads(done.stdout) if row["gateway"] == "template"]

    assert wait_for(rows, CEILING_S)


def test_the_tutorials_requests_are_answered(clean: Clean, server: Server) -> None:
    export, asking, discovering = commands(2).strip().split("\n")
    assert export == "export PARALLAMA_KEY=plm_..."
    said = clean.run(asking.replace("http://127.0.0.1:8000", server.url), PARALLAMA_KEY=server.key)
    assert len(said) > 20
    discovered = json.loads(clean.run(discovering.replace("http://127.0.0.1:8000", server.url)))
    assert discovered["gateways"]["plain"]["endpoints"] == ["POST /plain/ask/{model}"]
