"""`parallama key`: make, show, limit, rotate and end API keys. Works with the server up or down.

A key's text is printed once, when it is made or rotated, and alone on stdout; nothing can print it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import (
    Context,
    confirm,
    echo_record,
    echo_rows,
    list_json,
    object_json,
    without_asking,
)
from parallama.cli.moments import MAX_DAYS, span
from parallama.cli.words import words_if_any

if TYPE_CHECKING:
    from parallama.client.admin import AsyncAdmin
    from parallama.client.operations import KeyChanges
    from parallama.identity.api_keys import KeyRecord

C = TypeVar("C", bound=Callable[..., object])
T = TypeVar("T")

COLUMNS = ("id", "hint", "description", "state", "created_at", "expires_at", "last_used_at")

_key_id = click.argument("key_id", metavar="ID", type=click.UUID)
_LIMITS = (
    ("--models", "Only models that match: names, or patterns such as llama3*. Empty: none."),
    ("--gateways", "Only these gateways, such as openai."),
    ("--networks", "Only from these addresses or ranges, such as 10.0.0.0/8."),
)


def _limits(command: C) -> C:
    """Options for what the key is limited to, each None unless it is given."""
    ceiling = click.Choice(["low", "normal", "high"])
    command = click.option("--priority-ceiling", type=ceiling, help="The highest that its requests may have.")(command)
    for flag, text in reversed(_LIMITS):
        option = click.option(
            flag, multiple=True, metavar="A,B", callback=lambda _ctx, _param, given: words_if_any(given), help=text
        )
        command = option(command)
    return command


def _expiry(text: str) -> Callable[[C], C]:
    return click.option("--expires-in", type=click.IntRange(1, MAX_DAYS), metavar="DAYS", help=text)


@click.group()
def key() -> None:
    """API keys."""


@key.command()
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@_expiry("Without it, never.")
@_limits
@administration_options
def generate(ctx: Context, name: str, description: str, expires_in: int | None, **limits: Any) -> None:
    """Make an API key for the user NAME (name or id). Only the key goes to stdout.

    Options that take a list may be repeated, and have commas.
    """
    if expires_in is not None:
        limits["expires_in_days"] = expires_in
    made = administer(ctx, lambda api: api.create_key(name, description=description, **limits))
    end = f"expires {_told(made.expires_at)}" if made.expires_at else "does not expire"
    click.echo(f"key {made.id} of user {made.username}, {end}. It is shown only this once:", err=True)
    click.echo(made.key)


key.add_command(generate, "create")


@key.command("list")
@click.option("--username", required=True, metavar="NAME", help="Whose keys: a name or id.")
@click.option("--show-expired", is_flag=True, help="Also keys that are expired or revoked.")
@list_json
@administration_options
def list_keys(ctx: Context, username: str, show_expired: bool, as_json: bool) -> None:
    """List a user's keys, oldest first."""
    found = administer(ctx, lambda api: api.list_keys(username, ended=show_expired))
    echo_rows([_row(record) for record in found], COLUMNS, as_json)


@key.command()
@_key_id
@object_json
@administration_options
def info(ctx: Context, key_id: UUID, as_json: bool) -> None:
    """Show a key, and what it is limited to."""
    echo_record(_row(administer(ctx, lambda api: api.find_key(key_id))), as_json)


@key.command()
@_key_id
@click.option("--grace", type=span, default="24h", show_default=True, metavar="SPAN", help="30s, 15m, 24h, 7d or 0.")
@administration_options
def rotate(ctx: Context, key_id: UUID, grace: timedelta) -> None:
    """Give a key a new secret, alone on stdout. The old one works on for the grace time, one from before it ends."""
    grace_s = int(grace.total_seconds())
    made = _of_its_owner(ctx, key_id, lambda api, owner: api.rotate_key(owner, key_id, grace_s=grace_s))
    end = f"works until {_told(made.previous_until)}" if grace and made.previous_until else "no longer works"
    click.echo(f"key {made.id} of user {made.username}: the old secret {end}. The new one:", err=True)
    click.echo(made.key)


@key.command()
@_key_id
@administration_options
def enable(ctx: Context, key_id: UUID) -> None:
    """Let a key that was disabled work again."""
    _change(ctx, key_id, {"enabled": True})
    click.echo(f"enabled key {key_id}")


@key.command()
@_key_id
@administration_options
def disable(ctx: Context, key_id: UUID) -> None:
    """Refuse a key until it is enabled again."""
    _change(ctx, key_id, {"enabled": False})
    click.echo(f"disabled key {key_id}")


@key.command()
@_key_id
@click.option("--description", help="What it is for.")
@_expiry("From now on.")
@_limits
@click.option(
    *("--no-limit", "lifted"),
    type=click.Choice(["expiry", "models", "gateways", "networks", "priority-ceiling"]),
    multiple=True,
    help="Take a limit away; may be repeated.",
)
@administration_options
def update(ctx: Context, key_id: UUID, expires_in: int | None, lifted: Sequence[str], **given: Any) -> None:
    """Change a key's description or limits; what is not named stays. Bites at once."""
    changes = {name: value for name, value in given.items() if value is not None}
    if expires_in is not None:
        changes["expires_at"] = _in_days(expires_in)
    for limit in lifted:
        name = {"expiry": "expires_at"}.get(limit, limit.replace("-", "_"))
        if name in changes:
            raise click.UsageError(f"give a value for {limit} or --no-limit {limit}, not both")
        changes[name] = None
    if not changes:
        raise click.UsageError("nothing to change: see `parallama key update --help`")
    _change(ctx, key_id, cast("KeyChanges", changes))
    click.echo(f"changed key {key_id}")


@key.command()
@_key_id
@without_asking
@administration_options
def revoke(ctx: Context, key_id: UUID, yes: bool) -> None:
    """End a key for good. It is refused at once; its record stays."""
    confirm(f"Revoke key {key_id}?", yes)
    _of_its_owner(ctx, key_id, lambda api, owner: api.revoke_key(owner, key_id))
    click.echo(f"revoked key {key_id}")


@key.command("revoke-all")
@click.argument("name")
@without_asking
@administration_options
def revoke_all(ctx: Context, name: str, yes: bool) -> None:
    """End every key of the user NAME (name or id)."""
    confirm(f"Revoke every key of user {name}?", yes)
    ended = administer(ctx, lambda api: api.revoke_keys(name))
    click.echo(f"revoked {ended.revoked} keys of user {name}")


@key.command()
@_key_id
@without_asking
@administration_options
def delete(ctx: Context, key_id: UUID, yes: bool) -> None:
    """Delete a key with its record. What was used with it stays on record."""
    confirm(f"Delete key {key_id}?", yes)
    _of_its_owner(ctx, key_id, lambda api, owner: api.delete_key(owner, key_id))
    click.echo(f"deleted key {key_id}")


def _change(ctx: Context, key_id: UUID, changes: KeyChanges) -> None:
    _of_its_owner(ctx, key_id, lambda api, owner: api.update_key(owner, key_id, **changes))


def _of_its_owner(ctx: Context, key_id: UUID, work: Callable[[AsyncAdmin, str], Awaitable[T]]) -> T:
    """What `work` gives, which is told the id of the key's user."""

    async def found(api: AsyncAdmin) -> T:
        return await work(api, str((await api.find_key(key_id)).user_id))

    return administer(ctx, found)


def _in_days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _row(record: KeyRecord) -> dict[str, Any]:
    return {**asdict(record), "state": record.state(datetime.now(UTC))}
