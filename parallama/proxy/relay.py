"""One exchange from its body to the last byte: read, opened, judged, sent to a node, piped back.

It prepares and writes every gateway answer itself. Errors before the head has gone out are raised, for the dialect to
render; later ones are told in-stream, or by closing the connection short.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import AsyncIterable, Mapping
from types import MappingProxyType
from urllib.parse import quote

import orjson
from aiohttp import web

from parallama.config import Settings
from parallama.errors import BUSY_RETRY_S, ApiError, TimedOut, UpstreamFailed
from parallama.exchange import Caller, Exchange, Outcome
from parallama.gateway.api import Body, Codec, Document, Gateway, Head, Inbound, Outbound, ReplyFacts, Route, Use
from parallama.metrics import Metrics
from parallama.nodes.answer import NodeAnswer
from parallama.nodes.pool import Lease, Pool
from parallama.proxy.answer import Answer
from parallama.proxy.body import InboundBody
from parallama.proxy.headers import for_node
from parallama.proxy.keys import EXCHANGE, IDS
from parallama.proxy.resolve import admit, judge
from parallama.proxy.stalls import Stalls

_log = logging.getLogger("parallama.gateway")

_VISIBLE = string.ascii_letters + string.digits + string.punctuation.replace("%", "")

_LONGEST_NAME = 256
"""Characters of a model's name in headers, logs and rows; Ollama's own limit for a whole name is below that."""
_PLAIN = re.compile("[!-$&-~]{1,256}").fullmatch

_NO_QUERY: Mapping[str, str] = MappingProxyType({})
_NO_DOCUMENTS: Mapping[str, Document] = MappingProxyType({})
SIMULATED = "x-parallama-simulated"
"""The simulator's mark on its answers; kept in every dialect."""


class Relay:
    """Makes the handlers of a gateway's routes."""

    def __init__(self, pool: Pool, stalls: Stalls, settings: Settings, metrics: Metrics) -> None:
        self._pool = pool
        self._stalls = stalls
        self._settings = settings
        self._metrics = metrics

    async def handle(self, request: web.Request, gateway: Gateway, route: Route, mount: str) -> web.StreamResponse:
        """Carry one exchange through. Raises ApiError before the head has gone out, ClientLeft at any time."""
        exchange = request[EXCHANGE]
        exchange.operation = route.use.value
        caller = exchange.caller
        assert isinstance(caller, Caller)
        admit(caller, gateway, route)
        limits = self._settings.relay
        body = InboundBody(request, exchange, limits.body_s, min_kb_s=limits.body_min_kb_s, total_s=limits.body_total_s)
        raw = await body.read(self._settings.server.max_body_mb * 1024 * 1024) if route.body is Body.JSON else b""
        codec = route.open(self._inbound(request, mount, raw))
        await self._judge(exchange, codec)
        answer = Answer(request, exchange, self._stalls, limits.hold_kb * 1024)
        try:
            await self._converse_or_fail(request, gateway, codec, answer, body if route.body is Body.STREAM else None)
        except Exception:
            if answer.committed:  # a bug, of a plugin perhaps: no second head may follow the first
                answer.abort()
            raise
        finally:
            answer.close()
            exchange.usage = codec.usage
            exchange.context_full = codec.context_full
        if route.use is Use.MANAGE:
            self._pool.changed()
        return answer.response

    def _inbound(self, request: web.Request, mount: str, raw: bytes) -> Inbound:
        exchange = request[EXCHANGE]
        return Inbound(
            id=exchange.id.hex,
            at=(exchange.id.int >> 80) // 1000,
            method=request.method,
            mount=mount,
            path=request.path.removeprefix(mount),
            params=request.match_info,
            query=request.query if request.query_string else _NO_QUERY,
            headers=request.headers,
            raw=raw,
            models=self._pool.catalog,
            documents=_NO_DOCUMENTS,
        )

    async def _judge(self, exchange: Exchange, codec: Codec) -> None:
        for outbound in codec.outbounds:
            exchange.model_asked = exchange.model_asked or (outbound.model and outbound.model[:_LONGEST_NAME])
        if exchange.model_asked and not self._pool.catalog.heard:
            await self._pool.hear()
        judge(codec.outbounds, self._pool.catalog, self._settings.models)

    async def _converse_or_fail(
        self, request: web.Request, gateway: Gateway, codec: Codec, answer: Answer, stream: InboundBody | None
    ) -> None:
        """Raises ApiError only while the answer can still become an error."""
        exchange = request[EXCHANGE]
        try:
            await self._converse(request, gateway, codec, answer, stream)
        except ApiError as error:
            if isinstance(error, UpstreamFailed | TimedOut) and exchange.node:
                self._metrics.node_errors.labels(exchange.node, error.code).inc()
                _log.warning("node failed", extra={"fields": _fields(exchange, error)})
                self._pool.changed()
            if not answer.committed:
                raise
            await self._fail(exchange, codec, answer, error)

    async def _converse(
        self, request: web.Request, gateway: Gateway, codec: Codec, answer: Answer, stream: InboundBody | None
    ) -> None:
        """Ask the node, pipe its answer; the exchange's status and outcome are set when all of it is out."""
        exchange = request[EXCHANGE]
        head = codec.reply
        if codec.outbounds:
            async with self._pool.lease() as lease:
                exchange.node, exchange.model = lease.node.name, exchange.model_asked
                last = b""
                for outbound in codec.outbounds:
                    await answer.write(last)
                    head = await self._ask(request, gateway, codec, answer, lease, outbound, stream)
                    last = codec.finish()
        else:
            answer.begin(head, self._extra(request, gateway, head), streams=False)
            last = codec.finish()
        _conclude(exchange, codec, head)
        await answer.write(last)
        await answer.end()

    async def _ask(
        self,
        request: web.Request,
        gateway: Gateway,
        codec: Codec,
        answer: Answer,
        lease: Lease,
        outbound: Outbound,
        stream: InboundBody | None,
    ) -> Head:
        headers = for_node(request.headers, self._settings.relay.forward_headers)
        content, waits = _content(outbound, stream, headers)
        upstream = lease.node.upstream
        with await upstream.send(outbound.method, outbound.path, headers, content, await_continue=waits) as reply:
            head = codec.begin(reply.head)
            if not answer.committed:
                answer.begin(head, self._extra(request, gateway, reply.head), streams=codec.streams)
            await _pipe(reply, codec, answer)
        return head

    def _extra(self, request: web.Request, gateway: Gateway, node_head: Head) -> dict[str, str]:
        exchange = request[EXCHANGE]
        facts = ReplyFacts(request_id=request[IDS].text, node=exchange.node, model=exchange.model)
        extra = dict(gateway.headers(facts))
        if exchange.node:
            extra["x-parallama-node"] = exchange.node
        if exchange.model:
            extra["x-parallama-model"] = _visible(exchange.model)
        if mark := node_head.header(SIMULATED):
            extra[SIMULATED] = mark
        if node_head.status in (429, 503) and not node_head.header("retry-after"):
            extra["Retry-After"] = str(BUSY_RETRY_S)
        return extra

    async def _fail(self, exchange: Exchange, codec: Codec, answer: Answer, error: ApiError) -> None:
        """The head is out: say it in the stream, or else leave the body visibly unfinished."""
        last = codec.fail(error) if codec.streams else b""
        if codec.streams and (codec.usage.final or codec.failed):  # after its last line a stream lacks nothing
            _conclude(exchange, codec, Head(200))
        else:
            exchange.status, exchange.outcome, exchange.error = error.status, Outcome.FAILED, error.code
            if not last:
                answer.abort()
                return
        await answer.write(last)
        await answer.end()


async def _pipe(reply: NodeAnswer, codec: Codec, answer: Answer) -> None:
    """The node's body to the client: a document as fast as the client takes it, a stream as fast as the node sends."""
    while chunk := await reply.some():
        await answer.write(codec.feed(chunk))
        if codec.streams and answer.committed:
            await reply.pipe(lambda piece: answer.push(codec.feed(piece)))
            return


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
        return orjson.dumps(outbound.body), False
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
