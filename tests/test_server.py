"""How the server is bound, and how it stops: what is accepted is answered, what is counted is written."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from processes import Place, Running, alive, ask, processes_of, wait_for

from parallama.errors import ConfigError
from parallama.server import bind, url_of
from parallama.testing import Answer, FakeOllama

ASK = {"model": "llama3.2:1b", "prompt": "hello"}


async def off_loop(what: Callable[..., Any], *args: Any) -> Any:
    """Call what blocks, while the fake node goes on."""
    return await asyncio.to_thread(what, *args)


def rows(here: Place) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(here.run("usage", "list", "admin", "--json").stdout)
    return listed


class Stream:
    """A client that reads one streamed answer."""

    def __init__(self, url: str, key: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self.connection.request("POST", "/api/generate", json.dumps(ASK), {"Authorization": f"Bearer {key}"})

    def begin(self) -> bytes:
        self.answer = self.connection.getresponse()
        return self.answer.readline()

    def rest(self) -> list[dict[str, Any]]:
        with self.answer:
            return [json.loads(line) for line in self.answer.read().splitlines()]


@asynccontextmanager
async def streaming(here: Place, node: FakeOllama, **env: str) -> AsyncIterator[tuple[Running, Stream, asyncio.Event]]:
    """A gateway with one stream under way, whose rest waits for the gate."""
    gate = asyncio.Event()
    node.cue(Answer(hold_chunks=gate), "/api/generate")
    running = here.quickstart(OLLAMA_HOST=node.url, **env)
    await off_loop(running.ready)
    stream = Stream(running.url, running.key())
    try:
        assert await off_loop(stream.begin)
        yield running, stream, gate
    finally:
        gate.set()
        stream.connection.close()


async def test_a_stop_lets_streams_finish_and_turns_everybody_else_away(here: Place, node: FakeOllama) -> None:
    async with streaming(here, node) as (running, stream, gate):
        kept = http.client.HTTPConnection(*_address(running), timeout=30)
        assert await off_loop(readyz, kept) == (200, None)
        running.popen.send_signal(signal.SIGTERM)
        await off_loop(wait_for, lambda: refused(running))
        assert await off_loop(readyz, kept) == (503, "close")
        gate.set()
        assert (await off_loop(stream.rest))[-1]["done"] is True
        assert await off_loop(running.popen.wait, 30) == 0
        kept.close()
    (row,) = await off_loop(rows, here)
    assert (row["status"], row["outcome"]) == (200, "ok")


def _address(running: Running) -> tuple[str, int]:
    host, _, port = running.url.removeprefix("http://").partition(":")
    return host, int(port)


def readyz(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("GET", "/readyz")
    with connection.getresponse() as answer:
        answer.read()
        return answer.status, answer.headers["Connection"]


def refused(running: Running) -> bool:
    try:
        socket.create_connection(_address(running)).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # still in the queue of the socket when that was closed: not refused yet
        return False
    return False


async def test_a_kept_connection_does_not_hold_a_stop_up(here: Place) -> None:
    running = here.quickstart()
    await off_loop(running.ready)
    kept = http.client.HTTPConnection(*_address(running), timeout=30)
    assert readyz(kept) == (200, None)
    assert await off_loop(running.end) == 0
    kept.close()


@pytest.mark.parametrize("drain_s", ["0", "0.3"])
async def test_what_outlasts_the_drain_is_cut_and_recorded(here: Place, node: FakeOllama, drain_s: str) -> None:
    async with streaming(here, node, PARALLAMA__SERVER__DRAIN_S=drain_s) as (running, stream, _gate):
        assert await off_loop(running.end) == 0
        assert "error" in (await off_loop(stream.rest))[-1]
    (row,) = await off_loop(rows, here)
    assert (row["status"], row["outcome"], row["error"]) == (503, "failed", "stopped")
    assert row["output_tokens"] >= 1
    assert "Traceback" not in running.err
    assert processes_of(here.data) == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once_and_tells_what_is_left(
    here: Place, node: FakeOllama, second: signal.Signals
) -> None:
    async with streaming(here, node) as (running, _stream, _gate):
        running.popen.send_signal(signal.SIGTERM)
        await off_loop(wait_for, lambda: refused(running))
        assert await off_loop(running.end, second) == 1
        last = running.err.splitlines()[-1]
        assert last == f"stopped at once by {second.name}: 1 requests cut off, 0 usage records wait in the journal"
        assert "Traceback" not in running.err
    again = here.quickstart()
    await off_loop(again.ready)
    assert await off_loop(again.end) == 0


async def test_a_crash_of_the_database_is_survived(here: Place, node: FakeOllama) -> None:
    running = here.quickstart(OLLAMA_HOST=node.url)
    await off_loop(running.ready)
    key, postgres = running.key(), here.postgres()
    assert (await off_loop(ask, f"{running.url}/api/generate", ASK, key)).status == 200
    for pid in postgres[1:]:
        signal_quietly(pid, signal.SIGKILL)  # the postmaster starts over after the death of a worker
    await off_loop(wait_for, lambda: not alive(postgres[1:]))
    await off_loop(wait_for, lambda: ask(f"{running.url}/readyz").status == 200)
    assert (await off_loop(ask, f"{running.url}/api/generate", ASK, key)).status == 200
    assert await off_loop(running.end) == 0
    assert len(await off_loop(rows, here)) == 2


def signal_quietly(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def test_a_port_of_zero_is_any_free_one() -> None:
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", 0) as two:
        assert url_of(one) != url_of(two)


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "127.0.0.1")]
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(host: str, shown: str) -> None:
    with bind(host, 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) in (f"http://{shown}:{port}", f"http://[::1]:{port}")
        socket.create_connection((shown.strip("[]"), port)).close()


def test_a_taken_port_is_a_config_error_that_names_it() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^port {port} on 127\.0\.0\.1 is taken; choose another: --port N$"):
            bind("127.0.0.1", port)
