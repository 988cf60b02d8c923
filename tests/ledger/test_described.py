"""What a node tells of its models beside the requests: each is asked for once, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from asking import ask
from one_gateway import gateway, gateway_settings, in_one_loop, node, served
from running import RunningGateway, eventually

from parallama.app import POOL
from parallama.config import NodeSettings
from parallama.gateway.described import Model as Described
from parallama.gateway.described import described
from parallama.metrics import Metrics
from parallama.nodes.pool import Node
from parallama.testing import Answer, FakeOllama, Model, fake_ollama

__all__ = ["gateway", "gateway_settings", "node", "served"]

pytestmark = in_one_loop

WORDY = Model(name="wordy:latest", capabilities=("completion",), system="Be brief.", parameters={"num_predict": 50})
PLAIN = Model(name="plain:latest", capabilities=("completion", "vision"), context_length=8192)


@pytest_asyncio.fixture(loop_scope="module")
async def ollama() -> AsyncIterator[FakeOllama]:
    async with fake_ollama([WORDY, PLAIN]) as node:
        yield node


def watched(ollama: FakeOllama) -> Node:
    """It is looked at once when it runs, and then when a test says so."""
    return Node(NodeSettings(name="node-1", url=ollama.url, probe_s=3600), Metrics())


def asked(ollama: FakeOllama) -> list[str]:
    return [json.loads(seen.body)["model"] for seen in ollama.probes]


async def all_described(node: Node) -> None:
    await eventually(lambda: node.catalog.heard and not node.catalog.undescribed())


async def test_what_models_say_of_themselves_is_known_once_the_node_was_looked_at(ollama: FakeOllama) -> None:
    node = watched(ollama)
    async with node.running():
        await all_described(node)
    assert node.catalog.described("wordy") == described(WORDY.show())
    assert node.catalog.described("wordy").own_output == 50
    assert node.catalog.described("plain") == described(PLAIN.show())
    assert node.catalog.described("nosuch") == Described()


async def test_a_model_is_asked_for_once_whatever_its_names(ollama: FakeOllama) -> None:
    ollama.models.add(replace(WORDY, name="copy:latest"))
    node = watched(ollama)
    async with node.running():
        await all_described(node)
        assert len(ollama.probes) == 2
        await node.health.check()
        ollama.models.add(Model(name="later:latest", size=7))
        node.health.hurry()
        await eventually(lambda: "later:latest" in asked(ollama))
        await all_described(node)
    assert len(ollama.probes) == 3
    assert node.catalog.described("copy") == node.catalog.described("wordy")


async def test_a_model_that_has_changed_is_asked_for_anew(ollama: FakeOllama) -> None:
    node = watched(ollama)
    async with node.running():
        await all_described(node)
        changed = replace(WORDY, system="Be long. " * 50)
        ollama.models.add(changed)
        node.health.hurry()
        await eventually(lambda: node.catalog.described("wordy") == described(changed.show()))
    assert asked(ollama).count("wordy:latest") == 2


@pytest.mark.parametrize("answer", [Answer(status=500, error="no"), Answer(lines=[b"[]\n"]), Answer(lines=[b"{\n"])])
async def test_a_model_that_the_node_did_not_describe_is_asked_for_after_the_next_look(
    ollama: FakeOllama, answer: Answer
) -> None:
    ollama.cue(answer, probes=True)
    node = watched(ollama)
    async with node.running():
        await eventually(lambda: len(ollama.probes) == 2 and len(node.catalog.undescribed()) == 1)
        failed, other = asked(ollama)
        assert list(node.catalog.undescribed().values()) == [failed]
        # what the list of models says of it stands meanwhile
        assert node.catalog.described(failed).capabilities == node.catalog.capabilities(failed) != frozenset()
        node.health.hurry()
        await all_described(node)
    assert asked(ollama) == [failed, other, failed]


async def test_a_node_with_many_models_is_asked_for_one_after_the_other(ollama: FakeOllama) -> None:
    for number in range(200):
        ollama.models.add(Model(name=f"m{number}:latest", size=1000 + number))
    gate = asyncio.Event()
    ollama.cue(Answer(hold_head=gate), probes=True)
    node = watched(ollama)
    async with node.running():
        await eventually(lambda: ollama.probes)
        # a node that does not answer for a model is looked at all the same
        assert await node.health.check()
        assert await node.health.check()
        assert len(ollama.probes) == 1
        gate.set()
        await all_described(node)
    assert len(ollama.probes) == 202


async def test_nobody_waits_for_what_a_model_says_of_itself(gateway: RunningGateway, node: FakeOllama) -> None:
    known, gate = gateway.app[POOL], asyncio.Event()
    await all_described(known.nodes[0])
    before = len(node.probes)
    node.cue(Answer(hold_head=gate), times=None, probes=True)
    node.models.add(Model(name="fresh:latest", size=5))
    known.changed()
    await eventually(lambda: len(node.probes) > before)
    body = {"model": "fresh", "messages": [{"role": "user", "content": "Why?"}], "stream": False}
    assert (await ask(gateway, "/api/chat", body)).status == 200
    assert (await ask(gateway, "/api/show", {"model": "fresh"})).status == 200
    assert list(known.catalog.undescribed().values()) == ["fresh:latest"]
    gate.set()
    await all_described(known.nodes[0])


async def test_what_the_gateway_asks_of_models_is_told_from_what_clients_ask(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    await all_described(gateway.app[POOL].nodes[0])
    before = len(node.probes)
    node.cue(Answer(status=500, error="broken"))
    node.models.add(Model(name="newer:latest", size=6))
    gateway.app[POOL].changed()
    await eventually(lambda: len(node.probes) > before)
    assert (await ask(gateway, "/api/show", {"model": "newer"})).status == 500
    assert len(node.seen("/api/show")) == 1
    assert gateway.key not in str(node.probes[-1].headers)
