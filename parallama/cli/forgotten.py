"""The end of a process that is no more and whose journal nobody will read: its rows are given up, and what it has
reserved is released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parallama.cli.context import Context
from parallama.cli.promises import redis_store
from parallama.errors import Conflict, NotFound
from parallama.ledger import left


@dataclass(frozen=True, slots=True)
class Left:
    """What there is of a process."""

    rows: int | None
    """In its journal, that are not known to be in the database; None: its journal is not here."""
    requests: int
    """That hold limits in Redis."""

    def __str__(self) -> str:
        rows = "its journal is not here" if self.rows is None else f"up to {self.rows} rows in its journal are lost"
        return f"{rows}, {self.requests} requests hold limits"


async def look(ctx: Context, instance: str) -> Left:
    """What is left of the process. Raises NotFound when there is nothing, Conflict while it runs, Unavailable when
    Redis does not answer."""
    holding = await _holding(ctx)
    home = _home(ctx, instance)
    if home is None and instance not in holding:
        raise NotFound(
            f"nothing is left of a process {instance}: it may run, or never have been. {_known(ctx, holding)}"
        )
    if home is not None and left.is_alive(home):
        raise Conflict(f"the process {instance} runs")
    return Left(None if home is None else _rows(home), holding.get(instance, 0))


async def forget(ctx: Context, instance: str) -> Left:
    """Release what it has reserved, and delete its journal; what that was. Raises as `look` does."""
    found = await look(ctx, instance)
    released = await _released(ctx, instance)
    if (home := _home(ctx, instance)) is not None:
        with left.locked(home) as ours:
            if not ours:
                raise Conflict(f"the journal of {instance} is being taken over: its rows are not lost")
            left.remove(home)
    return Left(found.rows, released)


def _home(ctx: Context, instance: str) -> Path | None:
    return next((home for home in left.homes(ctx.state / "journal") if home.name == instance), None)


def _known(ctx: Context, holding: Mapping[str, int]) -> str:
    dead = {home.name for home in left.homes(ctx.state / "journal") if not left.is_alive(home)}
    return f"There are: {', '.join(sorted(dead | holding.keys())) or 'none'}"


def _rows(home: Path) -> int:
    return sum(1 for _ in left.rows(home, lambda _damaged: None))


async def _holding(ctx: Context) -> Mapping[str, int]:
    async with redis_store(ctx) as store:
        return {} if store is None else await store.left()


async def _released(ctx: Context, instance: str) -> int:
    async with redis_store(ctx) as store:
        if store is None:
            return 0
        try:
            return await store.abandon(instance)
        except ValueError:
            raise Conflict(f"the process {instance} runs, or did 30 seconds ago") from None
