"""`parallama db`: bring the schema of the database up to date, and show how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from parallama.cli.context import Context, database_url, echo_rows, require_database, run, settings_options

if TYPE_CHECKING:
    from parallama.db.migrate import SchemaStatus

_COLUMNS = ("name", "state", "applied_at")


@click.group()
def db() -> None:
    """The schema of the database."""


@db.command()
@settings_options
def migrate(ctx: Context) -> None:
    """Apply the migrations that the database lacks, all or none."""
    click.echo("\n".join(f"applied {name}" for name in run(_migrate(ctx))) or "up to date")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@settings_options
def status(ctx: Context, as_json: bool) -> None:
    """Show every migration: applied, pending, changed, or unknown to this program. Exit code 1 unless all fit."""
    found = run(_status(ctx))
    echo_rows(_rows(found), _COLUMNS, as_json)
    if not found.current:
        raise click.exceptions.Exit(1)


async def _migrate(ctx: Context) -> list[str]:
    from parallama.db.migrate import migrate as bring_up_to_date

    async with database_url(ctx) as url:
        return await bring_up_to_date(url)


async def _status(ctx: Context) -> SchemaStatus:
    from parallama.db.migrate import schema_status

    require_database(ctx)
    async with database_url(ctx) as url:
        return await schema_status(url)


def _rows(found: SchemaStatus) -> list[dict[str, Any]]:
    applied = [
        {"name": one.name, "state": _state(found, one.name), "applied_at": one.applied_at} for one in found.applied
    ]
    return applied + [{"name": name, "state": "pending", "applied_at": None} for name in found.pending]


def _state(found: SchemaStatus, name: str) -> str:
    return "unknown" if name in found.unknown else "changed" if name in found.changed else "applied"
