"""`parallama user`: create, list, show, change and delete users. Works with the server up or down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from parallama.cli.context import Context, echo_json, echo_rows, open_database, run, settings_options

if TYPE_CHECKING:
    from parallama.identity.accounts import Accounts, UserRecord

COLUMNS = ("id", "username", "role", "admin", "active", "created_at")


@asynccontextmanager
async def open_accounts(ctx: Context) -> AsyncIterator[Accounts]:
    """The records of users and keys, for the block; an AccountError ends the command with its message."""
    from parallama.identity.accounts import AccountError, Accounts

    async with open_database(ctx) as database:
        try:
            yield Accounts(database)
        except AccountError as error:
            raise click.ClickException(str(error)) from error


@click.group()
def user() -> None:
    """Users."""


@user.command()
@click.argument("name")
@click.option("--role", default="basic", show_default=True, help="admin, premium or basic.")
@click.option("--admin", is_flag=True, help="May do everything, whatever the role.")
@settings_options
def create(ctx: Context, name: str, role: str, admin: bool) -> None:
    """Make a user. A user needs a key to call the gateways: see `key generate`."""

    async def work() -> UserRecord:
        async with open_accounts(ctx) as accounts:
            return await accounts.create_user(name, role, admin)

    made = run(work())
    click.echo(f"created user {made.username} ({_standing(made)})")


@user.command("list")
@click.option("--role", help="Only users of this role.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@settings_options
def list_users(ctx: Context, role: str | None, as_json: bool) -> None:
    """List the users."""

    async def work() -> list[UserRecord]:
        async with open_accounts(ctx) as accounts:
            return await accounts.users(role)

    echo_rows([asdict(found) for found in run(work())], COLUMNS, as_json)


@user.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@settings_options
def info(ctx: Context, name: str, as_json: bool) -> None:
    """Show a user, given by name or id."""

    async def work() -> UserRecord:
        async with open_accounts(ctx) as accounts:
            return await accounts.user(name)

    found = asdict(run(work()))
    if as_json:
        echo_json(found)
    else:
        echo_rows([found], COLUMNS, False)


@user.command()
@click.argument("name")
@click.option("--role", help="admin, premium or basic.")
@click.option("--admin/--no-admin", default=None, help="May do everything, whatever the role.")
@click.option("--active/--inactive", default=None, help="An inactive user's keys do not work.")
@settings_options
def update(ctx: Context, name: str, role: str | None, admin: bool | None, active: bool | None) -> None:
    """Change a user, given by name or id; what is not named stays."""
    if role is None and admin is None and active is None:
        raise click.UsageError("nothing to change: give --role, --admin/--no-admin or --active/--inactive")

    async def work() -> UserRecord:
        async with open_accounts(ctx) as accounts:
            return await accounts.update_user(name, role=role, admin=admin, active=active)

    changed = run(work())
    click.echo(f"user {changed.username} is now {_standing(changed)}")


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def delete(ctx: Context, name: str, yes: bool) -> None:
    """Delete a user, given by name or id, with all keys. What was used stays on record."""
    if not yes:
        click.confirm(f"Delete user {name} with all keys?", abort=True, err=True)

    async def work() -> None:
        async with open_accounts(ctx) as accounts:
            await accounts.delete_user(name)

    run(work())
    click.echo(f"deleted user {name}")


def _standing(record: UserRecord) -> str:
    words = [
        f"role {record.role}",
        "admin" if record.admin else "",
        "active" if record.active else "inactive",
    ]
    return ", ".join(filter(None, words))
