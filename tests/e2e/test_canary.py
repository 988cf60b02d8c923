"""Nothing secret is found afterwards where it has no business: one run with secrets that cannot be mistaken."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from e2e.canary_identity import Visitor, audit, identify, secrets_of
from processes import Answer, Place, Running, ask

from parallama.db.cluster import Cluster
from parallama.testing import Answer as Cue
from parallama.testing import FakeOllama, Fault, fake_ollama

JWT_SECRET = "canary-jwt-0b6f2f5e8b7d4c-91xKqzWm4TtRvY"
PROMPT = "canary-prompt-what-nobody-may-read-9c1d"
ANSWER = "canary-answer-that-is-nobodys-business-77ae"
MISTYPED = "plm_CanaryMistyped0123456789abcdefghijklmnopqrstuv_0aB1cD"
NO_KEY = "canary-sk-proj-no-key-of-ours-5521"
IN_QUERY = "canary-key-in-a-query-string-3f3f"

MODEL = "llama3.2:1b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
LINES = [
    json.dumps({"model": MODEL, "message": {"role": "assistant", "content": ANSWER}, "done": False}).encode() + b"\n",
    json.dumps({"model": MODEL, "message": {"role": "assistant", "content": ""}, "done": True}).encode() + b"\n",
]


def successes(url: str, key: str, node: FakeOllama) -> list[bytes]:
    """Exchanges that work; the answers must hold what the model said, so that the run is a true one."""
    said = []
    for path, cues in (("/api/chat", "/api/chat"), ("/ollama/v1/chat", "/api/chat")):
        node.cue(Cue(lines=LINES), cues)
        said.append(ask(url + path, {**CHAT, "stream": True}, key).body)
    node.cue(Cue(raw=[_document({"model": MODEL, "response": ANSWER, "done": True})]), "/api/generate")
    said.append(ask(f"{url}/api/generate", {"model": MODEL, "prompt": PROMPT, "stream": False}, key).body)
    assert all(ANSWER.encode() in body for body in said)
    return said


def _document(document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def failures(url: str, key: str, node: FakeOllama) -> list[Answer]:
    """Exchanges that fail in every place; what the gateway itself says of them."""
    chats = [url + path for path in ("/api/chat", "/ollama/api/chat", "/ollama/v1/chat")]
    answers = [ask(chat, body.encode(), key) for chat in chats for body in (PROMPT, f'{{"{PROMPT}": ', f'["{PROMPT}"]')]
    answers += [ask(chat, {"model": MODEL, "messages": PROMPT}, key) for chat in chats]
    answers += [ask(chat, {**CHAT, "model": "no-such-model"}, key) for chat in chats]
    answers += [ask(chat, {**CHAT, "model": "some-model:cloud"}, key) for chat in chats]
    answers += [ask(chat, CHAT, wrong) for chat in chats for wrong in (MISTYPED, NO_KEY, f"{key}x", f"x{key}")]
    answers += [ask(f"{chat}?api_key={IN_QUERY}&key={quote(key)}", CHAT) for chat in chats]
    answers += [ask(f"{url}/{path}?api_key={IN_QUERY}", CHAT) for path in ("status", "metrics", "nowhere", "")]
    answers += [ask(f"{url}/status", key=key, method="GET", **{"x-api-key": MISTYPED})]
    for fault in (Fault.RESET, Fault.CLOSE):
        node.cue(Cue(fault=fault, after_head=10), "/api/chat")
        answers.append(ask(chats[0], {**CHAT, "stream": False}, key))
    return answers


def quoting_node(url: str, key: str, node: FakeOllama) -> None:
    """The node's own errors quote the prompt. The client may have that back, nobody else."""
    for chat in (f"{url}/api/chat", f"{url}/ollama/v1/chat"):
        for status in (400, 500, 503):
            node.cue(Cue(status=status, error=f"cannot parse {PROMPT} or {ANSWER}"), "/api/chat")
            assert ask(chat, CHAT, key).status >= 400
        node.cue(Cue(fault=Fault.ERROR_LINE, error=f"runner died over {PROMPT} and {ANSWER}"), "/api/chat")
        ask(chat, {**CHAT, "stream": True}, key)


async def dump(state: Path) -> str:
    """Every row of every table."""
    connection = await asyncpg.connect(Cluster.of(state).dsn)
    try:
        tables = await connection.fetch(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        rows = [str(row[0]) for (table,) in tables for row in await connection.fetch(f"SELECT t::text FROM {table} t")]
    finally:
        await connection.close()
    assert len(rows) > 10, rows
    return "\n".join(rows)


def found_in(text: str, secrets: list[str]) -> list[str]:
    """The secrets that the text holds, as they are, escaped, or within a base64 text."""
    return [secret for secret in secrets if any(form in text for form in _forms(secret))]


@lru_cache(1000)
def _forms(secret: str) -> list[str]:
    # at any of three offsets; the characters at both ends depend on what stands around
    shifted = [base64.b64encode(b"-" * pad + secret.encode()).decode() for pad in range(3)]
    escaped = [json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]
    return [secret, *escaped, quote(secret, safe=""), secret.encode().hex(), *(text[4:-4] for text in shifted)]


def _everything(running: Running, logs: Path) -> str:
    return running.err + "".join(path.read_text() for path in (*logs.iterdir(), running.data / "postgres.log"))


async def test_no_secret_prompt_or_answer_is_found_afterwards(here: Place) -> None:
    logs = here.root / "logs"
    env = {
        "PARALLAMA_JWT_SECRET": JWT_SECRET,
        "PARALLAMA__LOGS__LEVEL": "debug",
        "PARALLAMA__LOGS__DIRECTORY": str(logs),
        "PARALLAMA__AUTH__REGISTRATION": "true",
    }
    async with fake_ollama() as node:
        running = here.quickstart(**{**env, "OLLAMA_HOST": node.url})
        await asyncio.to_thread(running.ready)
        url, key = running.url, running.key()
        secrets = [key, key[4:-7], JWT_SECRET, PROMPT, ANSWER, MISTYPED, NO_KEY, IN_QUERY]
        await asyncio.to_thread(successes, url, key, node)
        errors = await asyncio.to_thread(failures, url, key, node)
        await asyncio.to_thread(quoting_node, url, key, node)
        visitor = Visitor(here, url, key)
        await asyncio.to_thread(identify, visitor)
        audited = await asyncio.to_thread(audit, visitor)
        document = await asyncio.to_thread(ask, f"{url}/admin/v1/openapi.json", None, key)
        metrics = await asyncio.to_thread(ask, f"{url}/metrics", None, key)
        status = await asyncio.to_thread(ask, f"{url}/status", None, key)
        shown = await asyncio.to_thread(here.run, "config", "show", **env)
        assert await asyncio.to_thread(running.end) == 0
    stored = await _stored(here)
    secrets += secrets_of(visitor)

    assert len(visitor.given) > 20
    assert len(errors) > 30
    assert [error for error in errors if error.status < 400] == []
    assert (metrics.status, status.status, shown.returncode) == (200, 200, 0)
    places = {
        "error bodies": "".join(f"{error.headers}{error.body.decode()}" for error in errors),
        "logs": _everything(running, logs),
        "metrics": metrics.body.decode(),
        "status": status.body.decode(),
        "answers": "\n".join(visitor.told),
        "audit": audited,
        "openapi": document.body.decode(),
        "config show": shown.stdout + shown.stderr,
        "database": stored,
    }
    leaks = [(name, line) for name, text in places.items() for line in text.splitlines() if found_in(line, secrets)]
    assert leaks == []
    assert "usage" in places["database"] or MODEL in places["database"]
    assert len(places["logs"].splitlines()) > 30


async def _stored(here: Place) -> str:
    again = here.quickstart()
    await asyncio.to_thread(again.ready)
    return await dump(here.data)


@pytest.mark.parametrize("prefix", ["", "-", "--"])
def test_the_search_finds_what_is_hidden_in_base64(prefix: str) -> None:
    hidden = base64.b64encode(f"{prefix}{PROMPT} and more".encode()).decode()
    assert found_in(f"x {hidden} y", [PROMPT, ANSWER]) == [PROMPT]
