"""What aiohttp is told of an answer whose head is a node's or a codec's: nothing is added that they did not say.

`Answer` makes and writes it.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.hdrs import CONTENT_LENGTH, CONTENT_TYPE, DATE


class NodeResponse(web.StreamResponse):
    """An answer of a gateway."""

    _send_headers_immediately = False  # as in web.Response: with the first bytes of the body, in one write

    async def _prepare_headers(self) -> None:
        """Where the head says all that aiohttp would add, spare it the questions."""
        request, writer, headers = self._req, self._payload_writer, self._headers
        assert request is not None
        assert writer is not None
        said = CONTENT_LENGTH in headers and CONTENT_TYPE in headers and DATE in headers
        if self._must_be_empty_body or not said or not request.keep_alive or request.version != HttpVersion11:
            await super()._prepare_headers()
        else:
            self._keep_alive = True
            writer.length = int(headers[CONTENT_LENGTH])
