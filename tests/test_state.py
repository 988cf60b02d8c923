"""Discovery, status, liveness, readiness and metrics, on a running gateway."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from processes import cluster_pids
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from running import RunningGateway, eventually

from parallama.app import POOL, READINESS
from parallama.metrics import Metrics
from parallama.testing import Answer, FakeOllama, Fault
from parallama.version import __version__

MODEL = "llama3.2:1b"
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def get(gateway: RunningGateway, path: str, key: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status, and the JSON document or the text. Every answer has an id of ours."""
    if key:
        headers["Authorization"] = f"Bearer {key}"
    async with gateway.http.get(gateway.url + path, headers=headers) as answer:
        assert re.fullmatch(UUID7, answer.headers["x-request-id"])
        return answer.status, await (answer.json() if answer.content_type == "application/json" else answer.text())


async def generate(gateway: RunningGateway, model: str = MODEL) -> int:
    body = {"model": model, "prompt": "hello", "stream": False}
    async with gateway.http.post(f"{gateway.url}/api/generate", json=body, headers=gateway.auth) as answer:
        await answer.read()
        return answer.status


async def test_discovery_tells_what_there_is(gateway: RunningGateway) -> None:
    status, found = await get(gateway, "/")
    assert status == 200
    assert (found["name"], found["version"]) == ("parallama", __version__)
    ollama = found["gateways"]["ollama"]
    assert (ollama["base_path"], ollama["status"], ollama["model_mappings"]) == ("/ollama", "active", {})
    assert {"chat", "generate", "embed"} <= set(ollama["features"])
    assert {"POST /ollama/api/chat", "POST /ollama/v1/chat", "GET /ollama/v1/models"} <= set(ollama["endpoints"])


async def test_every_endpoint_that_discovery_names_is_there(gateway: RunningGateway) -> None:
    _, found = await get(gateway, "/")
    for endpoint in found["gateways"]["ollama"]["endpoints"]:
        method, _, path = endpoint.partition(" ")
        path = re.sub(r"\{[^}]*\}", "x", path)
        async with gateway.http.request(method, gateway.url + path) as answer:
            assert answer.status == 401, endpoint  # neither 404 nor 405


@pytest.mark.parametrize("path", ["/", "/ollama", "/ollama/"])
async def test_clients_of_ollama_find_its_liveness_text(gateway: RunningGateway, path: str) -> None:
    assert await get(gateway, path, Accept="text/plain") == (200, "Ollama is running")
    async with gateway.http.head(gateway.url + path) as answer:
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert re.fullmatch(UUID7, answer.headers["x-request-id"])


async def test_healthz_needs_nothing(gateway: RunningGateway) -> None:
    assert await get(gateway, "/healthz") == (200, {"status": "ok"})


async def test_readyz_follows_the_database(gateway: RunningGateway, postgres: str) -> None:
    assert await get(gateway, "/readyz") == (200, {"status": "ready"})
    await scrape(gateway)  # the key is cached from here on
    async with stopped(postgres):

        async def lost() -> bool:
            return (await get(gateway, "/readyz"))[0] == 503

        await eventually(lost)
        assert await get(gateway, "/readyz") == (503, {"status": "not ready", "reasons": ["database"]})
        assert (await get(gateway, "/healthz"))[0] == 200
        metrics = await scrape(gateway)
        assert metrics["parallama_database_up", ()] == 0

    async def back() -> bool:
        return (await get(gateway, "/readyz"))[0] == 200

    await eventually(back)
    assert (await scrape(gateway))["parallama_database_up", ()] == 1


@asynccontextmanager
async def stopped(postgres: str) -> AsyncIterator[None]:
    """PostgreSQL hangs for the block: it neither answers nor closes anything."""
    connection = await asyncpg.connect(postgres)
    data = Path(await connection.fetchval("SHOW data_directory"))
    await connection.close()
    with _stopped(data):
        yield


@contextmanager
def _stopped(data: Path) -> Iterator[None]:
    pids: list[int] = []
    try:
        while more := [pid for pid in cluster_pids(data) if pid not in pids]:
            pids += more
            signal_all(more, signal.SIGSTOP)
        assert len(pids) > 1
        yield
    finally:
        signal_all(pids, signal.SIGCONT)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def test_readyz_is_503_while_draining(gateway: RunningGateway) -> None:
    gateway.app[READINESS].draining = True
    async with gateway.http.get(f"{gateway.url}/readyz") as answer:
        assert (answer.status, await answer.json()) == (503, {"status": "not ready", "reasons": ["draining"]})
        assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_state_is_for_admins(gateway: RunningGateway, path: str) -> None:
    status, found = await get(gateway, path)
    assert (status, found["error"]["code"]) == (401, "not_authenticated")
    status, found = await get(gateway, path, "wrong")
    assert status == 401
    status, found = await get(gateway, path, gateway.key)
    assert (status, found["error"]["code"]) == (403, "not_allowed")
    assert "view_metrics" in found["error"]["message"]
    assert (await get(gateway, path, gateway.admin_key))[0] == 200


async def test_status_tells_latency_and_rate(gateway: RunningGateway) -> None:
    _, before = await get(gateway, "/status", gateway.admin_key)
    quiet = before["gateways"]["ollama"]
    assert (quiet["status"], quiet["requests_per_second"]) == ("operational", 0)
    assert quiet["latency_ms"] > 0  # that of the probe
    for _ in range(6):
        assert await generate(gateway) == 200
    _, after = await get(gateway, "/status", gateway.admin_key)
    busy = after["gateways"]["ollama"]
    assert busy["requests_per_second"] == pytest.approx(6 / after["window_s"], abs=0.001)
    assert busy["latency_ms"] > 0
    assert abs((datetime.now(UTC) - datetime.fromisoformat(after["timestamp"])).total_seconds()) < 60


async def test_status_says_when_the_node_is_down(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(status=500, error="gone"), "/api/version", times=None)
    probe(gateway)

    async def state() -> bool:
        return bool((await get(gateway, "/status", gateway.admin_key))[1]["gateways"]["ollama"]["status"] == "down")

    await eventually(state)
    assert (await scrape(gateway))["parallama_node_up", (("node", "node-1"),)] == 0
    node.clear()
    probe(gateway)
    await eventually(lambda: is_up(gateway))


async def is_up(gateway: RunningGateway) -> bool:
    return bool((await get(gateway, "/status", gateway.admin_key))[1]["gateways"]["ollama"]["status"] == "operational")


def probe(gateway: RunningGateway) -> None:
    gateway.app[POOL].changed()


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(gateway: RunningGateway) -> Samples:
    """Every sample by its name and sorted labels."""
    status, text = await get(gateway, "/metrics", gateway.admin_key)
    assert status == 200
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in parse(text) for s in f.samples}


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over the samples that have these labels among others."""
    return sum(v for (found, has), v in samples.items() if found == name and labels.items() <= dict(has).items())


async def test_every_instrument_shows_up(gateway: RunningGateway) -> None:
    _, text = await get(gateway, "/metrics", gateway.admin_key)
    ours = {family.name for family in Metrics().registry.collect()}
    assert ours <= {family.name for family in parse(text)}
    samples = await scrape(gateway)
    assert samples["parallama_build_info", (("version", __version__),)] == 1
    assert samples["parallama_node_up", (("node", "node-1"),)] == 1
    assert total(samples, "parallama_database_connections") >= 1
    assert total(samples, "parallama_usage_records_lost") == 0


async def test_counts_move_with_the_requests(gateway: RunningGateway) -> None:
    labels = {"gateway": "ollama", "operation": "generate"}
    assert [await generate(gateway) for _ in range(3)] == [200] * 3
    samples = await scrape(gateway)
    assert total(samples, "parallama_requests_total", **labels, status="200", outcome="ok") == 3
    assert total(samples, "parallama_request_duration_seconds_count", **labels) == 3
    assert total(samples, "parallama_request_duration_seconds_sum", **labels) > 0
    assert total(samples, "parallama_time_to_first_byte_seconds_count", **labels) == 3
    rows = await gateway.rows(3)
    for kind in ("prompt", "output"):
        counted = sum(row[f"{kind}_tokens"] for row in rows)
        assert counted > 0
        assert total(samples, "parallama_tokens_total", model=MODEL, kind=kind) == counted


async def test_requests_in_flight_are_seen_while_they_are(gateway: RunningGateway, node: FakeOllama) -> None:
    gate = asyncio.Event()
    node.cue(Answer(hold_head=gate), "/api/generate")
    asking = asyncio.gather(generate(gateway))
    await node.request_for("/api/generate")
    samples = await scrape(gateway)
    assert total(samples, "parallama_requests_in_flight", gateway="ollama") == 1
    assert total(samples, "parallama_node_requests_in_flight", node="node-1") == 1
    gate.set()
    assert list(await asking) == [200]
    samples = await scrape(gateway)
    assert total(samples, "parallama_requests_in_flight") == 0
    assert total(samples, "parallama_node_requests_in_flight") == 0


async def test_records_that_wait_for_the_database_are_seen(gateway: RunningGateway, postgres: str) -> None:
    assert await generate(gateway) == 200  # the key is cached from here on
    await gateway.rows(1)
    assert (await get(gateway, "/metrics", gateway.admin_key))[0] == 200
    async with stopped(postgres):
        assert await generate(gateway) == 200
        assert total(await scrape(gateway), "parallama_usage_records_pending") == 1
    await gateway.rows(2)
    assert total(await scrape(gateway), "parallama_usage_records_pending") == 0


async def test_node_errors_are_counted(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(fault=Fault.CLOSE), "/api/generate")
    assert await generate(gateway) == 502
    samples = await scrape(gateway)
    assert total(samples, "parallama_node_errors_total", node="node-1", code="upstream_failed") == 1
    assert total(samples, "parallama_requests_total", status="502", outcome="failed") == 1


async def test_unknown_models_share_one_label(gateway: RunningGateway, node: FakeOllama) -> None:
    line = b'{"model":"x","response":"hi","done":true,"prompt_eval_count":3,"eval_count":4}\n'
    for number in range(3):
        node.cue(Answer(lines=[line]), "/api/generate")
        assert await generate(gateway, f"invented-{number}") == 200
    samples = await scrape(gateway)
    assert total(samples, "parallama_tokens_total", model="other", kind="prompt") == 9
    assert total(samples, "parallama_tokens_total", model="other", kind="output") == 12
    assert "invented" not in str(samples)


async def test_metrics_name_no_user_and_no_key(gateway: RunningGateway) -> None:
    assert await generate(gateway) == 200
    await get(gateway, "/api/tags", "wrong-key-of-somebody")
    _, text = await get(gateway, "/metrics", gateway.admin_key)
    for secret in ("alice", "root", gateway.key, gateway.admin_key, "plm_", "wrong-key"):
        assert secret not in text


async def test_openmetrics_for_those_who_ask(gateway: RunningGateway) -> None:
    assert await generate(gateway) == 200
    headers = {**gateway.admin_auth, "Accept": "application/openmetrics-text; version=1.0.0"}
    async with gateway.http.get(f"{gateway.url}/metrics", headers=headers) as answer:
        assert answer.content_type == "application/openmetrics-text"
        families = {family.name for family in parse_openmetrics(await answer.text())}  # type: ignore[no-untyped-call]
    assert "parallama_requests" in families
    async with gateway.http.get(f"{gateway.url}/metrics", headers=gateway.admin_auth) as answer:
        assert answer.content_type == "text/plain"


@pytest.mark.parametrize("path", ["/nowhere", "/status/x", "/v2/models", "/favicon.ico", "/ollamas"])
async def test_unknown_paths_are_404_with_code_and_message(gateway: RunningGateway, path: str) -> None:
    status, found = await get(gateway, path)
    assert (status, found["error"]["code"]) == (404, "not_found")
    assert path in found["error"]["message"]


async def test_a_wrong_method_is_405_and_names_the_right_ones(gateway: RunningGateway) -> None:
    async with gateway.http.post(f"{gateway.url}/healthz") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_a_refusal_is_logged_with_the_id_of_its_request(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await gateway.http.get(f"{gateway.url}/api/tags")
    (line,) = [record for record in caplog.records if record.name == "parallama.auth"]
    assert line.__dict__["fields"]["request_id"] == answer.headers["x-request-id"]


async def test_a_header_may_be_longer_than_aiohttps_own_limit(gateway: RunningGateway) -> None:
    answer = await gateway.http.get(f"{gateway.url}/healthz", headers={"Cookie": "x" * 30_000})
    assert answer.status == 200
