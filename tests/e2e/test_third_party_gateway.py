"""A stranger's gateway (plain_gateway/), installed with pip for a `parallama serve` that knows nothing of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from databases import fresh_database
from raw_http import raw_client, request_bytes
from running import CEILING_S, eventually, make_users

from parallama.config import DatabaseSettings
from parallama.db.pool import Database
from parallama.testing import Answer, FakeOllama, Fault, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")
"""One server serves every test of this module."""

PACKAGE = Path(__file__).parent / "plain_gateway"

MODEL = "llama3.2:1b"
LINES = [
    b'{"response":"Because","done":false}\n',
    b'{"response":" it is.","done":false}\n',
    b'{"response":"","done":true,"prompt_eval_count":7,"eval_count":5}\n',
]
CHUNKS = {"Transfer-Encoding": "chunked", "Content-Type": "text/plain; charset=utf-8"}


@dataclass
class Server:
    """A running `parallama serve`, in a process of its own."""

    url: str
    key: str
    admin_key: str
    database: Database
    http: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(
        self, path: str, text: bytes | None = None, key: str | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and text of the answer; `text` None: a GET."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        method = "GET" if text is None else "POST"
        async with self.http.request(method, self.url + path, data=text, headers=headers) as answer:
            return answer.status, answer.headers, await answer.text()

    async def row(self, request_id: str) -> dict[str, Any]:
        """The usage row of the request, once it is there."""

        async def there() -> Any:
            async with self.database.connection() as one:
                return await one.fetchrow("SELECT * FROM usage WHERE id = $1", request_id)

        return dict(await eventually(there))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which pip has put the stranger's package."""
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "plain")  # pip builds in it
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True)
    return target


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(installed: Path, state: Path, node: FakeOllama, postgres: str) -> AsyncIterator[Server]:
    async with (
        fresh_database(postgres) as database_url,
        Database(database_url, DatabaseSettings()).running() as database,
        aiohttp.ClientSession() as http,
    ):
        key, admin_key = await make_users(database)
        settings = {
            "server": {"port": 0},
            "database": {"url": database_url},
            "nodes": [{"name": "node-1", "url": node.url}],
            "gateways": {"plain": {"model": MODEL}},
        }
        (state / "config.yaml").write_text(json.dumps(settings))
        async with _serving(installed, state) as url:
            yield Server(url, key, admin_key, database, http)


@asynccontextmanager
async def _serving(installed: Path, state: Path) -> AsyncIterator[str]:
    """The URL of a `parallama serve`; it is stopped in order, and must say that all went well."""
    command = [sys.executable, "-m", "parallama", "serve", "--config", str(state / "config.yaml"), "--data", str(state)]
    with (state / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environment(installed), stderr=log, stdout=log)
    try:
        announced = state / "server.json"
        await eventually(lambda: announced.exists() or process.returncode is not None)
        assert process.returncode is None, (state / "log").read_text()
        yield json.loads(announced.read_text())["url"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(CEILING_S):
            assert await process.wait() == 0, (state / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@in_one_loop
async def test_it_is_discovered(server: Server) -> None:
    _, _, text = await server.ask("/")
    plain = json.loads(text)["gateways"]["plain"]
    assert plain["base_path"] == "/plain"
    assert plain["endpoints"] == ["POST /plain/ask", "GET /plain/models"]
    assert plain["features"] == ["generate", "list"]


@in_one_loop
async def test_a_bug_in_the_middle_of_a_stream_breaks_it_off_without_a_second_head(
    server: Server, node: FakeOllama
) -> None:
    gate = asyncio.Event()
    node.cue(Answer(lines=[LINES[0], b'{"response":"a bug","done":false}\n'], hold_chunks=gate), "/api/generate")
    async with raw_client(server.port) as client:
        await client.send(request_bytes("POST", "/plain/ask", b"Why?", f"Authorization: Bearer {server.key}"))
        head = await client.head()
        assert await client.chunk() == b"Because"
        gate.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            raise AssertionError(await client.chunk())
    request_id = re.search(r"x-request-id: (\S+)", head)
    assert request_id is not None
    row = await server.row(request_id[1])
    assert (row["status"], row["outcome"], row["error"]) == (500, "failed", "internal_error")


@in_one_loop
async def test_it_answers_in_its_own_way_and_is_accounted(server: Server, node: FakeOllama) -> None:
    node.cue(Answer(lines=LINES), "/api/generate")
    status, headers, text = await server.ask("/plain/ask", b"Why?")
    assert (status, text) == (200, "Because it is.")
    assert CHUNKS.items() <= dict(headers).items()
    assert headers["X-Plain-Served-By"] == f"{MODEL} on node-1"
    sent = json.loads(node.seen("/api/generate")[-1].body)
    assert sent == {"model": MODEL, "prompt": "Why?", "stream": True}
    row = await server.row(headers["x-request-id"])
    assert (row["gateway"], row["operation"], row["username"]) == ("plain", "generate", "alice")
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (7, 5, False)
    assert (row["model"], row["status"], row["outcome"], row["streamed"]) == (MODEL, 200, "ok", True)


@in_one_loop
async def test_its_answer_streams(server: Server, node: FakeOllama) -> None:
    one_by_one = asyncio.Semaphore(0)
    node.cue(Answer(lines=LINES, hold_chunks=one_by_one), "/api/generate")
    async with raw_client(server.port) as client:
        await client.send(request_bytes("POST", "/plain/ask", b"Why?", f"Authorization: Bearer {server.key}"))
        await client.head()
        assert await client.chunk() == b"Because"
        one_by_one.release()
        assert await client.chunk() == b" it is."
        one_by_one.release()
        assert await client.chunk() == b""


@in_one_loop
async def test_a_codec_of_one_document_works_too(server: Server, node: FakeOllama) -> None:
    status, headers, text = await server.ask("/plain/models")
    assert (status, text.split()) == (200, [entry["name"] for entry in node.models.tags()])
    assert (await server.row(headers["x-request-id"]))["operation"] == "list"


@in_one_loop
@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("/plain/ask", b" ", (400, "bad_request: ask something\n")),
        ("/plain/ask?model=nosuch", b"Why?", (404, "model_not_found: model 'nosuch' not found\n")),
        ("/plain/nowhere", b"", (404, "not_found: there is nothing at /plain/nowhere\n")),
        ("/plain/ask", None, (405, "method_not_allowed: GET is not allowed on /plain/ask\n")),
    ],
)
async def test_errors_are_told_in_its_own_words(
    server: Server, path: str, text: bytes | None, expected: tuple[int, str]
) -> None:
    status, headers, told = await server.ask(path, text)
    assert (status, told) == expected
    assert headers["Content-Type"] == CHUNKS["Content-Type"]
    row = await server.row(headers["x-request-id"])
    assert (row["gateway"], row["status"], row["outcome"]) == ("plain", status, "refused")


@in_one_loop
async def test_strangers_are_refused_in_its_own_words(server: Server, node: FakeOllama) -> None:
    asked = len(node.seen("/api/generate"))
    status, _, told = await server.ask("/plain/ask", b"Why?", key="nobody")
    assert status == 401
    assert told.startswith("not_authenticated: ")
    assert len(node.seen("/api/generate")) == asked


@in_one_loop
async def test_a_node_that_breaks_is_told_in_its_own_words(server: Server, node: FakeOllama) -> None:
    node.cue(Answer(lines=LINES, fault=Fault.CLOSE, after_body=len(LINES[0])), "/api/generate")
    status, headers, told = await server.ask("/plain/ask", b"Why?")
    assert status == 200
    assert told.startswith("Because\n[broken: ")
    row = await server.row(headers["x-request-id"])
    assert (row["status"], row["outcome"], row["estimated"]) == (502, "failed", True)


@in_one_loop
async def test_it_is_counted_in_the_metrics(server: Server, node: FakeOllama) -> None:
    counter = 'parallama_requests_total{gateway="plain",operation="generate",outcome="ok",status="200"}'

    async def counted() -> float:
        _, _, text = await server.ask("/metrics", key=server.admin_key)
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(counter))

    before = await counted()
    node.cue(Answer(lines=LINES), "/api/generate")
    await server.ask("/plain/ask", b"Why?")

    async def one_more() -> bool:
        return await counted() == before + 1

    assert await eventually(one_more)


def test_its_command_joins_ours(installed: Path) -> None:
    command = [sys.executable, "-m", "parallama", "plain"]
    ran = subprocess.run(command, env=environment(installed), capture_output=True, text=True, check=True)
    assert ran.stdout == "hello from a plugin\n"
