"""Why a caller is refused: what they are told, which is the same for all that they must not tell apart, and what the
log gets. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from parallama.errors import NotAllowed, NotAuthenticated
from parallama.identity import keys


class Refused(NotAuthenticated):
    """A caller that is refused, with what the log may say of it."""

    def __init__(self, message: str, fields: Mapping[str, str], code: str = "not_authenticated") -> None:
        super().__init__(message, code=code)
        self.fields = fields


class RefusedHere(NotAllowed):
    """A caller whose key is not for clients at that address, with what the log may say of it."""

    def __init__(self, key: str) -> None:
        super().__init__("the API key may not be used from this address", code="address_access_denied")
        self.fields = {"reason": "address", "key": keys.hint(key)}


class Refusal(NamedTuple):
    """One reason to refuse."""

    reason: str
    """For the log."""
    message: str
    code: str = "not_authenticated"

    def of(self, key: str | None = None) -> Refused:
        """The error; `key`, when it is a well-formed one, is named in the log by its hint."""
        fields = {"reason": self.reason}
        return Refused(self.message, fields if key is None else {**fields, "key": keys.hint(key)}, self.code)


_NO_KEY = "callers without an API key are not served"
_KEY = "the API key is not valid"
_TOKEN = "the access token is not valid"  # noqa: S105

CONFLICTING = Refusal("conflicting", "the headers carry conflicting API keys: send one")
SCHEME = Refusal("scheme", "the Authorization header must read: Bearer <API key>")
MISSING = Refusal("missing", "no API key: send Authorization: Bearer <API key>")
NOT_A_KEY = Refusal("not_a_key", f"the credential is no API key of this gateway: those begin with {keys.PREFIX}")
MALFORMED = Refusal("malformed", "the API key is mistyped or cut off: its checksum does not fit")
REFRESH_TOKEN = Refusal("refresh_token", "a refresh token is no access token: get one for it at /auth/token")
NO_TOKENS = Refusal("no_tokens", "access tokens are not served here: send an API key")

UNKNOWN_KEY, ENDED_KEY, REPLACED_KEY = (Refusal(reason, _KEY) for reason in ("unknown", "ended", "replaced"))
DISABLED_KEY = Refusal("disabled", "the API key is disabled", "disabled_api_key")
EXPIRED_KEY = Refusal("expired", "the API key has expired")
UNKNOWN_SESSION, ENDED_SESSION = (Refusal(reason, _TOKEN) for reason in ("unknown_session", "ended_session"))
EXPIRED_TOKEN = Refusal("expired_token", "the access token has expired")
NO_ANONYMOUS, ENDED_ANONYMOUS = (Refusal(reason, _NO_KEY) for reason in ("unknown", "ended"))
