"""Gateways that share a database, and perhaps a Redis, and the people who ask them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from ledger.gateways import Load, ask, connected
from processes import CEILING_S, Place, Running
from raw_http import Got, RawClient
from running import eventually

from parallama.db.pool import Database
from parallama.identity.api_keys import ApiKeys
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.testing import FakeOllama

_PAUSE_S = 0.01
"""Before a client that was refused asks again."""
_TURNS = 50
"""Questions of one connection."""
LOTS = 10**9


@dataclass
class Crowd(Load):
    """As Load; takes no for an answer and goes on until it is told to stop, or the gateway is gone."""

    name: str = ""
    requests: int = 0
    """That they may make in the period."""

    @property
    def answers(self) -> int:
        return len(self.told) + len(self.refused)

    def more(self, answers: int) -> Callable[[], bool]:
        """To `run` with: until so many more have a whole answer."""
        enough = len(self.told) + answers
        return lambda: len(self.told) < enough

    async def once(self, running: Running) -> Got | None:
        """The answer to one more question, asked again while nobody can count; None: the gateway is gone."""
        while alive(running):
            with suppress(OSError, asyncio.IncompleteReadError):
                async with connected(running) as client:
                    if (got := await self._one(client)).status != 503:
                        return got
        return None

    async def counted(self, running: Running) -> int | None:
        """How many requests the gateway takes for used when it is asked once more; None: it is gone."""
        got = await self.once(running)
        return None if got is None else self.requests - _left(got)

    async def use_up(self, running: Running) -> None:
        """Ask until there is no room in the limit, also when nobody else is under way."""
        before = set(self.refused)
        await self.run(running, 4, lambda: all(self.refused[one] != 429 for one in self.refused.keys() - before))
        while (got := await self.once(running)) is None or got.status != 429:
            assert got is not None, running.err

    async def _ask(self, running: Running, go_on: Callable[[], bool]) -> None:
        while alive(running) and go_on():
            with suppress(OSError, asyncio.IncompleteReadError):
                async with connected(running) as client:
                    for _ in range(_TURNS):
                        await self._one(client)
                        if not go_on():
                            return

    async def _one(self, client: RawClient) -> Got:
        number = next(self.numbers)
        got = await ask(client, self.key, number)
        self._heard(number, got)
        if got.status != 200:
            await asyncio.sleep(_PAUSE_S)
        return got

    def _heard(self, number: int, got: Got) -> None:
        assert got.status in (200, 429, 503), got
        assert got.status == 200 or any(name.lower() == "retry-after" for name, _ in got.headers), got.head
        super()._heard(number, got)


def _left(got: Got) -> int:
    """How many requests more the answer says may be made."""
    (said,) = [value for name, value in got.headers if name.lower() == "ratelimit"]
    (requests,) = re.findall(r'"requests-[a-z]+";r=(\d+)', said)
    return int(requests)


def noon() -> str:
    """A time zone in which midnight is far away."""
    away = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-away:+d}" if away else "UTC"


@dataclass
class Fleet:
    """Each gateway has a state directory of its own, by number, where the next of that number goes on."""

    here: Place
    node: FakeOllama
    database: Database
    env: Mapping[str, str] = field(default_factory=dict)
    """Of all gateways."""
    numbers: Iterator[int] = field(default_factory=count)
    """Of all questions."""
    zone: str = field(default_factory=noon)
    """Whose days and hours count."""

    async def user(self, name: str, requests: int, tokens: int = LOTS, *, period: str = "day", **terms: Any) -> Crowd:
        """Somebody who has so many requests and tokens in a period; `terms` as Limits.create takes them."""
        await Users(self.database).create(name, admin=True)
        for meter, amount in (("requests", requests), ("total_tokens", tokens)):
            await Limits(self.database).create(Subject(user=name), meter, period, amount=amount, **terms)
        key, _ = await ApiKeys(self.database).create(name)
        return Crowd(key, numbers=self.numbers, name=name, requests=requests)

    def launch(self, number: int = 0, **env: str) -> Running:
        """A gateway that may die at any moment."""
        return self.here.start("serve", "--port", "0", data=self.state(number), **self._settings(), **env)

    async def verified(self, number: int = 0) -> Mapping[str, Any]:
        """What `parallama ledger verify` says of the gateway."""
        env = {**self._settings(), "PARALLAMA_DATA_DIR": str(self.state(number))}

        async def said() -> Mapping[str, Any] | None:
            done = await asyncio.to_thread(lambda: self.here.run("ledger", "verify", "--json", **env))
            assert done.stdout or "cannot compare its counts now" in done.stderr, done.stderr  # Redis was late
            return json.loads(done.stdout) if done.stdout else None

        found: Mapping[str, Any] = await eventually(said)
        return found

    def _settings(self) -> Mapping[str, str]:
        usual = {
            "PARALLAMA_DB_URL": self.database.url,
            "PARALLAMA__NODES__0__NAME": "node-1",
            "PARALLAMA__NODES__0__URL": self.node.url,
            "PARALLAMA__TIMEZONE": self.zone,
            "PARALLAMA__USAGE__FLUSH_MS": "20",
            "PARALLAMA__LOGS__LEVEL": "warning",
        }
        return {**usual, **self.env}

    async def start(self, number: int = 0, **env: str) -> Running:
        """A gateway that takes work."""
        return await asyncio.to_thread(self.launch(number, **env).ready)

    def state(self, number: int) -> Path:
        return self.here.root / f"data-{number}"

    def journals(self, number: int = 0) -> Sequence[Path]:
        """Those below a state directory."""
        return [path for path in (self.state(number) / "journal").iterdir() if not path.name.startswith(".")]

    async def taken_over(self, number: int = 0) -> None:
        """Until there is no journal but that of the gateway that runs."""
        await eventually(lambda: len(self.journals(number)) == 1)


def alive(running: Running) -> bool:
    return running.popen.poll() is None


async def dead(running: Running) -> None:
    """Until it has killed itself, or was killed."""
    assert await asyncio.to_thread(running.popen.wait, CEILING_S) == -signal.SIGKILL, running.err
