"""Journals for tests: one that lives, with or without a shipper, and what a killed process has left of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from usage_rows import second_of

from parallama.config import UsageSettings
from parallama.db.pool import Database
from parallama.exchange import UsageRecord
from parallama.ledger import entries
from parallama.ledger.entries import Reached, Reader, Sent
from parallama.ledger.frames import framed, unframed
from parallama.ledger.home import LOCK
from parallama.ledger.journal import Journal
from parallama.ledger.segments import SUFFIX
from parallama.ledger.shipper import Shipper

FAST = UsageSettings(flush_ms=10, sync_ms=10)


@asynccontextmanager
async def journal_in(directory: Path, **settings: Any) -> AsyncIterator[Journal]:
    """A journal of this process."""
    chosen = UsageSettings(**{"flush_ms": 10, "sync_ms": 10, **settings})
    async with Journal(directory, uuid4().hex, chosen).running() as journal:
        yield journal


@asynccontextmanager
async def shipping(
    database: Database, directory: Path, zone: str = "UTC", stop_s: float = 10.0, **settings: Any
) -> AsyncIterator[tuple[Journal, Shipper]]:
    """A journal of this process, and its way to the database."""
    async with journal_in(directory, **settings) as journal:
        chosen = FAST.model_copy(update=settings)
        async with Shipper(database, journal, chosen, zone, stop_s=stop_s).running() as shipper:
            yield journal, shipper


def reached(row: UsageRecord, tokens: int | None = None, prompt_tokens: int | None = None) -> Reached:
    """How far the exchange of a row has come."""
    return Reached(row.id, tokens, 100, 20.5, 1000.5, prompt_tokens)


def admitted(row: UsageRecord) -> UsageRecord:
    """The row as it stands when its exchange begins."""
    nothing: dict[str, Any] = {"model": None, "node": None, "prompt_tokens": None, "output_tokens": None}
    return row._replace(**nothing, ttft_ms=None, status=500, outcome="failed", response_bytes=0)


@dataclass
class Asking:
    """An exchange under way, as a journal asks for it."""

    now: UsageRecord
    tokens: int | None = None

    def row(self) -> UsageRecord:
        return self.now

    def sent(self) -> Sent:
        row = self.now
        return Sent(row.id, row.node, row.model, row.charged_at, row.prompt_tokens)

    def reached(self) -> Reached:
        return reached(self.now, self.tokens)

    def choose(self, node: str = "node-1", model: str | None = "llama3.2") -> None:
        """It has a node to go to."""
        self.now = self.now._replace(node=node, model=model)


def admit(journal: Journal, row: UsageRecord, tokens: int | None = None) -> Asking:
    """The exchange of a row begins."""
    asking = Asking(admitted(row), tokens)
    journal.admit(row.id, asking)
    return asking


def dispatched(
    id: UUID, node: str, model: str | None, charged_at: datetime | float | None = None, prompt_tokens: int | None = None
) -> bytes:
    """The entry of an exchange that goes to this node."""
    return entries.dispatch(Sent(id, node, model, second_of(charged_at), prompt_tokens))


def segment(*said: bytes) -> bytes:
    """The bytes of a segment with these entries."""
    return b"".join(framed(entry) for entry in (entries.columns(), *said))


def left_behind(directory: Path, *segments: bytes, name: str = "0-left") -> Path:
    """The journal of a process that was killed."""
    home = directory / name
    home.mkdir(parents=True)
    (home / LOCK).touch()
    for number, data in enumerate(segments, 1):
        (home / f"{number:08}{SUFFIX}").write_bytes(data)
    return home


def said(home: Path) -> list[bytes]:
    """The entries of a journal, those that name columns apart."""
    data = b"".join(path.read_bytes() for path in sorted(home.glob(f"*{SUFFIX}")))
    return [entry for entry, _ in unframed(data) if entry[:1] != entries.COLUMNS]


def rows_in(home: Path) -> list[UsageRecord]:
    """What becomes of a journal: its rows, then those of the exchanges that it leaves open."""
    return read(said(home))


def read(of: Iterable[bytes]) -> list[UsageRecord]:
    """The rows of these entries, then those of the exchanges that they leave open."""
    reader = Reader()
    found: Sequence[UsageRecord | None] = [reader.read(entry) for entry in of]
    return [row for row in found if row is not None] + list(reader.aborted())
