"""`parallama role`: the roles, what each permits, and who has which until when. Works with the server up or down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import Context, confirm, echo_rows, list_json, without_asking
from parallama.cli.moments import later
from parallama.cli.words import words

if TYPE_CHECKING:
    from parallama.client.admin import AsyncAdmin
    from parallama.client.operations import RoleChanges
    from parallama.identity.assignments import AssignmentRecord

_COLUMNS = ("name", "parent", "permissions", "inherited", "users", "description")
_HISTORY = ("role", "state", "main", "assigned_at", "assigned_by", "expires_at", "ended_at", "ended_by")
_PERMISSION = "Such as use_openai; may be repeated, and have commas."


@click.group()
def role() -> None:
    """Roles, and who has them."""


@role.command("list")
@list_json
@administration_options
def list_roles(ctx: Context, as_json: bool) -> None:
    """List the roles: permissions of their own, and those inherited from the roles above."""
    found = administer(ctx, lambda api: api.list_roles())
    echo_rows([asdict(record) for record in found], _COLUMNS, as_json)


@role.command()
@click.argument("name")
@click.option("--permission", "permissions", multiple=True, help=_PERMISSION)
@click.option("--parent", metavar="ROLE", help="Whose permissions it has too.")
@click.option("--description", default="", help="What it is for.")
@administration_options
def create(ctx: Context, name: str, permissions: Sequence[str], parent: str | None, description: str) -> None:
    """Make a role."""
    made = administer(
        ctx,
        lambda api: api.create_role(name, permissions=words(permissions), parent=parent, description=description),
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
@administration_options
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
    named_changes = cast("RoleChanges", changes)
    changed = administer(ctx, lambda api: api.update_role(name, **named_changes))
    click.echo(f"changed role {changed.name}")


@role.command()
@click.argument("name")
@click.option("--cascade", is_flag=True, help="Take it from everybody who has it, and from the roles below it.")
@without_asking
@administration_options
def delete(ctx: Context, name: str, cascade: bool, yes: bool) -> None:
    """Delete a role that nobody has."""
    confirm(f"Delete role {name}{', and take it from everybody' if cascade else ''}?", yes)
    administer(ctx, lambda api: api.delete_role(name, cascade=cascade))
    click.echo(f"deleted role {name}")


@role.command()
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
@click.option("--expires", metavar="WHEN", help="Such as 2026-12-31, 2026-12-31T18:00:00Z or 30d; without it, never.")
@administration_options
def assign(ctx: Context, name: str, role_name: str, expires: str | None) -> None:
    """Give the user NAME (name or id) a role beside those it has."""
    ends = later(expires, ctx.settings.timezone, datetime.now(UTC))
    made = administer(ctx, lambda api: api.assign_role(name, role_name, expires_at=ends))
    until = f" until {made.expires_at:%Y-%m-%d %H:%M:%S} UTC" if made.expires_at else ""
    click.echo(f"user {made.username} has role {made.role}{until}")


@role.command()
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
@administration_options
def remove(ctx: Context, name: str, role_name: str) -> None:
    """Take a role from the user NAME (name or id)."""
    administer(ctx, lambda api: _take(api, name, role_name))
    click.echo(f"user {name} no longer has role {role_name}")


@role.command()
@click.argument("name")
@list_json
@administration_options
def history(ctx: Context, name: str, as_json: bool) -> None:
    """List every role that the user NAME (name or id) has or had."""
    found = administer(ctx, lambda api: api.list_assignments(name, ended=True))
    echo_rows([_row(record) for record in found], _HISTORY, as_json)


async def _take(api: AsyncAdmin, name: str, role_name: str) -> None:
    from parallama.errors import NotFound

    held = await api.list_assignments(name)
    which = next((one for one in held if one.role == role_name), None)
    if which is None:
        raise NotFound(f"{name} does not have the role {role_name!r}")
    await api.end_assignment(str(which.user_id), which.id)


def _row(record: AssignmentRecord) -> dict[str, Any]:
    return {**asdict(record), "state": record.state(datetime.now(UTC))}
