"""Access tokens: JWTs (RFC 7519) of one kind, made by us for us, and read without a look-up.

They say which login of which user they came of, never what that user may do: that is judged live. Pure but for the
clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import jwt
import orjson

from parallama.errors import NotAuthenticated

_NAME = "parallama"
_ALGORITHM, _TYPE, _USE = "HS256", "at+jwt", "access"
_MAX_CHARACTERS = 4096
_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{42}[AEIMQUYcgkosw048]", re.ASCII)
"""Base64url without padding. The last digit of a signature carries two bits that must be 0: no other text means the
same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a good access token says."""

    user_id: UUID
    session_id: UUID
    generation: int
    """Of the session, when the token was issued."""
    expires_at: datetime
    """Aware UTC; from then on the token is dead."""
    jti: UUID
    """The token's own id."""


class AccessTokens:
    """Issues and reads access tokens.

    `secret` signs; what was signed with `previous` is read too (None: nothing was). `lifetime_s`: seconds.
    """

    def __init__(
        self,
        secret: str,
        previous: str | None,
        lifetime_s: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secret, self._kid = secret, _kid(secret)
        self._secrets = {_kid(one): one for one in (previous, secret) if one}
        self.lifetime_s = lifetime_s
        self._now = now

    def issue(self, user_id: UUID, session_id: UUID, generation: int) -> str:
        """A token that is good from now on, for `lifetime_s`."""
        at = int(self._now().timestamp())
        claims = {
            **{"iss": _NAME, "aud": _NAME, "typ": _USE, "jti": str(uuid4())},
            **{"sub": str(user_id), "sid": str(session_id), "gen": generation},
            **{"iat": at, "nbf": at, "exp": at + self.lifetime_s},
        }
        return jwt.encode(claims, self._secret, _ALGORITHM, headers={"kid": self._kid, "typ": _TYPE})

    def read(self, token: str) -> Claims:
        """What the token says; whether its session is alive is not known here. Raises NotAuthenticated.

        As RFC 8725 section 3 asks: one algorithm, no key but our own, every claim checked.
        """
        if len(token) > _MAX_CHARACTERS or not _SHAPE.fullmatch(token):
            raise _not_valid()
        try:
            claims = _claims(orjson.loads(self._verified(token)), self._now())
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
            # RecursionError: of PyJWT's parser, for a header that nests deep
            raise _not_valid() from None
        if claims.expires_at <= self._now():
            raise NotAuthenticated("the access token has expired")
        return claims

    def _verified(self, token: str) -> bytes:
        """The payload, if the header is exactly ours and the signature fits."""
        header = jwt.get_unverified_header(token)
        secret = self._secrets[header["kid"]]
        if header != {"alg": _ALGORITHM, "typ": _TYPE, "kid": header["kid"]}:
            raise ValueError("not a header of ours")
        payload: bytes = jwt.PyJWS().decode(token, secret, algorithms=[_ALGORITHM])
        return payload


def looks_like(token: str) -> bool:
    """Whether a credential is to be read as an access token: three parts with dots between."""
    return token.count(".") == 2


def _claims(said: dict[str, Any], now: datetime) -> Claims:
    if (said["iss"], said["aud"], said["typ"]) != (_NAME, _NAME, _USE):
        raise ValueError("not a token of ours for us")
    numbers = [said[name] for name in ("iat", "nbf", "exp", "gen")]
    if any(type(number) is not int for number in numbers) or said["nbf"] > now.timestamp():
        raise ValueError("no time, or one that is still to come")
    return Claims(
        user_id=_id(said["sub"]),
        session_id=_id(said["sid"]),
        generation=said["gen"],
        expires_at=datetime.fromtimestamp(said["exp"], UTC),
        jti=_id(said["jti"]),
    )


def _id(text: Any) -> UUID:
    found = UUID(text) if isinstance(text, str) else None
    if found is None or str(found) != text:
        raise ValueError("not an id as we write it")
    return found


def _kid(secret: str) -> str:
    # keyed with the secret: it tells nobody anything of it
    return hmac.new(secret.encode(), b"kid", hashlib.sha256).hexdigest()[:16]


def _not_valid() -> NotAuthenticated:
    return NotAuthenticated("the access token is not valid")
