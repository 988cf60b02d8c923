"""What is written down of an exchange, and when: before the client has the last of its answer, and never again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import CHAT, STREAMS, UNARY, Gate, ask, asked, node_path
from journals import read, said
from raw_http import RawClient
from running import RunningGateway, eventually, running_gateway
from usage_rows import make_row

from parallama.app import BOOKS, SHIPPER
from parallama.exchange import Caller, Exchange, Usage, UsageRecord
from parallama.gateway.api import Codec
from parallama.ledger import entries
from parallama.proxy.books import Booking
from parallama.testing import Answer, FakeOllama, Fault

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LINES = b"""{"model":"x","created_at":"2026-11-21T00:00:00Z","message":{"content":"hello"},"done":false}
{"model":"x","created_at":"2026-11-21T00:00:00Z","message":{"content":""},"done":true,\
"done_reason":"stop","total_duration":3,"prompt_eval_count":7,"eval_count":2}
"""
STAYS = {"usage": {"flush_ms": 3_600_000}}
"""Nothing is shipped, so that all that was written can be looked at."""


def home(gateway: RunningGateway) -> Path:
    return gateway.app[SHIPPER].journal.home


def kinds(gateway: RunningGateway) -> bytes:
    """The kinds of the entries so far, PROGRESS apart, and DISPATCH of who had to wait for a connection."""
    return b"".join(
        booking[:1] for booking in said(home(gateway)) if booking[:1] not in (entries.PROGRESS, entries.DISPATCH)
    )


def rows(gateway: RunningGateway) -> list[UsageRecord]:
    return read(said(home(gateway)))


@pytest.fixture
async def strict(database_url: str, node: FakeOllama) -> AsyncIterator[RunningGateway]:
    settings = {"usage": {"strict": True, "sync_ms": 3_600_000, "flush_ms": 3_600_000}}
    async with running_gateway(database_url, node.url, settings) as running:
        yield running


@contextmanager
def disk_that_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events: somebody waits for the disk; it goes on."""
    waits, goes_on, put = threading.Event(), threading.Event(), os.fdatasync

    def gated(file: int) -> None:
        waits.set()
        assert goes_on.wait(30)
        put(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", gated)
        yield waits, goes_on
        goes_on.set()


@pytest.mark.parametrize("gateway_settings", [STAYS])
@pytest.mark.parametrize(("path", "body"), [*STREAMS, ("/api/chat", UNARY)])
async def test_an_exchange_is_admitted_then_sent_to_its_node_then_ended(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    gate = Gate()
    node.cue(Answer(hold_head=gate), node_path(path))
    async with asked(gateway, path, body) as client:
        await gate.reached.wait()
        assert kinds(gateway) == b"A"
        assert [row.node for row in rows(gateway)] == ["node-1"]
        gate.set()
        assert (await client.answer("POST")).status == 200
    assert kinds(gateway) == b"AF"
    (row,) = rows(gateway)
    assert (row.status, row.outcome, row.node) == (200, "ok", "node-1")


@pytest.mark.parametrize("gateway_settings", [STAYS])
async def test_what_is_refused_or_needs_no_node_is_its_end_alone(gateway: RunningGateway) -> None:
    for path, body in (("/api/version", None), ("/api/chat", {"model": 3}), ("/api/nothing", None)):
        await ask(gateway, path, body)
    assert kinds(gateway)[-3:] == b"FFF"
    before = kinds(gateway)
    async with gateway.http.get(f"{gateway.url}/api/tags") as answer:
        assert answer.status == 401
    assert kinds(gateway) == before, "nobody's request is nobody's usage"


@pytest.mark.parametrize("gateway_settings", [STAYS])
@pytest.mark.parametrize(("body", "fault"), [(CHAT, Fault.CLOSE), (CHAT, Fault.NO_DONE), (UNARY, Fault.CLOSE)])
async def test_a_failure_is_written_once(gateway: RunningGateway, node: FakeOllama, fault: Fault, body: Any) -> None:
    node.cue(Answer(fault=fault))
    await ask(gateway, "/api/chat", body)
    await eventually(lambda: kinds(gateway) == b"AF")
    (row,) = rows(gateway)
    assert (row.status, row.outcome, row.error) == (502, "failed", "upstream_failed")


@pytest.mark.parametrize("gateway_settings", [STAYS])
@pytest.mark.parametrize("body", [CHAT, UNARY])
async def test_the_row_counts_the_bytes_that_were_still_to_go_out(gateway: RunningGateway, body: Any) -> None:
    got = await ask(gateway, "/api/chat", body)
    (row,) = rows(gateway)
    assert row.response_bytes == len(got.body)
    assert row.ttft_ms is not None
    assert 0 < row.ttft_ms <= row.duration_ms


@pytest.mark.parametrize("gateway_settings", [STAYS])
@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat", "/v1/chat/completions"])
async def test_the_end_is_written_before_the_last_line_leaves_whatever_the_node_does_behind_it(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    gate = Gate()
    node.cue(Answer(raw=[CHUNKED + b"%x\r\n%b\r\n" % (len(LINES), LINES), b"0\r\n\r\n"], hold_body=gate), "/api/chat")
    async with asked(gateway, path, {**CHAT, "stream": True}) as client:
        await client.head()
        await gate.reached.wait()
        await eventually(lambda: kinds(gateway) == b"AF")
        gate.set()
        sent = sum([len(chunk) async for chunk in chunks(client)])
    (row,) = rows(gateway)
    assert (row.status, row.outcome, row.output_tokens, row.estimated) == (200, "ok", 2, False)
    assert row.response_bytes == sent


async def chunks(client: RawClient) -> AsyncIterator[bytes]:
    while chunk := await client.chunk():
        yield chunk


class Tells(Codec):
    """Says something of tokens."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self._tell = tell

    @property
    def usage(self) -> Usage:
        said: Usage = self._tell()
        return said

    def feed(self, chunk: bytes) -> bytes:
        return chunk


@pytest.mark.parametrize("gateway_settings", [STAYS])
async def test_counts_that_cannot_be_had_do_not_stop_the_journal(gateway: RunningGateway) -> None:
    row = make_row()
    caller = Caller(user_id=row.user_id, username="alice", key_id=None, admin=False)
    exchange = Exchange(id=row.id, client_request_id=None, gateway="ollama", caller=caller, node="node-1")
    odd = (lambda: 1 / 0, lambda: Usage(output_tokens=1 << 70), lambda: Usage(output_tokens="many"))
    for usage in (*odd, lambda: Usage(output_tokens=5)):
        booking = Booking(gateway.app[BOOKS], replace(exchange, id=make_row().id), Tells(usage), lambda: None)
        booking.admit()
        booking.dispatch()
    await eventually(lambda: [found.output_tokens for found in rows(gateway)] == [None, None, None, 5])


async def test_in_strict_mode_a_document_waits_for_the_disk(
    strict: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk_that_waits(monkeypatch) as (waits, goes_on):
        async with asked(strict, "/api/chat", UNARY) as client:
            assert await asyncio.to_thread(waits.wait, 30)
            assert kinds(strict) == b"AF"
            reading = asyncio.get_running_loop().create_task(client.reader.read(1))
            await asyncio.wait({reading}, timeout=0.05)
            assert not reading.done()
            goes_on.set()
            assert await reading == b"H"


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_in_strict_mode_the_end_of_a_stream_waits_for_the_disk(
    strict: RunningGateway, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    with disk_that_waits(monkeypatch) as (waits, goes_on):
        async with asked(strict, path, body) as client:
            answering = asyncio.get_running_loop().create_task(client.answer("POST"))
            assert await asyncio.to_thread(waits.wait, 30)
            assert kinds(strict) == b"AF"
            await asyncio.wait({answering}, timeout=0.05)
            assert not answering.done()
            goes_on.set()
            (last,) = read(said(home(strict)))
            assert last.response_bytes == len((await answering).body)


async def test_in_strict_mode_nobody_has_a_whole_answer_from_a_disk_that_does_not_answer(
    strict: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallama.ledger.journal._SYNC_S", 0.2)
    with disk_that_waits(monkeypatch):
        got = await ask(strict, "/api/chat", UNARY)
        assert (got.status, "Retry-After: " in got.head) == (503, True)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(strict, "/api/chat", CHAT)
    assert [row.output_tokens is not None for row in rows(strict)] == [True, True]
    assert kinds(strict) == b"AFAF"
