"""What is said between the node and the client of one exchange, once the request is understood and allowed.

It prepares and writes every gateway answer itself. Errors before the head has gone out are raised, for the dialect to
render; later ones are told in-stream, or by closing the connection short.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import AsyncIterable, Awaitable, Mapping
from functools import partial
from urllib.parse import quote

import orjson
from aiohttp import web

from parallama.errors import BUSY_RETRY_S, ApiError, ModelUnknown, TimedOut, Unavailable, UpstreamFailed
from parallama.exchange import Exchange, Outcome
from parallama.gateway.api import Codec, Gateway, Head, Outbound
from parallama.metrics import Metrics
from parallama.nodes.answer import NodeAnswer
from parallama.nodes.pool import Lease, Pool
from parallama.proxy.answer import Answer
from parallama.proxy.body import InboundBody
from parallama.proxy.books import Booking
from parallama.proxy.headers import for_node, sound
from parallama.proxy.heartbeats import Heartbeats, Waiting
from parallama.proxy.keys import EXCHANGE

_log = logging.getLogger("parallama.gateway")

_VISIBLE = string.ascii_letters + string.digits + string.punctuation.replace("%", "")
_PLAIN = re.compile("[!-$&-~]{1,256}").fullmatch

SIMULATED = "x-parallama-simulated"
"""The simulator's mark on its answers; kept in every dialect."""
_CONTEXT, _CONTEXT_FULL = "x-parallama-context", "x-parallama-context-full"


class Conversation:
    """One exchange with the nodes of `pool`; `hold` it once."""

    def __init__(
        self,
        request: web.Request,
        gateway: Gateway,
        codec: Codec,
        answer: Answer,
        stream: InboundBody | None,
        forward: tuple[str, ...],
    ) -> None:
        """`stream`: the client's body, for a route that pipes it; `forward`: the client's headers that a node gets."""
        self._request, self._gateway, self._codec, self._answer = request, gateway, codec, answer
        self._stream, self._forward = stream, forward
        self._exchange = request[EXCHANGE]
        self._last = b""
        """Of a stream: the last line, where it has to wait."""

    async def hold(self, pool: Pool, heartbeats: Heartbeats, metrics: Metrics, booking: Booking) -> None:
        """Raises ApiError only while the answer can still become an error."""
        exchange, answer = self._exchange, self._answer
        try:
            await self._converse(pool, heartbeats, booking)
        except ApiError as error:
            if isinstance(error, UpstreamFailed | TimedOut) and exchange.node:
                metrics.node_errors.labels(exchange.node, error.code).inc()
                _log.warning("node failed", extra={"fields": _fields(exchange, error)})
                pool.changed()
            if not answer.committed:
                raise
            await self._fail(error, booking)
        except (Exception, SystemExit):
            if answer.committed:  # a bug, of a plugin perhaps: no second head may follow the first
                answer.abort()
            raise
        finally:
            answer.close()

    async def _converse(self, pool: Pool, heartbeats: Heartbeats, booking: Booking) -> None:
        """Ask the node, pipe its answer; the exchange's status and outcome are set when all of it is out."""
        exchange, codec, answer = self._exchange, self._codec, self._answer
        head = codec.reply
        last = b""
        if codec.outbounds:
            async with pool.lease() as lease:
                exchange.node = lease.node.name
                for outbound in codec.outbounds:
                    if last:
                        await answer.write(last)
                    exchange.model = outbound.target or exchange.model_asked
                    head = await self._ask(lease, outbound, heartbeats, booking)
                    last = self._last + codec.finish()
        else:
            answer.begin(head, self._extra(head), streams=False)
            last = codec.finish()
        _conclude(exchange, codec, head)
        if codec.context_full is not None:
            answer.put(_context(codec))
        self._close(booking, len(last))
        if booking.strict:
            await booking.secure()
        if last:
            await answer.write(last)
        await answer.end()

    async def _ask(self, lease: Lease, outbound: Outbound, heartbeats: Heartbeats, booking: Booking) -> Head:
        codec = self._codec
        headers = for_node(self._request.headers, self._forward)
        content, waits = _content(outbound, self._stream, headers)
        send, asking = lease.node.upstream.send, booking.dispatch
        sent = send(outbound.method, outbound.path, headers, content, await_continue=waits, asking=asking)
        if not (codec.heartbeat and codec.streams):
            return await self._pass_on(outbound, sent, None, booking)
        with heartbeats.during(self._beat) as beats:
            return await self._pass_on(outbound, sent, beats, booking)

    async def _pass_on(
        self, outbound: Outbound, sent: Awaitable[NodeAnswer], beats: Waiting | None, booking: Booking
    ) -> Head:
        """The node's answer to the client: a document as fast as the client takes it, a stream as fast as the node
        sends."""
        codec, answer = self._codec, self._answer
        with await sent as reply:
            if reply.head.status == 404 and outbound.target:  # by a name that the client has never seen
                raise ModelUnknown(f"model '{outbound.model}' not found")
            head = codec.begin(reply.head)
            if not answer.committed:
                answer.begin(head, self._extra(reply.head), streams=codec.streams)
            feed = codec.feed
            if codec.streams and outbound is codec.outbounds[-1]:
                feed = partial(self._feed, head, booking)
            while not answer.flowing and (chunk := await reply.some()):
                await answer.write(feed(chunk))
            if answer.flowing:
                if beats is not None:
                    beats.over()
                await reply.pipe(lambda piece: answer.push(feed(piece)))
        return head

    def _feed(self, head: Head, booking: Booking, chunk: bytes) -> bytes:
        """What the client gets of a stream. Some clients go at the last line: before it leaves, the end is written."""
        exchange, codec = self._exchange, self._codec
        data = codec.feed(chunk)
        if exchange.closed or not _complete(codec):
            return data
        _conclude(exchange, codec, head)
        self._close(booking, len(data))
        if not booking.strict:
            return data
        self._last = data
        return b""

    def _close(self, booking: Booking, coming: int) -> None:
        """Write the end down before the last so many bytes go out, with them perhaps the head."""
        self._exchange.streamed = self._answer.streams
        booking.close(self._answer.held + coming)

    async def _beat(self) -> None:
        codec, answer = self._codec, self._answer
        if not answer.committed:
            answer.begin(codec.reply, self._extra(codec.reply), streams=True)
        await answer.beat(codec.heartbeat)

    def _extra(self, node_head: Head) -> dict[str, str]:
        exchange = self._exchange
        extra = sound(self._gateway, exchange)
        if exchange.node:
            extra["x-parallama-node"] = exchange.node
        if exchange.model:
            extra["x-parallama-model"] = _visible(exchange.model)
        if mark := node_head.header(SIMULATED):
            extra[SIMULATED] = mark
        if node_head.status in (429, 503) and not node_head.header("retry-after"):
            extra["Retry-After"] = str(BUSY_RETRY_S)
        return extra

    async def _fail(self, error: ApiError, booking: Booking) -> None:
        """The head is out: say it in the stream, or else leave the body visibly unfinished."""
        exchange, codec, answer = self._exchange, self._codec, self._answer
        last = codec.fail(error) if answer.streams else b""
        unsecured = isinstance(error, Unavailable)  # strict mode: who lacks the end of the answer asks again
        if answer.streams and not last and not unsecured and (codec.usage.final or codec.failed):
            _conclude(exchange, codec, Head(200))  # after its last line a stream lacks nothing
        else:
            exchange.status, exchange.outcome, exchange.error = error.status, Outcome.FAILED, error.code
            if not last:
                answer.abort()
                return
        last = self._last + last
        booking.close(len(last))
        await answer.write(last)
        await answer.end()


def _complete(codec: Codec) -> bool:
    try:
        return codec.usage.final
    except Exception:  # noqa: BLE001 - a stranger's; it is asked again at the end, and logged then
        return False


def _context(codec: Codec) -> dict[str, str]:
    headers = {_CONTEXT_FULL: "true" if codec.context_full else "false"}
    return headers if codec.context is None else {_CONTEXT: str(codec.context), **headers}


def _visible(name: str) -> str:
    """A name may hold anything; a header holds visible ASCII."""
    return name if _PLAIN(name) else quote(name, safe=_VISIBLE)


def _content(
    outbound: Outbound, stream: InboundBody | None, headers: dict[str, str]
) -> tuple[bytes | AsyncIterable[bytes] | None, bool]:
    """The node's request body, with the headers that frame it, and whether the node is to ask for it first."""
    if stream is not None:
        if stream.length is not None:
            headers["Content-Length"] = str(stream.length)
        return stream, stream.awaits_continue
    if outbound.raw is not None:
        return outbound.raw, False
    if outbound.body is not None:
        headers["content-type"] = "application/json"  # in place of the client's
        return outbound.written or orjson.dumps(outbound.body), False
    return None, False


def _conclude(exchange: Exchange, codec: Codec, head: Head) -> None:
    """How the exchange ended, now that the node has said all it had to say."""
    exchange.status = head.status
    if codec.failed is not None:
        exchange.status, exchange.outcome, exchange.error = (
            codec.failed.status,
            Outcome.FAILED,
            codec.failed.code,
        )
    elif head.status < 400:
        exchange.outcome, exchange.error = Outcome.OK, None
    else:
        exchange.outcome = Outcome.REFUSED if head.status < 500 else Outcome.FAILED
        exchange.error = "node_error"


def _fields(exchange: Exchange, error: ApiError) -> Mapping[str, object]:
    return {
        "request_id": str(exchange.id),
        "node": exchange.node,
        "code": error.code,
        # not the message: a codec's may be in the node's words, which quote prompts
        "cause": type(error.__cause__).__name__ if error.__cause__ else None,
    }
