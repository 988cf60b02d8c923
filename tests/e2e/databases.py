"""A fresh database, for a test or for a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg


@asynccontextmanager
async def fresh_database(postgres: str, template: str = "in_use") -> AsyncIterator[str]:
    """The DSN of a copy of the template, dropped after the block. `postgres`: the fixture of that name."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        # by files: the default writes every page to the log first
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield named(postgres, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


def named(url: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()
