"""Gateways over HTTP: `/admin/v1/gateways`. What is set for each family, its switch, its options, and its figures.

What is set is recorded over the settings file; this server and every other follow within a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, Shape
from parallama.admin.gateways import GatewayRecord, GatewayRecords
from parallama.admin.guards import needs
from parallama.admin.standing import recorded
from parallama.admin.values import name_after, page_of
from parallama.db.pool import Database
from parallama.errors import ConfigError, Invalid, NotFound
from parallama.gateway.families import Families, Family
from parallama.gateway.options import rather
from parallama.traffic import WINDOW_S

_EVERY = f"{PREFIX}/gateways"
_ONE = f"{_EVERY}/{{gateway}}"

Figures = Callable[[str], Mapping[str, float | None]]
"""The figures of a family, as `control.figures` gives them."""


class GatewayChange(Shape):
    """What to set; what is not named stays as it is, null takes a value away. Options of the plugin stand beside."""

    model_config = ConfigDict(extra="allow")

    enabled: StrictBool | None = None
    """False: every path of the family answers 404."""
    default_model: str | None = None
    """Answers requests that name no model."""
    endpoints: dict[str, StrictBool | None] | None = None
    """Switches by endpoint; one that is off answers 404."""
    model_mappings: dict[str, Any] | None = None
    """Names of models that only this family has: `{alias: {model, num_ctx, keep_alive, parameters}}`."""


class GatewayState(BaseModel):
    """What is set for a gateway family."""

    model_config = ConfigDict(use_attribute_docstrings=True, defer_build=True)

    name: str
    enabled: bool
    mounts: list[str]
    """Where its paths begin."""
    default_model: str | None
    endpoints: dict[str, bool]
    """Every switch; those that are off answer 404."""
    model_mappings: dict[str, Any]
    """By alias."""
    options: dict[str, Any]
    """Of the plugin; secret ones are masked."""
    origins: dict[str, str] = Field(alias="from")
    """Who has set each value, by its dotted key: `recorded`, `settings` or `default`."""
    problem: str | None
    """Why what is recorded cannot be in force, so that the settings file alone is; null: it is."""
    version: int
    """Counts the changes of what is recorded."""


@dataclass(frozen=True, slots=True)
class GatewayFigures:
    """What this server has counted for a gateway family."""

    window_s: float
    """The seconds that rate and latency are of; counts are since the server's start."""
    figures: Mapping[str, float | None]


def gateway_operations(database: Database, families: Families, figures: Figures) -> list[Operation]:
    """List, read, change and reset what is set for the families, and tell their figures."""
    on, gateways = partial(Operation, tag="gateways", guard=needs("manage_models")), _Gateways(database, families)

    async def metrics(call: Call) -> GatewayFigures:
        return GatewayFigures(WINDOW_S, figures(gateways.family(call).name))

    return [
        on(name="list_gateways", method="GET", path=_EVERY, summary="Gateways, and what is set for them.",
           run=gateways.list, query=Paging, answer=Page[GatewayState]),
        on(name="get_gateway", method="GET", path=_ONE, summary="What is set for a gateway.",
           run=gateways.get, answer=GatewayState, errors=(NotFound,)),
        on(name="update_gateway", method="PATCH", path=_ONE, summary="Change what is set for a gateway.",
           run=gateways.update, body=GatewayChange, answer=GatewayState, versioned=True, errors=(NotFound,)),
        on(name="reset_gateway", method="DELETE", path=_ONE,
           summary="Forget what was recorded: the settings file alone is in force.",
           run=gateways.reset, versioned=True, errors=(NotFound,)),
        Operation(name="gateway_metrics", method="GET", path=f"{_ONE}/metrics", tag="gateways",
                  summary="The figures of a gateway in the server that answers.", guard=needs("view_metrics"),
                  run=metrics, answer=GatewayFigures, errors=(NotFound,)),
    ]  # fmt: skip


class _Gateways:
    def __init__(self, database: Database, families: Families) -> None:
        self._database, self._families = database, families

    def family(self, call: Call) -> Family:
        known = {family.name: family for family in self._families}
        name = call.path["gateway"]
        if name not in known:
            raise NotFound(f"there is no gateway {name!r}{rather(name, known)}")
        return known[name]

    def _records(self, call: Call) -> GatewayRecords:
        return GatewayRecords(self._database, call.actor)

    async def list(self, call: Call) -> Page[dict[str, Any]]:
        query: Paging = call.query
        begin, found = name_after(query.cursor) or "", await self._records(call).all()
        families = sorted((one for one in self._families if one.name > begin), key=lambda family: family.name)
        states = [_state(family, found[family.name]) for family in families[: query.limit + 1]]
        return page_of(states, query, lambda state: (state["name"],))

    async def get(self, call: Call) -> dict[str, Any]:
        family = self.family(call)
        return _state(family, (await self._records(call).all())[family.name])

    async def update(self, call: Call) -> dict[str, Any]:
        family, patch = self.family(call), call.body.model_dump(exclude_unset=True)
        record = await _valid(self._records(call).change(family, lambda _: patch, version=call.version))
        return _state(family, record)

    async def reset(self, call: Call) -> None:
        await _valid(self._records(call).forget(self.family(call), version=call.version))


async def _valid(change: Awaitable[GatewayRecord]) -> GatewayRecord:
    try:
        return await change
    except ConfigError as error:
        raise Invalid(str(error)) from None


def _state(family: Family, record: GatewayRecord) -> dict[str, Any]:
    return {**recorded(family, record.settings), "version": record.version}
