"""`parallama user`: create, list, show, change and delete users. Works with the server up or down."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

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
from parallama.cli.passwords import read_password

if TYPE_CHECKING:
    from parallama.client.operations import UserChanges
    from parallama.identity.users import UserRecord

COLUMNS = ("id", "username", "role", "admin", "active", "created_at")


@click.group()
def user() -> None:
    """Users."""


@user.command()
@click.argument("name")
@click.option("--role", default="basic", show_default=True, help="One of `role list`.")
@click.option("--admin", is_flag=True, help="May do everything, whatever the role.")
@click.option("--password", "with_password", is_flag=True, help="Asked twice on a terminal, else a line of stdin.")
@administration_options
def create(ctx: Context, name: str, role: str, admin: bool, with_password: bool) -> None:
    """Make a user. To call the gateways it needs a key (see `key generate`), or a password to log in with."""
    password = read_password() if with_password else None
    made = administer(ctx, lambda api: api.create_user(name, role=role, admin=admin, password=password))
    click.echo(f"created user {made.username} ({_standing(made)})")


@user.command("list")
@click.option("--role", help="Only users of this role.")
@list_json
@administration_options
def list_users(ctx: Context, role: str | None, as_json: bool) -> None:
    """List the users."""
    found = administer(ctx, lambda api: api.list_users(role=role))
    echo_rows([{column: getattr(record, column) for column in COLUMNS} for record in found], COLUMNS, as_json)


@user.command()
@click.argument("name")
@object_json
@administration_options
def info(ctx: Context, name: str, as_json: bool) -> None:
    """Show a user, given by name or id."""
    found = administer(ctx, lambda api: api.get_user(name))
    echo_record(asdict(found), as_json)


@user.command()
@click.argument("name")
@click.option("--role", help="One of `role list`.")
@click.option("--admin/--no-admin", default=None, help="May do everything, whatever the role.")
@click.option("--active/--inactive", default=None, help="An inactive user's keys and tokens do not work.")
@administration_options
def update(ctx: Context, name: str, role: str | None, admin: bool | None, active: bool | None) -> None:
    """Change a user, given by name or id; what is not named stays. Bites at once."""
    named = {"role": role, "admin": admin, "active": active}
    changes: UserChanges = {key: value for key, value in named.items() if value is not None}  # type: ignore[assignment]
    if not changes:
        raise click.UsageError("nothing to change: give --role, --admin/--no-admin or --active/--inactive")
    changed = administer(ctx, lambda api: api.update_user(name, **changes))
    click.echo(f"user {changed.username} is now {_standing(changed)}")


@user.command()
@click.argument("name")
@administration_options
def passwd(ctx: Context, name: str) -> None:
    """Set the password of a user, given by name or id: asked twice on a terminal, else a line of stdin.

    Every session of the user ends.
    """
    password = read_password()
    changed = administer(ctx, lambda api: api.update_user(name, password=password))
    click.echo(f"user {changed.username} has a new password")


@user.command()
@click.argument("name")
@without_asking
@administration_options
def delete(ctx: Context, name: str, yes: bool) -> None:
    """Delete a user, given by name or id, with all keys. What was used stays on record."""
    confirm(f"Delete user {name} with all keys?", yes)
    administer(ctx, lambda api: api.delete_user(name))
    click.echo(f"deleted user {name}")


def _standing(record: UserRecord) -> str:
    words = [
        f"role {record.role}" if record.role else "no role",
        "admin" if record.admin else "",
        "active" if record.active else "inactive",
    ]
    return ", ".join(filter(None, words))
