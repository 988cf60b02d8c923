"""The headers with which an answer tells browsers to do as little with it as they can.

On every answer: those of gateways, of nodes, of errors and of the parser. What a page needs beyond that its handler
says in a Content-Security-Policy of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from multidict import CIMultiDict, istr

_POLICY = istr("Content-Security-Policy")
RESOURCE_POLICY = istr("Cross-Origin-Resource-Policy")
"""Left out where pages of another origin are allowed."""
_TRANSPORT, _YEAR = istr("Strict-Transport-Security"), "max-age=31536000"

_ANY_POLICY: Mapping[str, str] = MappingProxyType(
    {
        istr("X-Content-Type-Options"): "nosniff",
        istr("Referrer-Policy"): "no-referrer",
        istr("X-Frame-Options"): "DENY",
        RESOURCE_POLICY: "same-origin",
    }
)
SECURITY: Mapping[str, str] = MappingProxyType({**_ANY_POLICY, _POLICY: "default-src 'none'; frame-ancestors 'none'"})
"""Of an answer whose handler says nothing else."""


def secure(headers: CIMultiDict[str], *, https: bool) -> None:
    """Put the security headers into those of an answer; `https`: its client came by HTTPS (RFC 6797 section 7.2)."""
    headers.update(_ANY_POLICY if _POLICY in headers else SECURITY)
    if https:
        headers[_TRANSPORT] = _YEAR
