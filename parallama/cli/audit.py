"""`parallama audit`: the trail of changes, each with who made it and what was before and after. Only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import Context, echo_rows, list_json
from parallama.cli.moments import earlier

_COLUMNS = ("at", "actor", "via", "action", "name", "username", "changed")


@click.group()
def audit() -> None:
    """The audit trail: who changed what."""


@audit.command("list")
@click.option("--actor", metavar="NAME", help="Only changes that NAME made.")
@click.option("--action", help="Only such changes: user.create, or all of user.")
@click.option("--user", "username", metavar="NAME", help="Only changes of NAME, its keys, roles and sessions.")
@click.option("--since", metavar="WHEN", help="Such as 2026-12-31, 2026-12-31T18:00:00Z, or 12h: so long ago.")
@click.option("--until", metavar="WHEN", help="The same; changes before it.")
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), metavar="N", help="Only the newest so many.")
@list_json
@administration_options
def list_changes(
    ctx: Context,
    actor: str | None,
    action: str | None,
    username: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the changes, newest first. Secrets are masked."""
    zone, now = ctx.settings.timezone, datetime.now(UTC)
    begin, end = earlier(since, zone, now), earlier(until, zone, now)
    found = administer(
        ctx,
        lambda api: api.list_audit(actor=actor, action=action, username=username, since=begin, until=end, limit=limit),
    )
    rows = [asdict(record) for record in found]
    echo_rows(rows if as_json else [{**row, "changed": _changed(row)} for row in rows], _COLUMNS, as_json)


def _changed(row: Mapping[str, Any]) -> str | None:
    """Such as `active: true → false`; None for what was made or deleted whole."""
    before, after = row["before"], row["after"]
    if before is None or after is None:
        return None
    return ", ".join(f"{key}: {_text(before.get(key))} → {_text(value)}" for key, value in after.items())


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
