"""One exchange from its body to the last byte: read, opened, resolved, judged, then held with a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from aiohttp import web

from parallama.config import Settings
from parallama.errors import ClientLeft, NotFound, TimedOut
from parallama.exchange import Caller, Exchange, Usage, checked
from parallama.gateway.api import Body, Codec, Document, Inbound, Use
from parallama.gateway.described import Model
from parallama.gateway.families import Mounted, Serving
from parallama.ledger.bounds import readable_prompt
from parallama.metrics import Metrics
from parallama.nodes.pool import Pool
from parallama.proxy.admission import Admission
from parallama.proxy.answer import Answer
from parallama.proxy.body import InboundBody, Patience
from parallama.proxy.books import Booking, Books
from parallama.proxy.conversation import Conversation
from parallama.proxy.heartbeats import Heartbeats
from parallama.proxy.keys import EXCHANGE
from parallama.proxy.models import FamilyModels
from parallama.proxy.ratios import TokenRatios
from parallama.proxy.resolve import admit, judge, limit, resolve
from parallama.proxy.speeds import Speeds, estimated_prompt
from parallama.proxy.stalls import Stalls
from parallama.proxy.twice import told_once
from parallama.quotas import TOKENS, tightest

_error = logging.getLogger("parallama.error")

_LONGEST_NAME = 256
"""Characters of a model's name in logs and rows; Ollama's own limit for a whole name is below that."""
_LONGEST_END_USER, _LONGEST_IGNORED = 128, 64
_NO_QUERY: Mapping[str, str] = MappingProxyType({})
_NO_DOCUMENTS: Mapping[str, Document] = MappingProxyType({})


class Relay:
    """Makes the handlers of a gateway's routes."""

    def __init__(
        self,
        pool: Pool,
        books: Books,
        admission: Admission,
        stalls: Stalls,
        heartbeats: Heartbeats,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._pool, self._catalog = pool, pool.catalog
        self._books = books
        self._admission = admission
        self._speeds = Speeds(pool.catalog, settings.limits.max_output_tokens)
        self._stalls = stalls
        self._heartbeats = heartbeats
        limits, self._models = settings.relay, settings.models
        # read once: an attribute of settings costs many times that of an object of ours
        self._max_body, self._hold = settings.server.max_body_mb * 1024 * 1024, limits.hold_kb * 1024
        self._patience = Patience(limits.body_s, limits.body_min_kb_s, limits.body_total_s)
        self._forward = limits.forward_headers
        self._metrics = metrics
        self._ratios = TokenRatios()

    async def handle(
        self, request: web.Request, mounted: Mounted, key: tuple[str, str], mount: str
    ) -> web.StreamResponse:
        """Carry one exchange through. Raises ApiError before the head has gone out, ClientLeft at any time.

        `key`: method and path of its route.
        """
        exchange, serving = request[EXCHANGE], mounted.serving
        route = serving.routes[key]
        use, gateway = route.use, serving.gateway
        exchange.operation = use._value_  # a member's `value` is a function
        caller = exchange.caller
        assert isinstance(caller, Caller)
        admit(caller, gateway, route)
        if serving.settings.endpoints and not serving.open(route):
            raise NotFound(f"the endpoint {route.switch} of {gateway.name} is switched off")
        body = InboundBody(request, exchange, self._patience)
        raw = await body.read(self._max_body) if route.body is Body.JSON else b""
        if use is not Use.LIST and not self._catalog.heard:
            await self._pool.hear()
        inbound = self._inbound(request, exchange, caller, serving, mount, raw)
        if route.wants is not None:  # nothing is stored yet: whoever wants something says what is missing
            route.wants(inbound)
        codec = route.open(inbound)
        self._judge(exchange, serving, use, codec)
        limit(codec.outbounds, caller.policy)
        answer = Answer(request, exchange, self._stalls, self._hold)
        stream = body if route.body is Body.STREAM else None
        conversation = Conversation(request, gateway, codec, answer, stream, self._forward)
        account = partial(self._account, exchange, use, codec)
        booking = Booking(self._books, exchange, codec, account)
        if codec.outbounds:
            booking.admit()
            await self._admission.admit(exchange, caller, use, codec)
        cut = False
        try:
            await conversation.hold(self._pool, self._heartbeats, self._metrics, booking)
        except (ClientLeft, TimedOut, asyncio.CancelledError):
            cut = True
            raise
        finally:
            if not exchange.closed:
                account()
                if cut:
                    self._speeds.estimate(exchange, use, codec.outbounds, booking.asked_s)
                    exchange.usage = self._held(exchange.usage, use, codec)
        self._learn(exchange, use, codec, booking.asked_s)
        return answer.response

    def _learn(self, exchange: Exchange, use: Use, codec: Codec, asked_s: float | None) -> None:
        """What an exchange that has ended tells of the models."""
        self._ratios.learn_from(codec, exchange)
        self._speeds.learn_from(exchange, asked_s)
        if exchange.model and exchange.usage.final and codec.context is None:
            self._pool.answered(exchange.model)
        if use is Use.MANAGE:
            self._pool.changed()

    def _account(self, exchange: Exchange, use: Use, codec: Codec) -> None:
        """Take what the codec says of tokens; what a stranger's says wrongly must not cost anybody a row."""
        try:
            usage, full = checked(codec.usage), codec.context_full
            usage = _with_prompt(told_once(usage, codec.outbounds, self._catalog), exchange, codec)
            exchange.usage = self._held(usage, use, codec)
            exchange.context_full = None if full is None else bool(full)
        except Exception:  # noqa: BLE001 - the same edge as around the handlers
            _error.exception("bug", extra={"fields": {"request_id": str(exchange.id)}})

    def _held(self, usage: Usage, use: Use, codec: Codec) -> Usage:
        """With no more of an estimated prompt than a node can read."""
        if usage.final or usage.prompt_tokens is None:
            return usage
        name = next((outbound.target or outbound.model for outbound in codec.outbounds), None)
        model = self._catalog.described(name) if name else Model()
        return replace(usage, prompt_tokens=readable_prompt(usage.prompt_tokens, codec.outbounds, use, model))

    def _inbound(
        self, request: web.Request, exchange: Exchange, caller: Caller, serving: Serving, mount: str, raw: bytes
    ) -> Inbound:
        number = exchange.id.int
        return Inbound(
            id=f"{number:032x}",
            at=(number >> 80) // 1000,
            method=request.method,
            mount=mount,
            path=request.path.removeprefix(mount),
            params=request.match_info,
            query=request.query if request.rel_url.raw_query_string else _NO_QUERY,
            headers=request.headers,
            raw=raw,
            models=FamilyModels(self._catalog, serving.aliases, self._ratios, caller.policy),
            default_model=serving.settings.default_model,
            documents=_NO_DOCUMENTS,
        )

    def _judge(self, exchange: Exchange, serving: Serving, use: Use, codec: Codec) -> None:
        """Resolve the models of an exchange, and raise NotAllowed for those it may not have."""
        for outbound in codec.outbounds:
            if not exchange.model_asked:
                exchange.model_asked = outbound.model and outbound.model[:_LONGEST_NAME]
        if codec.ignored:
            exchange.ignored = [str(name)[:_LONGEST_IGNORED] for name in codec.ignored]
        if codec.end_user is not None:
            exchange.end_user = str(codec.end_user)[:_LONGEST_END_USER]
        resolve(codec, serving.aliases, use)
        judge(codec.outbounds, self._catalog, self._models)


def _with_prompt(usage: Usage, exchange: Exchange, codec: Codec) -> Usage:
    """Where a limit counts tokens and the node has answered without saying how many the prompt had, as it does of
    `/api/embeddings`: with an estimate, or it would cost nothing."""
    if not usage.final or usage.prompt_tokens is not None or exchange.quotas is None:
        return usage
    if tightest(exchange.quotas.each(), *TOKENS) is None:
        return usage
    return replace(usage, prompt_tokens=estimated_prompt(codec.outbounds), final=False)
