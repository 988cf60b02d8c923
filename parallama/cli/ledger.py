"""`parallama ledger`: whether the ledger keeps its promises, as numbers, and the end of a journal that is lost.

Works with the server up or down; what only a running server knows it is asked for over the control socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parallama.cli.context import (
    Context,
    confirm,
    echo_json,
    object_json,
    open_database,
    run,
    settings_options,
    without_asking,
)

if TYPE_CHECKING:
    from parallama.cli.forgotten import Left
    from parallama.cli.promises import Promise


@click.group()
def ledger() -> None:
    """The ledger: whether it keeps its promises, and the end of a journal that is lost."""


@ledger.command()
@object_json
@settings_options
def verify(ctx: Context, as_json: bool) -> None:
    """Show the five promises as numbers, from live data: 0 is kept. Exit code 1 when one is not.

    Waits up to 5 seconds for rows that are still being shipped. Changes nothing.
    """
    found = run(_promises(ctx))
    if as_json:
        echo_json({one.name: {"id": one.id, "number": one.number, "why": one.why} for one in found})
    else:
        click.echo("\n".join(line for one in found for line in _lines(one)))
    if any(one.number for one in found):
        raise click.exceptions.Exit(1)


async def _promises(ctx: Context) -> list[Promise]:
    from parallama.cli.promises import promises

    async with open_database(ctx) as database:
        return await promises(ctx, database)


def _lines(one: Promise) -> list[str]:
    return [f"{one.id} {one.name:<9} {one.number}", *(f"   {line}" for line in one.why)]


@ledger.command()
@click.argument("instance")
@without_asking
@settings_options
def forget(ctx: Context, instance: str, yes: bool) -> None:
    """Give up the journal of a process that is no more, and release what it has reserved.

    For a journal that is lost for good: from one that can be read, the next start takes over every row.
    """
    found = run(_look(ctx, instance))
    confirm(f"Forget {instance} ({found})?", yes)
    done = run(_forget(ctx, instance))
    rows = "its journal was not here" if done.rows is None else f"{done.rows} rows of its journal given up"
    click.echo(f"forgot {instance}: {rows}, {done.requests} requests released")


async def _look(ctx: Context, instance: str) -> Left:
    from parallama.cli.forgotten import look

    return await look(ctx, instance)


async def _forget(ctx: Context, instance: str) -> Left:
    from parallama.cli.forgotten import forget

    return await forget(ctx, instance)
