"""Whether the time of a failed login tells that there is such a user: `python -m bench.login`.

200 tries each, in turn, with a wrong password of a user and with a name that nobody has, through Logins on a database
of its own; prints both medians and their ratio. More than 10 % apart, it exits with 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path

from parallama.config import AuthSettings, DatabaseSettings
from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.pool import Database
from parallama.errors import NotAuthenticated
from parallama.identity.logins import Logins
from parallama.identity.passwords import Passwords
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import Users

TRIES = 200
APART = 0.10


async def timed(logins: Logins, name: str, address: str) -> float:
    """Milliseconds that a refusal takes."""
    started = time.perf_counter()
    with suppress(NotAuthenticated):
        await logins.login(name, "not the password", address)
    return (time.perf_counter() - started) * 1000


async def medians(database: Database) -> tuple[float, float]:
    """Milliseconds, of a user and of nobody."""
    auth, tokens = AuthSettings(), AccessTokens(secrets.token_urlsafe(48), None, 1800)
    async with Passwords().running() as passwords:
        await Users(database).create("alice", password_hash=await passwords.hash("four llamas in a row"))
        # a clock on which nobody waits, as a minute lies between two tries
        minutes = count(step=60)
        logins = Logins(database, auth, passwords, tokens, monotonic=lambda: float(next(minutes)))
        times: dict[str, list[float]] = {"alice": [], "nobody": []}
        for number in range(TRIES):
            for name, taken in times.items():
                taken.append(await timed(logins, name, f"10.0.{number % 250}.1"))
    return statistics.median(times["alice"]), statistics.median(times["nobody"])


async def main() -> int:
    """0 when the medians are close."""
    async with AsyncExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp")))
        os.chmod(state, 0o711)  # noqa: S103 - PostgreSQL runs as another user
        url = await stack.enter_async_context(embedded(state))
        await migrate(url)
        database = await stack.enter_async_context(Database(url, DatabaseSettings()).running())
        known, unknown = await medians(database)
    print(f"known {known:.2f} ms, unknown {unknown:.2f} ms, ratio {unknown / known:.3f} (medians of {TRIES})")
    return int(abs(unknown / known - 1) > APART)


if __name__ == "__main__":
    logging.disable()
    sys.exit(asyncio.run(main()))
