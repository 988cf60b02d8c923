"""What travels with an aiohttp request to a gateway."""

from __future__ import annotations

from aiohttp import web

from parallama.exchange import Exchange

EXCHANGE = web.RequestKey("exchange", Exchange)
"""Of a gateway request; set by account."""
