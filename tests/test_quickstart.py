"""`parallama quickstart`: what a newcomer sees and can paste, what is kept, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import site
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from processes import PROGRAM, Place, Running, alive, ask, place, processes_of, wait_for

from parallama.db.wheel import Account, first_closed
from parallama.testing import FakeOllama, fake_ollama

ROOT = Path(__file__).parent.parent

HELLO = {"model": "qwen3:0.6b", "prompt": "hello", "stream": False, "options": {"num_predict": 1}}


@pytest.fixture(scope="module")
def first() -> Iterator[Running]:
    """A first run, with the simulator, for tests that only ask."""
    with place() as found:
        yield found.quickstart().ready()


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """The line as it is pasted into a terminal."""
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, env={"PATH": os.defpath})


def rows(here: Place) -> list[dict[str, object]]:
    """The usage rows of the admin."""
    found = here.run("usage", "list", "admin", "--json")
    assert found.returncode == 0, found.stderr
    listed: list[dict[str, object]] = json.loads(found.stdout)
    return listed


def test_the_first_key_stands_whole_on_a_line_of_its_own_before_the_gateway_is_ready(here: Place) -> None:
    running = here.quickstart()
    running.ready()
    shown = running.out
    key = re.search(r"^plm_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$", shown, re.MULTILINE)
    assert key is not None
    assert "plm_" not in shown[: key.start()]
    assert ask(f"{running.url}/api/tags", key=key[0]).status == 200


def test_it_says_where_it_listens_and_which_node_it_has(first: Running) -> None:
    assert f"gateway  {first.url}\n" in first.out
    assert "node     the built-in simulator: no Ollama answers at http://127.0.0.1:1\n" in first.out
    assert f"state    {first.data}\n" in first.out


def test_the_curl_line_works_when_pasted(first: Running) -> None:
    (line,) = re.findall(r"^curl .*", first.out, re.MULTILINE)
    done = shell(line)
    assert done.returncode == 0
    answer = [json.loads(text) for text in done.stdout.splitlines()]
    assert answer[-1]["done"] is True
    assert "".join(piece["response"] for piece in answer)


def test_the_line_for_the_ollama_client_works_when_pasted(first: Running) -> None:
    (line,) = re.findall(r"^.* -m pip install -q ollama && .*", first.out, re.MULTILINE)
    done = shell(line.partition("&& ")[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("path", ["/api/generate", "/ollama/api/generate", "/ollama/v1/generate"])
def test_answers_of_the_simulator_say_so(first: Running, path: str) -> None:
    hello = {"model": HELLO["model"], "prompt": "hello", "stream": False}
    answer = ask(first.url + path, hello, first.key())
    assert (answer.status, answer.headers["x-parallama-simulated"]) == (200, "1")


def test_logs_on_stderr_are_json_lines(first: Running) -> None:
    ask(f"{first.url}/api/tags", key="wrong")
    logged = wait_for(lambda: [line for line in first.logged() if line["topic"] == "auth"])
    assert all({"ts", "level", "topic", "event"} <= line.keys() for line in first.logged())
    assert logged[-1]["event"] == "authentication failed"


def test_a_second_start_keeps_users_keys_and_usage_and_shows_no_key(here: Place) -> None:
    running = here.quickstart().ready()
    key = running.key()
    assert here.run("user", "create", "alice").returncode == 0
    assert ask(f"{running.url}/api/generate", HELLO, key).status == 200
    assert running.interrupt() == 0
    running = here.quickstart().ready()
    assert "plm_" not in running.out
    assert ask(f"{running.url}/api/generate", HELLO, key).status == 200
    assert "alice" in here.run("user", "list").stdout
    wait_for(lambda: len(rows(here)) == 2)


def test_users_who_are_there_before_any_admin_do_not_keep_it_from_making_one(here: Place) -> None:
    for command in (("db", "migrate"), ("user", "create", "anonymous")):
        done = here.run(*command)
        assert done.returncode == 0, done.stderr
    running = here.quickstart().ready()
    assert ask(f"{running.url}/admin/v1/users", key=running.key()).status == 200


def test_a_second_start_says_how_to_make_another_key(here: Place) -> None:
    here.quickstart("--data", str(here.data)).ready().end()
    running = here.quickstart("--data", str(here.data), data=here.home).data
    assert running == here.home  # the option wins over PARALLAMA_DATA_DIR
    again = here.started[-1]
    (line,) = wait_for(lambda: re.findall(r"A new key: (.*)", again.out))
    done = shell(f"HOME={here.home} {line}")
    assert done.returncode == 0, done.stderr
    again.data = here.data
    assert ask(f"{again.ready().url}/api/tags", key=done.stdout.strip()).status == 200


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/", " 0.0.0.0:{port}"])
async def test_ollama_host_is_honoured(here: Place, node: FakeOllama, form: str) -> None:
    port = node.url.rpartition(":")[2]
    running = here.quickstart(OLLAMA_HOST=form.format(port=port))
    await asyncio.to_thread(running.ready)
    assert f"node     http://127.0.0.1:{port} (" in running.out
    answer = await asyncio.to_thread(ask, f"{running.url}/api/generate", {"model": "llama3.2:1b"}, running.key())
    assert answer.status == 200
    assert "x-parallama-simulated" not in answer.headers
    assert len(node.seen("/api/generate")) == 1


async def test_ollama_host_may_have_a_path(here: Place) -> None:
    async with ollama_below("/some/where") as url:
        running = here.quickstart(OLLAMA_HOST=url)
        await asyncio.to_thread(running.ready)
        assert f"node     {url} (1 models)" in running.out
        answer = await asyncio.to_thread(ask, f"{running.url}/api/version", None, running.key())
        assert answer.json() == {"version": "below"}


@asynccontextmanager
async def ollama_below(prefix: str) -> AsyncIterator[str]:
    """A node behind a path; its URL."""
    documents = {"version": {"version": "below"}, "tags": {"models": [{"name": "m:1", "digest": "d"}]}}

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(documents.get(request.match_info["name"], {"models": []}))

    app = web.Application()
    app.router.add_get(prefix + "/api/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listening).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}"
    finally:
        await runner.cleanup()


async def test_a_node_without_models_is_no_dead_end(here: Place) -> None:
    async with fake_ollama(()) as node:
        running = here.quickstart(OLLAMA_HOST=node.url)
        await asyncio.to_thread(running.ready)
        (line,) = re.findall(r"^curl .*/api/pull .*", running.out, re.MULTILINE)
        done = await asyncio.to_thread(shell, line)
    assert json.loads(done.stdout.splitlines()[-1]) == {"status": "success"}


def test_an_ollama_host_that_cannot_be_is_named_without_its_password(here: Place) -> None:
    done = here.run("quickstart", "--port", "0", OLLAMA_HOST="http://me:hunter2hunter2@127.0.0.1:11434")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: OLLAMA_HOST names no Ollama")
    assert "hunter2" not in done.stderr


def test_a_taken_port_is_one_line_with_the_remedy(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = here.run("quickstart", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: port {port} on 127.0.0.1 is taken; choose another: make run ARGS='--port N'\n"
    assert list(here.data.iterdir()) == []  # no database was begun


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1", "a" * 70 + ".example", "a..b"])
def test_an_unusable_host_is_one_line_with_the_remedy(here: Place, host: str) -> None:
    done = here.run("quickstart", "--host", host, "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"Error: cannot listen on port 0 of '{host}' \(.+\); choose another: make run ARGS='--host ADDRESS'\n",
        done.stderr,
    )
    assert list(here.data.iterdir()) == []


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM"])
def test_a_stop_is_orderly_and_leaves_nothing_behind(here: Place, way: str) -> None:
    running = here.quickstart().ready()
    postgres = here.postgres()
    assert postgres
    for _ in range(5):
        assert ask(f"{running.url}/api/generate", HELLO, running.key()).status == 200
    assert (running.interrupt() if way == "Ctrl-C" else running.end()) == 0
    assert alive(postgres) == []
    assert processes_of(here.data) == []
    assert running.logged()[-1]["event"] == "stopped"
    assert not (here.data / "server.json").exists()
    assert [row["status"] for row in rows(here)] == [200] * 5


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM"])
def test_a_stop_while_the_database_is_made_leaves_nothing_behind(here: Place, way: str) -> None:
    running = here.quickstart()
    wait_for(lambda: list(here.data.glob("postgres*")))
    assert (running.interrupt() if way == "Ctrl-C" else running.end()) == 0
    assert "Traceback" not in running.err
    wait_for(lambda: not processes_of(here.data))
    here.quickstart().ready()


def test_after_a_kill_everything_is_there(here: Place) -> None:
    running = here.quickstart().ready()
    key = running.key()
    assert ask(f"{running.url}/api/generate", HELLO, key).status == 200
    wait_for(lambda: rows(here))
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    running = here.quickstart().ready()
    assert ask(f"{running.url}/api/generate", HELLO, key).status == 200
    wait_for(lambda: len(rows(here)) == 2)
    assert running.end() == 0
    assert processes_of(here.data) == []


def test_two_run_side_by_side_on_two_state_directories(here: Place) -> None:
    one = here.quickstart(data=here.root / "one")
    two = here.quickstart(data=here.root / "two")
    one.ready()
    two.ready()
    assert ask(f"{one.url}/api/tags", key=one.key()).status == 200
    assert ask(f"{two.url}/api/tags", key=two.key()).status == 200
    assert ask(f"{two.url}/api/tags", key=one.key()).status == 401
    assert one.end() == 0
    assert ask(f"{two.url}/api/generate", HELLO, two.key()).status == 200


@pytest.mark.parametrize("command", ["quickstart", "serve"])
def test_a_second_server_on_the_state_directory_is_refused_with_the_pid_of_the_first(
    first: Running, here: Place, command: str
) -> None:
    done = here.run(command, "--port", "0", PARALLAMA_DATA_DIR=str(first.data))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"Error: .*\(pid {first.popen.pid}\).*\n", done.stderr)
    assert ask(f"{first.url}/readyz").status == 200


@pytest.mark.parametrize("wrap", ['exec "$@" >&-', 'exec "$@" | true', 'exec "$@" >&- 2>&-'])
def test_an_output_that_nobody_reads_does_not_stop_it(here: Place, wrap: str) -> None:
    running = here.start("quickstart", "--port", "0", wrap=wrap, OLLAMA_HOST="127.0.0.1:1")
    server = here.data / "server.json"
    wait_for(server.exists)
    assert wait_for(lambda: ask(f"{running.url}/readyz").status == 200)
    made = here.run("key", "generate", "admin")
    assert ask(f"{running.url}/api/generate", HELLO, made.stdout.strip()).status == 200
    pid = json.loads(server.read_text())["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive([pid]))
    assert "Traceback" not in running.err
    assert "Exception" not in running.err
    wait_for(lambda: not processes_of(here.data))  # the shell may end later than its program


def test_a_normal_user_needs_nothing_but_a_home() -> None:
    with somebody() as (user, program), place(user, program) as found:
        # no option, no variable: below the home directory; root, where it cannot be another user, names it
        data = found.home / ".local" / "share" / "parallama"
        named = str(data) if os.geteuid() == 0 and user is None else ""
        running = found.start("quickstart", "--port", "0", OLLAMA_HOST="127.0.0.1:1", PARALLAMA_DATA_DIR=named)
        running.data = data
        assert ask(f"{running.ready().url}/api/generate", HELLO, running.key()).status == 200
        assert stat.S_IMODE(data.stat().st_mode) == (0o711 if data.stat().st_uid == 0 else 0o700)
        postgres = found.postgres(data)
        assert running.interrupt() == 0
        assert alive(postgres) == []


@contextmanager
def somebody() -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """A user who is not root, and the command with which it starts the program, from a copy that it can reach.

    Ourselves, where we are not root or every Python lies where only root can reach it.
    """
    nobody = Account(65534, 65534)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [python for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}")
               if Path(python).exists() and not first_closed(Path(python), nobody)]  # fmt: skip
    if os.geteuid() != 0 or not pythons:
        yield None, PROGRAM
        return
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp") as copy:
        Path(copy).chmod(0o711)
        code = f"import sys; sys.path.insert(0, {copy!r}); from parallama.cli import main; main(prog_name='parallama')"
        _copy_packages(Path(copy))
        yield "nobody", (pythons[0], "-I", "-c", code)


def _copy_packages(copy: Path) -> None:
    """What the program imports, as an installation that is not editable has it."""
    unused = ("__editable__*", "__pycache__", "pginstall", "mypy*", "ruff*", "hypothesis*", "pip", "_pytest", "grimp*")
    shutil.copytree(site.getsitepackages()[0], copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*unused))
    shutil.copytree(ROOT / "parallama", copy / "parallama", dirs_exist_ok=True)
    shutil.copytree(ROOT / "migrations", copy / "parallama" / "migrations")
    shutil.copytree(ROOT / "plugins" / "parallama_ollama", copy / "parallama_ollama", dirs_exist_ok=True)


def test_a_state_directory_that_cannot_be_reached_is_named(here: Place) -> None:
    closed = here.root / "closed"
    (closed / "below").mkdir(parents=True)
    closed.chmod(0o700 if os.geteuid() == 0 else 0o000)
    done = here.run("quickstart", "--port", "0", "--data", str(closed / "below" / "state"))
    closed.chmod(0o700)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert f"{closed} " in done.stderr or os.geteuid() != 0
    assert str(closed) in done.stderr


TOPICS = ("api", "gateway", "usage", "auth", "error")


def test_with_a_log_directory_stderr_stays_quiet(here: Place) -> None:
    logs = here.root / "logs"
    running = here.quickstart(PARALLAMA__LOGS__DIRECTORY=str(logs)).ready()
    assert ask(f"{running.url}/api/generate", HELLO, running.key()).status == 200
    assert running.end() == 0
    assert running.err == ""
    assert {path.name for path in logs.iterdir()} == {f"{topic}.log" for topic in TOPICS}
    (line,) = [json.loads(text) for text in (logs / "api.log").read_text().splitlines()]
    assert (line["path"], line["status"], line["user"]) == ("/api/generate", 200, "admin")
