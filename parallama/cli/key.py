"""`parallama key`: generate, list, show, revoke and delete API keys. Works with the server up or down.

A key's text is printed once, when it is made, and alone on stdout; nothing can print it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from parallama.cli.context import Context, echo_json, echo_rows, run, settings_options
from parallama.cli.user import open_accounts

if TYPE_CHECKING:
    from parallama.identity.accounts import KeyRecord

COLUMNS = ("id", "hint", "description", "state", "created_at", "expires_at", "last_used_at")
_MAX_DAYS = 36_500


@click.group()
def key() -> None:
    """API keys."""


@key.command()
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@click.option("--expires-in", type=click.IntRange(1, _MAX_DAYS), metavar="DAYS", help="Without it, never.")
@settings_options
def generate(ctx: Context, name: str, description: str, expires_in: int | None) -> None:
    """Make an API key for the user NAME (name or id). Only the key goes to stdout."""
    expires_at = None if expires_in is None else datetime.now(UTC) + timedelta(days=expires_in)

    async def work() -> tuple[str, KeyRecord]:
        async with open_accounts(ctx) as accounts:
            return await accounts.create_key(name, description, expires_at)

    text, record = run(work())
    end = f"expires {record.expires_at:%Y-%m-%d %H:%M} UTC" if record.expires_at else "does not expire"
    click.echo(f"key {record.id} of user {record.username}, {end}. It is shown only this once:", err=True)
    click.echo(text)


key.add_command(generate, "create")


@key.command("list")
@click.option("--username", required=True, metavar="NAME", help="Whose keys: a name or id.")
@click.option("--show-expired", is_flag=True, help="Also keys that are expired or revoked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@settings_options
def list_keys(ctx: Context, username: str, show_expired: bool, as_json: bool) -> None:
    """List a user's keys, oldest first."""

    async def work() -> list[KeyRecord]:
        async with open_accounts(ctx) as accounts:
            return await accounts.keys(username, ended=show_expired)

    echo_rows([_row(found) for found in run(work())], COLUMNS, as_json)


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@settings_options
def info(ctx: Context, key_id: UUID, as_json: bool) -> None:
    """Show a key."""

    async def work() -> KeyRecord:
        async with open_accounts(ctx) as accounts:
            return await accounts.key(key_id)

    found = _row(run(work()))
    if as_json:
        echo_json(found)
    else:
        echo_rows([found], ("username", *COLUMNS, "revoked_at"), False)


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def revoke(ctx: Context, key_id: UUID, yes: bool) -> None:
    """End a key for good. It is refused at once; its record stays."""
    _ask(f"Revoke key {key_id}?", yes)

    async def work() -> None:
        async with open_accounts(ctx) as accounts:
            await accounts.revoke(key_id)

    run(work())
    click.echo(f"revoked key {key_id}")


@key.command("revoke-all")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def revoke_all(ctx: Context, name: str, yes: bool) -> None:
    """End every key of the user NAME (name or id)."""
    _ask(f"Revoke every key of user {name}?", yes)

    async def work() -> int:
        async with open_accounts(ctx) as accounts:
            return await accounts.revoke_all(name)

    click.echo(f"revoked {run(work())} keys of user {name}")


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def delete(ctx: Context, key_id: UUID, yes: bool) -> None:
    """Delete a key with its record. What was used with it stays on record."""
    _ask(f"Delete key {key_id}?", yes)

    async def work() -> None:
        async with open_accounts(ctx) as accounts:
            await accounts.delete_key(key_id)

    run(work())
    click.echo(f"deleted key {key_id}")


def _ask(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


def _row(record: KeyRecord) -> Mapping[str, Any]:
    return {**asdict(record), "state": record.state(datetime.now(UTC))}
