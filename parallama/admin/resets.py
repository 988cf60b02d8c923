"""Counts of limits made nothing over HTTP: `POST /admin/v1/limits/reset`.

What was used stays in the rows and sums, and in every report; limits alone forget it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import ConfigDict

from parallama.admin.api import PREFIX, Call, Operation
from parallama.admin.limits import LimitsOfGateway, Pattern
from parallama.admin.users import GUARD
from parallama.db.pool import Database
from parallama.errors import NotFound
from parallama.identity.limits import Limits


class CountsToReset(LimitsOfGateway):
    """Whose counts, and for which of the limits."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [{"oneOf": [{"required": [name]} for name in ("user", "key", "role")]}]}
    )

    model: Pattern | None = None
    """Only for limits of this pattern; none: all."""


@dataclass(frozen=True, slots=True)
class CountsReset:
    """How many have counts that were reset."""

    reset: int
    """Users, or keys."""


def reset_operations(database: Database, shipped: Callable[[], Awaitable[object]]) -> list[Operation]:
    """The only one. `shipped`: until what has ended by now is in the database."""

    async def run(call: Call) -> CountsReset:
        body: CountsToReset = call.body
        await shipped()
        limits = Limits(database, call.actor)
        return CountsReset(await limits.reset_counts(body.subject(), gateway=body.gateway, model=body.model))

    return [
        Operation(name="reset_counts", method="POST", path=f"{PREFIX}/limits/reset", tag="limits", guard=GUARD,
                  summary="Let what was used count as nothing from now on.",
                  run=run, body=CountsToReset, answer=CountsReset, errors=(NotFound,)),
    ]  # fmt: skip
