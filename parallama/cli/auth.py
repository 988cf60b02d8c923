"""`parallama auth`: ends what logins have given a user. API keys are not touched. Works with the server up or down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parallama.cli.context import Context, confirm, on_database, settings_options, without_asking

if TYPE_CHECKING:
    from parallama.db.pool import Database
    from parallama.identity.sessions import Sessions


def _sessions(ctx: Context, database: Database) -> Sessions:
    from parallama.identity.actor import operator
    from parallama.identity.sessions import Sessions

    return Sessions(database, operator(), ctx.settings.auth)


@click.group()
def auth() -> None:
    """Sessions of users: end them."""


@auth.command("rotate-tokens")
@click.argument("name")
@settings_options
def rotate_tokens(ctx: Context, name: str) -> None:
    """End the access tokens of the user NAME (name or id); refresh tokens stay good for new ones."""
    ended = on_database(ctx, lambda database: _sessions(ctx, database).rotate_tokens(name))
    click.echo(f"ended the access tokens of {ended} sessions of user {name}")


@auth.command("revoke-all")
@click.argument("name")
@without_asking
@settings_options
def revoke_all(ctx: Context, name: str, yes: bool) -> None:
    """End every session of the user NAME (name or id), access and refresh tokens; a new login is needed."""
    confirm(f"Revoke every session of user {name}?", yes)
    ended = on_database(ctx, lambda database: _sessions(ctx, database).revoke_all(name))
    click.echo(f"revoked {ended} sessions of user {name}")
