"""What travels with an aiohttp request."""

from __future__ import annotations

from aiohttp import web

from parallama.exchange import Exchange

EXCHANGE = web.RequestKey("exchange", Exchange)
"""Of a gateway request; set by account."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Ours, of every request; set by identify."""

CLIENT_REQUEST_ID = web.RequestKey("client_request_id", str)
"""The client's own, where it sent a usable one; set by identify."""
