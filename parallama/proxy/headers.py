"""Which headers pass: an allow-list towards the node, everything end-to-end back to the client."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping

from multidict import CIMultiDict, CIMultiDictProxy

from parallama.exchange import Exchange
from parallama.gateway.api import Gateway, ReplyFacts
from parallama.quotas import neutral_headers

_error = logging.getLogger("parallama.error")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_VALUE = re.compile(r"[\t -~\x80-\xff]*").fullmatch

HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""RFC 9110 section 7.6.1; each connection has its own."""

_OURS = frozenset(("content-security-policy", "strict-transport-security"))
"""What browsers may do is ours to say: a node knows neither our pages nor how clients come."""

# set by a node's own CORS rules, which know nothing of ours
_NODE_ONLY = "access-control-"
_NOT_PASSED = HOP_BY_HOP | _OURS


def for_node(headers: CIMultiDictProxy[str], allowed: Iterable[str]) -> dict[str, str]:
    """The client's headers that reach a node: those of the allow-list, unless `Connection` names them."""
    named = _listed(headers.getall("Connection")) if "Connection" in headers else ()
    return {name: headers[name] for name in allowed if name in headers and name.lower() not in named}


def for_client(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """The node's headers that reach the client, in their order and spelling."""
    dropped = _NOT_PASSED
    named = [value for name, value in headers if name.lower() == "connection"]
    if named:
        dropped |= _listed(named)
    return CIMultiDict(
        [
            (name, value)
            for name, value in headers
            if (lower := name.lower()) not in dropped and not lower.startswith(_NODE_ONLY)
        ]
    )


def _listed(values: Iterable[str]) -> set[str]:
    return {name.strip().lower() for value in values for name in value.split(",")}


def client_request_id(headers: Mapping[str, str]) -> str | None:
    """The client's own X-Request-ID, if it is printable ASCII and of at most 128 characters."""
    given = headers.get("X-Request-ID")
    return given if given and len(given) <= 128 and given.isascii() and given.isprintable() else None


def sound(gateway: Gateway, exchange: Exchange) -> dict[str, str]:
    """The headers that a gateway adds to an answer; none, and a line in the log, if they could not be sent."""
    quotas, kind = exchange.quotas, type(gateway)
    if kind.headers is Gateway.headers:
        if quotas is None:
            return {}
        if kind.rate_limits is Gateway.rate_limits:
            return neutral_headers(quotas, time.time())
    request_id, now = str(exchange.id), time.time()
    told = () if quotas is None else quotas.each()
    facts = ReplyFacts(request_id=request_id, node=exchange.node, model=exchange.model, quotas=told, at=now)
    try:
        headers = dict(gateway.headers(facts))
        if facts.quotas:
            headers |= gateway.rate_limits(facts)
        if all(_NAME(name) and _VALUE(value) for name, value in headers.items()):
            return headers
        raise ValueError("headers() must give names and values as RFC 9110 section 5 has them")
    except Exception:  # noqa: BLE001 - a stranger's code may raise anything, and every answer comes by here
        _error.exception("bug", extra={"fields": {"request_id": request_id, "gateway": gateway.name}})
        return {}
