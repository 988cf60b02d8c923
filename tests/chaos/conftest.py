"""Fixtures: dice that can be thrown again, servers, and gateways that may die or be lied to."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet
from processes import Place, place
from redis_server import RedisServer, redis_server

from parallama.db.pool import Database
from parallama.testing import FakeOllama

PROGRAM = (sys.executable, str(Path(__file__).with_name("doomed.py")))


@pytest.fixture
def dice() -> random.Random:
    """Thrown again by SEED; pytest shows which it was when the test fails."""
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def here() -> Iterator[Place]:
    """What its gateways have logged is shown when the test fails."""
    with place(program=PROGRAM) as found:
        yield found
        for number, running in enumerate(found.started):
            print(f"gateway {number}: {running.popen.poll()}\n{running.err[-2000:]}")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def fleet(here: Place, node: FakeOllama, database: Database) -> Fleet:
    """Each gateway counts for itself."""
    return Fleet(here, node, database)


@pytest.fixture
def together(here: Place, node: FakeOllama, database: Database, redis: RedisServer) -> Fleet:
    """All count in one Redis."""
    return Fleet(here, node, database, {"PARALLAMA__REDIS__URL": redis.url})
