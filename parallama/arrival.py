"""What is known of a request as it arrives: its ids, and where its client is.

Set for every request by the outermost middleware; read by the gateways' middlewares and the admin pages.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from aiohttp import web

from parallama.networks import Networks, is_address, within


class Arrival(NamedTuple):
    """A request as it arrives."""

    id: UUID
    """Ours."""
    text: str
    """The same, as it is written."""
    client_id: str | None
    """The client's own, where it sent a usable one."""
    address: str | None
    """The client's, as its connection or a trusted proxy tells; None: unknown."""
    secure: bool
    """Whether a trusted proxy says that the client came by HTTPS."""


ARRIVAL = web.RequestKey("arrival", Arrival)
"""Of every request."""


def client_of(request: web.BaseRequest, trusted: Networks) -> tuple[str | None, bool]:
    """The client's address, and whether it came by HTTPS.

    X-Forwarded-For is read from the right, as far as the proxies are `trusted`: what stands further left anybody can
    have written. X-Forwarded-Proto counts from a trusted peer.
    """
    peer = request.remote
    if not trusted or not within(peer, trusted):
        return peer, False
    hops = [hop.strip() for line in request.headers.getall("X-Forwarded-For", []) for hop in line.split(",")]
    address = peer
    while hops and within(address, trusted) and is_address(hops[-1]):
        address = hops.pop()
    return address, request.headers.get("X-Forwarded-Proto", "").strip().lower() == "https"
