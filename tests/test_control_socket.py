"""The control socket: who may ask, where it lies, and what it leaves alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from processes import Place, ask, wait_for

from parallama.admin.control import SOCKET_FILE, asked, control_app, serving
from parallama.errors import ConfigError, Unavailable

NODE: dict[str, Any] = {"PARALLAMA__NODES__0__NAME": "gone", "PARALLAMA__NODES__0__URL": "http://127.0.0.1:1"}
"""A node that is not there."""


async def _hello(_request: web.Request) -> web.Response:
    return web.json_response({"hello": "you"})


def answers() -> web.Application:
    return control_app({"/hello": _hello})


async def test_only_its_owner_may_ask_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(answers(), tmp_path):
            mode = (tmp_path / SOCKET_FILE).lstat().st_mode
            assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    finally:
        assert os.umask(before) == 0


async def test_it_answers_and_is_removed_at_the_end(tmp_path: Path) -> None:
    async with serving(answers(), tmp_path):
        assert await asyncio.to_thread(asked, tmp_path, "/hello") == {"hello": "you"}
    assert list(tmp_path.iterdir()) == []


async def test_a_state_directory_may_be_deeper_than_a_socket_path_can_be(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    async with serving(answers(), deep):
        assert await asyncio.to_thread(asked, deep, "/hello") == {"hello": "you"}
    assert list(deep.iterdir()) == []


async def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET_FILE))
    with pytest.raises(Unavailable, match="no server runs on"):
        asked(tmp_path, "/hello")
    async with serving(answers(), tmp_path):
        assert await asyncio.to_thread(asked, tmp_path, "/hello") == {"hello": "you"}


@pytest.mark.parametrize("target", ["there", "nowhere"])
async def test_a_server_follows_no_symlink(tmp_path: Path, target: str) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "there"
    state.mkdir()
    elsewhere.write_text("precious")
    (state / SOCKET_FILE).symlink_to(tmp_path / target)
    with pytest.raises(ConfigError, match=rf"{SOCKET_FILE}: .* no socket is in its place; remove it"):
        async with serving(answers(), state):
            pass
    assert (state / SOCKET_FILE).is_symlink()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["there"]
    assert elsewhere.read_text() == "precious"


async def test_a_command_follows_no_symlink(tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    (state / SOCKET_FILE).symlink_to(elsewhere / SOCKET_FILE)
    async with serving(answers(), elsewhere):
        with pytest.raises(Unavailable, match="is no socket"):
            await asyncio.to_thread(asked, state, "/hello")


async def test_what_is_put_in_its_place_stays(tmp_path: Path) -> None:
    async with serving(answers(), tmp_path):
        (tmp_path / SOCKET_FILE).unlink()
        (tmp_path / SOCKET_FILE).write_text("precious")
    assert (tmp_path / SOCKET_FILE).read_text() == "precious"


def test_a_server_that_says_nothing_sensible_is_one_that_does_not_answer(tmp_path: Path) -> None:
    def talk() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"what?\r\n\r\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / SOCKET_FILE))
        listening.listen()
        talking = threading.Thread(target=talk)
        talking.start()
        with pytest.raises(Unavailable, match="does not answer"):
            asked(tmp_path, "/hello")
        talking.join()


async def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    async with serving(answers(), tmp_path):
        with pytest.raises(Unavailable, match="does not answer"):
            await asyncio.to_thread(asked, tmp_path, "/nowhere")


def test_the_socket_of_a_killed_server_is_replaced_and_that_of_a_stopped_one_is_gone(
    here: Place, database_url: str
) -> None:
    env = {"PARALLAMA_DB_URL": database_url, **NODE}
    here.start("serve", "--port", "0", **env).ready().end(signal.SIGKILL)
    assert (here.data / SOCKET_FILE).is_socket()
    assert "no server runs on" in here.run("gateway", "metrics", **env).stderr
    running = here.start("serve", "--port", "0", **env).ready()
    assert here.run("gateway", "metrics", **env).returncode == 0
    assert running.end() == 0
    assert not (here.data / SOCKET_FILE).exists()


def test_a_running_server_says_its_status_there(here: Place, database_url: str) -> None:
    here.start("serve", "--port", "0", PARALLAMA_DB_URL=database_url, **NODE).ready()
    wait_for(lambda: asked(here.data, "/status")["gateways"]["ollama"]["status"] == "down")


def test_who_asks_there_is_no_client(here: Place, database_url: str) -> None:
    """Not counted, and a stop does not wait: the drain counts no request while one is half asked."""
    env = {"PARALLAMA_DB_URL": database_url, **NODE}
    here.run("user", "create", "root", "--admin", **env)
    key = here.run("key", "generate", "root", **env).stdout.strip()
    running = here.start("serve", "--port", "0", **env).ready()
    for _ in range(3):
        figures = asked(here.data, "/gateways/metrics")["gateways"]
    assert {one["requests"] for one in figures.values()} == {0}
    counted = ask(f"{running.url}/metrics", key=key).body.decode()
    assert "parallama_requests_total{" not in counted
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(here.data / SOCKET_FILE))
        asking.sendall(b"GET /gateways/metrics HTTP/1.1\r\n")
        assert running.end() == 0
    draining = [line for line in running.logged() if line["event"] == "draining"]
    assert [line["requests"] for line in draining] == [0]
    assert [line for line in running.logged() if line["event"] == "drain over"] == []


def test_a_server_is_refused_when_its_control_socket_cannot_be_made(here: Place, database_url: str) -> None:
    (here.data / SOCKET_FILE).write_text("precious")
    done = here.run("serve", "--port", "0", PARALLAMA_DB_URL=database_url, **NODE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {here.data / SOCKET_FILE}: the control socket")
    assert (here.data / SOCKET_FILE).read_text() == "precious"
