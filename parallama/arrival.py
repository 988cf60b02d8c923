"""What is known of a request as it arrives: its ids, where its client is, and whether that waits to send the body.

Set for every request by the server and the outermost middleware; read by the gateways' middlewares and the admin pages.
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
AWAITS_CONTINUE = web.RequestKey("awaits_continue", bool)
"""Whether the client has said that it sends the body only after a 100 Continue (RFC 9110 section 10.1.1)."""


def awaits_continue(request: web.BaseRequest) -> bool:
    """Whether the client waits to be asked for the body, which is not here yet."""
    return request.get(AWAITS_CONTINUE, False) and not request.content.is_eof()


async def ask_for_body(request: web.BaseRequest) -> None:
    """Send 100 Continue to a client that waits for it. Raises ConnectionError when the client has left."""
    if awaits_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer is no part of the final one


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
