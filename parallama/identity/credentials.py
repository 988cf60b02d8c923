"""What the headers of a request carry: an API key, an access token, or nothing. Pure.

Says what has the shape of a credential, not whether anybody holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from parallama.identity import keys
from parallama.identity.refusals import CONFLICTING, MALFORMED, MISSING, NO_TOKENS, NOT_A_KEY, REFRESH_TOKEN, SCHEME
from parallama.identity.tokens import AccessTokens, Claims, looks_like

REFRESH_PREFIX = "rt_"


class Accepted(NamedTuple):
    """Where a credential may be, and whether there must be one."""

    headers: tuple[str, ...]
    """Besides Authorization; in lower case."""
    anonymous: bool
    """Whether callers without a credential are served."""


def accepted(further: str | None, *, anonymous: bool) -> Accepted:
    """x-api-key and perhaps one `further` header."""
    return Accepted(tuple(sorted({"x-api-key", further or "x-api-key"} - {"authorization"})), anonymous)


def credential(headers: Mapping[str, str], where: Accepted) -> str | None:
    """The one credential that the headers (a mapping without case) carry; None: there is none, and none is needed.
    Raises NotAuthenticated."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = scheme.lower() == "bearer"
    found = token.strip() if bearer else ""
    for name in where.headers:
        if name in headers and (other := headers[name].strip()) not in ("", found):
            if found:
                raise CONFLICTING.of()
            found = other
    if found:
        return found
    if scheme and not bearer:
        raise SCHEME.of()
    if not where.anonymous:
        raise MISSING.of()
    return None


def claims_of(text: str, tokens: AccessTokens | None) -> Claims | None:
    """What an access token claims; None for a well-formed key. Raises NotAuthenticated for anything else, before
    anybody is asked."""
    if not text.startswith(keys.PREFIX):
        return _claims(text, tokens)
    if not keys.well_formed(text):
        raise MALFORMED.of()
    return None


def _claims(text: str, tokens: AccessTokens | None) -> Claims:
    if text.startswith(REFRESH_PREFIX):
        raise REFRESH_TOKEN.of()
    if not looks_like(text):
        raise NOT_A_KEY.of()
    if tokens is None:
        raise NO_TOKENS.of()
    return tokens.read(text)
