"""The audit trail over HTTP: `/admin/v1/audit`. It is read, and by nobody written."""

from __future__ import annotations

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, place_of
from parallama.admin.users import GUARD
from parallama.admin.values import Moment, Name, page_of
from parallama.db.pool import Database
from parallama.identity.audit import AuditRecord, AuditTrail


class ListAudit(Paging):
    """Which changes."""

    actor: Name | None = None
    """Only those that this user, or operator, has made."""
    action: Name | None = None
    """Only these, such as `user.change`; or all on one kind of record, such as `user`."""
    username: Name | None = None
    """Only what concerns this user."""
    target: Name | None = None
    """Only what has changed the record of this id."""
    since: Moment | None = None
    """Only from then on."""
    until: Moment | None = None
    """Only before then."""


def audit_operations(database: Database) -> list[Operation]:
    """List changes."""

    async def run(call: Call) -> Page[AuditRecord]:
        query: ListAudit = call.query
        place = place_of(query.cursor, int)
        filters = query.model_dump(exclude=set(Paging.model_fields))
        records = await AuditTrail(database).list(
            **filters, before=None if place is None else place[0], limit=query.limit + 1
        )
        return page_of(records, query, lambda record: (record.id,))

    return [
        Operation(
            name="list_audit",
            method="GET",
            path=f"{PREFIX}/audit",
            tag="audit",
            summary="Who changed what, the latest first.",
            guard=GUARD,
            run=run,
            query=ListAudit,
            answer=Page[AuditRecord],
        )
    ]
