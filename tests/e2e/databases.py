"""A database that serves every test of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg


@asynccontextmanager
async def fresh_database(postgres: str) -> AsyncIterator[str]:
    """The DSN of a database with the whole schema, dropped after the block. `postgres`: the fixture of that name."""
    name = f"module_{uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE parallama")
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
