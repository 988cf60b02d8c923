"""What travels with an aiohttp request."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from aiohttp import web

from parallama.exchange import Exchange

EXCHANGE = web.RequestKey("exchange", Exchange)
"""Of a gateway request; set by account."""


class Ids(NamedTuple):
    """The names of a request."""

    id: UUID
    """Ours."""
    text: str
    """The same, as it is written."""
    client: str | None
    """The client's own, where it sent a usable one."""


IDS = web.RequestKey("ids", Ids)
"""Of every request; set by answer_edges."""
