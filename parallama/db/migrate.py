"""The schema: plain SQL files, forward only, each applied once and recorded with its checksum.

A database is used only by the program whose schema it has: `require_current` says what to do otherwise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

import asyncpg

from parallama.db.pool import Row, connect
from parallama.errors import ConfigError, Unavailable

_FILE = re.compile(r"(\d{4})_\w+\.sql")

_LOCK = 0x70617261
"""The advisory lock of all who migrate a database."""

_WAIT = "60s"

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the package `parallama.migrations`, such as `0001_foundation.sql`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of `schema_migrations`."""

    version: int
    name: str
    checksum: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The schema of a database beside the one of this program. Each list rises by version."""

    applied: tuple[Applied, ...]
    pending: tuple[str, ...]
    """Files of this program that the database has not."""
    unknown: tuple[str, ...]
    """What only the database has: a newer program migrated it."""
    changed: tuple[str, ...]
    """Applied files whose text is another one in this program."""

    @property
    def current(self) -> bool:
        """Whether this program and the database fit each other."""
        return not (self.pending or self.unknown or self.changed)


def migrations() -> list[Migration]:
    """Every migration of this program, in order."""
    files = resources.files("parallama.migrations").iterdir()
    found = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    return sorted(
        (Migration(int(match[1]), file.name, file.read_text("utf-8")) for match, file in found),
        key=lambda migration: migration.version,
    )


async def migrate(url: str, known: list[Migration] | None = None) -> list[str]:
    """Apply what is pending of `known` (default: all of this program), all or nothing; the names applied now.

    Of several processes at once one does it and the others wait. Raises ConfigError when the database is ahead of this
    program, when an applied file was changed, or when a file fails; Unavailable when the database does not answer.
    """
    known = migrations() if known is None else known
    async with _session(url) as one, one.transaction():
        await one.execute(f"SET LOCAL lock_timeout = '{_WAIT}'")
        await one.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await one.execute(_TABLE)
        status = _compare(known, await _applied(one))
        _refuse_foreign(status)
        for migration in known:
            if migration.name in status.pending:
                await _apply(one, migration)
        return list(status.pending)


async def schema_status(url: str, known: list[Migration] | None = None) -> SchemaStatus:
    """How the schema of the database compares to `known`; changes nothing. Raises Unavailable."""
    async with _session(url) as one:
        return _compare(migrations() if known is None else known, await _applied(one))


async def require_current(url: str, known: list[Migration] | None = None) -> None:
    """Raise ConfigError unless the database has exactly the schema of this program."""
    status = await schema_status(url, known)
    _refuse_foreign(status)
    if status.pending:
        first = "back it up, then run" if status.applied else "run"
        raise ConfigError(f"the database lacks {', '.join(status.pending)}: {first} `parallama db migrate`")


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[asyncpg.Connection[Row]]:
    connection = await connect(url)
    try:
        yield connection
    except (OSError, asyncpg.PostgresConnectionError) as error:
        raise Unavailable("the database went away") from error
    finally:
        connection.terminate()


async def _applied(one: asyncpg.Connection[Row]) -> list[Applied]:
    if await one.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return []
    rows = await one.fetch("SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version")
    return [Applied(*row) for row in rows]


async def _apply(one: asyncpg.Connection[Row], migration: Migration) -> None:
    try:
        await one.execute(migration.sql)
    except asyncpg.PostgresError as error:
        raise ConfigError(f"{migration.name} failed, nothing was changed: {error}") from error
    record = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
    await one.execute(record, migration.version, migration.name, migration.checksum)


def _compare(known: list[Migration], applied: list[Applied]) -> SchemaStatus:
    ours = {migration.version: migration for migration in known}
    theirs = {one.version for one in applied}
    return SchemaStatus(
        applied=tuple(applied),
        pending=tuple(migration.name for migration in known if migration.version not in theirs),
        unknown=tuple(one.name for one in applied if one.version not in ours),
        changed=tuple(
            one.name for one in applied if one.version in ours and one.checksum != ours[one.version].checksum
        ),
    )


def _refuse_foreign(status: SchemaStatus) -> None:
    if status.unknown:
        raise ConfigError(
            f"this program is older than the database, which has {', '.join(status.unknown)}: install the newer version"
        )
    if status.changed:
        raise ConfigError(
            f"{', '.join(status.changed)} is not the file that was applied to the database: "
            "install the version that has the unchanged file"
        )
