"""`parallama role`: the roles, what each permits, and who has which until when. Works with the server up or down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from parallama.cli.context import (
    Context,
    confirm,
    echo_rows,
    list_json,
    on_database,
    settings_options,
    without_asking,
)
from parallama.cli.moments import later
from parallama.cli.words import words

if TYPE_CHECKING:
    from parallama.db.pool import Database
    from parallama.identity.assignments import AssignmentRecord, Assignments
    from parallama.identity.roles import Roles

_COLUMNS = ("name", "parent", "permissions", "inherited", "users", "description")
_HISTORY = ("role", "state", "main", "assigned_at", "assigned_by", "expires_at", "ended_at", "ended_by")
_PERMISSION = "Such as use_openai; may be repeated, and have commas."


def _roles(database: Database) -> Roles:
    from parallama.identity.actor import operator
    from parallama.identity.roles import Roles

    return Roles(database, operator())


def _assignments(database: Database) -> Assignments:
    from parallama.identity.actor import operator
    from parallama.identity.assignments import Assignments

    return Assignments(database, operator())


@click.group()
def role() -> None:
    """Roles, and who has them."""


@role.command("list")
@list_json
@settings_options
def list_roles(ctx: Context, as_json: bool) -> None:
    """List the roles: permissions of their own, and those inherited from the roles above."""
    found = on_database(ctx, lambda database: _roles(database).list())
    echo_rows([asdict(record) for record in found], _COLUMNS, as_json)


@role.command()
@click.argument("name")
@click.option("--permission", "permissions", multiple=True, help=_PERMISSION)
@click.option("--parent", metavar="ROLE", help="Whose permissions it has too.")
@click.option("--description", default="", help="What it is for.")
@settings_options
def create(ctx: Context, name: str, permissions: Sequence[str], parent: str | None, description: str) -> None:
    """Make a role."""
    made = on_database(
        ctx,
        lambda database: _roles(database).create(
            name, permissions=words(permissions), parent=parent, description=description
        ),
    )
    click.echo(f"created role {made.name}")


@role.command()
@click.argument("name")
@click.option("--add-permission", multiple=True, metavar="PERMISSION", help=_PERMISSION)
@click.option("--remove-permission", multiple=True, metavar="PERMISSION", help=_PERMISSION)
@click.option("--parent", metavar="ROLE", help="Whose permissions it has too.")
@click.option("--no-parent", is_flag=True, help="Only permissions of its own.")
@click.option("--rename", metavar="NAME", help="Who has it keeps it.")
@click.option("--description", help="What it is for.")
@settings_options
def update(
    ctx: Context,
    name: str,
    add_permission: Sequence[str],
    remove_permission: Sequence[str],
    parent: str | None,
    no_parent: bool,
    rename: str | None,
    description: str | None,
) -> None:
    """Change a role; what is not named stays. Bites at once for everybody who has it."""
    if parent is not None and no_parent:
        raise click.UsageError("give --parent or --no-parent, not both")
    named = {"name": rename, "parent": parent, "description": description}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if no_parent:
        changes["parent"] = None
    for key, given in (("add_permissions", add_permission), ("remove_permissions", remove_permission)):
        if given:
            changes[key] = words(given)
    if not changes:
        raise click.UsageError("nothing to change: see `parallama role update --help`")
    changed = on_database(ctx, lambda database: _roles(database).update(name, changes=changes))
    click.echo(f"changed role {changed.name}")


@role.command()
@click.argument("name")
@click.option("--cascade", is_flag=True, help="Take it from everybody who has it, and from the roles below it.")
@without_asking
@settings_options
def delete(ctx: Context, name: str, cascade: bool, yes: bool) -> None:
    """Delete a role that nobody has."""
    confirm(f"Delete role {name}{', and take it from everybody' if cascade else ''}?", yes)
    on_database(ctx, lambda database: _roles(database).delete(name, cascade=cascade))
    click.echo(f"deleted role {name}")


@role.command()
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
@click.option("--expires", metavar="WHEN", help="Such as 2026-12-31, 2026-12-31T18:00:00Z or 30d; without it, never.")
@settings_options
def assign(ctx: Context, name: str, role_name: str, expires: str | None) -> None:
    """Give the user NAME (name or id) a role beside those it has."""
    ends = later(expires, ctx.settings.timezone, datetime.now(UTC))
    made = on_database(ctx, lambda database: _assignments(database).assign(name, role_name, expires_at=ends))
    until = f" until {made.expires_at:%Y-%m-%d %H:%M:%S} UTC" if made.expires_at else ""
    click.echo(f"user {made.username} has role {made.role}{until}")


@role.command()
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
@settings_options
def remove(ctx: Context, name: str, role_name: str) -> None:
    """Take a role from the user NAME (name or id)."""
    on_database(ctx, lambda database: _assignments(database).remove(name, role_name))
    click.echo(f"user {name} no longer has role {role_name}")


@role.command()
@click.argument("name")
@list_json
@settings_options
def history(ctx: Context, name: str, as_json: bool) -> None:
    """List every role that the user NAME (name or id) has or had."""
    found = on_database(ctx, lambda database: _assignments(database).list(name, ended=True))
    echo_rows([_row(record) for record in found], _HISTORY, as_json)


def _row(record: AssignmentRecord) -> dict[str, Any]:
    return {**asdict(record), "state": record.state(datetime.now(UTC))}
