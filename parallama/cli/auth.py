"""`parallama auth`: ends what logins have given a user. API keys are not touched. Works with the server up or down."""

from __future__ import annotations

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import Context, confirm, without_asking


@click.group()
def auth() -> None:
    """Sessions of users: end them."""


@auth.command("rotate-tokens")
@click.argument("name")
@administration_options
def rotate_tokens(ctx: Context, name: str) -> None:
    """End the access tokens of the user NAME (name or id); refresh tokens stay good for new ones."""
    ended = administer(ctx, lambda api: api.rotate_tokens(name))
    click.echo(f"ended the access tokens of {ended.rotated} sessions of user {name}")


@auth.command("revoke-all")
@click.argument("name")
@without_asking
@administration_options
def revoke_all(ctx: Context, name: str, yes: bool) -> None:
    """End every session of the user NAME (name or id), access and refresh tokens; a new login is needed."""
    confirm(f"Revoke every session of user {name}?", yes)
    ended = administer(ctx, lambda api: api.revoke_sessions(name))
    click.echo(f"revoked {ended.revoked} sessions of user {name}")
