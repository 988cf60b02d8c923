"""The operations on usage: of all users, and of oneself. As `operations.py` has those on users, keys and roles.

`since` and `until` are days, of the server's time zone, or moments; both are included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypedDict, Unpack
from uuid import UUID

from parallama.admin.api import PREFIX
from parallama.client.uses import Use, at, every, one
from parallama.ledger.reports import ReportLine
from parallama.ledger.usage import UsageNow, UsageRow


class Used(TypedDict, total=False):
    """Which usage."""

    since: date | None
    until: date | None
    gateway: str | None
    model: str | None
    key: UUID | str | None
    node: str | None


class UsedBy(Used, total=False):
    """Which usage, and whose."""

    user: str | None


def get_usage(*, user: str | None = None, gateway: str | None = None) -> Use[UsageNow]:
    """Today and this hour of a user, or of all together."""
    return one(UsageNow, "GET", at(f"{PREFIX}/usage", {"user": user, "gateway": gateway}))


def get_my_usage() -> Use[UsageNow]:
    """Today and this hour of oneself, and what remains."""
    return one(UsageNow, "GET", "/me/usage")


def report_usage(
    group_by: Sequence[str], *, limit: int | None = None, **which: Unpack[UsedBy]
) -> Use[list[ReportLine]]:
    """Totals by one or more of `user`, `key`, `gateway`, `model`, `node`, `day` and `hour`."""
    return every(ReportLine, f"{PREFIX}/usage/report", {"group_by": ",".join(group_by), **_query(which)}, limit)


def report_my_usage(
    group_by: Sequence[str], *, limit: int | None = None, **which: Unpack[Used]
) -> Use[list[ReportLine]]:
    """The same of oneself."""
    return every(ReportLine, "/me/usage/report", {"group_by": ",".join(group_by), **_query(which)}, limit)


def export_usage(**which: Unpack[UsedBy]) -> Use[list[UsageRow]]:
    """Single requests, oldest first: all at once, so ask for few days."""
    return one(list[UsageRow], "GET", at(f"{PREFIX}/usage/export", _query(which)))


def export_my_usage(**which: Unpack[Used]) -> Use[list[UsageRow]]:
    """The same of oneself."""
    return one(list[UsageRow], "GET", at("/me/usage/export", _query(which)))


def _query(which: Mapping[str, Any]) -> dict[str, Any]:
    names = {"since": "from", "until": "to"}
    plain = {name: value.isoformat() if isinstance(value, date) else value for name, value in which.items()}
    return {names.get(name, name): value for name, value in plain.items()}
