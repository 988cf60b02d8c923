"""How a request comes through: with a key or a login, renewed when it has ended, and again when the gateway asks for
patience. Without I/O: generators yield what is to be done, and the clients do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any, TypeVar

from parallama.errors import (
    ApiError,
    BadRequest,
    BodyTooLarge,
    Conflict,
    Invalid,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Outdated,
    OverLimit,
    TimedOut,
    Unavailable,
    UnsupportedMedia,
    UpstreamFailed,
)

T = TypeVar("T")

LONGEST_WAIT_S = 60.0
"""A gateway that asks for more patience than that is not waited for."""

_FAILURES: Mapping[int, type[ApiError]] = {
    400: BadRequest,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    412: Outdated,
    413: BodyTooLarge,
    415: UnsupportedMedia,
    422: Invalid,
    429: OverLimit,
    503: Unavailable,
    504: TimedOut,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent; `headers` without the credential, which is put in last."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    changes: bool = False
    """Whether it changes a record. A 503 may then come after that was done, as when the database goes away while it
    commits, so it is not sent again."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The head of an answer, with its body unless it is a stream that succeeded."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    response: Any
    """As the one who carries it has it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """Get another access token, unless somebody has: the one in hand is `stale`."""

    stale: str | None
    refused: Answered | None
    """The last login that was refused, as far as it was known when the request was made."""


Step = Request | Wait | Renew

Steps = Generator[Step, Any, Answered]


class Session:
    """Who the client is. With a user name it logs in at the first request and renews its tokens by itself."""

    def __init__(self, api_key: str | None, username: str | None, password: str | None, max_retries: int) -> None:
        if (api_key is None) == (username is None) or (username is None) != (password is None):
            raise ValueError("give either api_key=, or username= and password=")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            raise ValueError("api_key= must be one line of ASCII, without its end, and not empty")
        self._username, self._password = username, password
        self._token = api_key
        self._refresh_token: str | None = None
        self._refused: Answered | None = None
        self._max_retries = max_retries

    def ask(self, request: Request) -> Steps:
        """Send the request, again after 429 and 503 as the gateway asks, one that changes a record after 429 only, and
        once more with a new token after 401. The answer is a good one; raises ApiError for all others."""
        refused = self._refused
        if self._token is None:
            yield Renew(None, refused)
        token = self._token
        answered = yield from self._patiently(_with(request, token))
        if answered.status == 401 and self._username is not None:
            yield Renew(token, refused)
            answered = yield from self._patiently(_with(request, self._token))
        if not 200 <= answered.status < 300:
            raise failure(answered)
        return answered

    def renew(self, step: Renew) -> Steps | None:
        """The steps to another token, one at a time; None when there is one already. A refresh token that has ended is
        followed by a login. All who have waited for one that was refused are told so, and try no password again."""
        if self._token != step.stale:
            return None
        if self._refused is not None and self._refused is not step.refused:
            raise failure(self._refused)
        return self._renew()

    def _renew(self) -> Steps:
        if self._refresh_token is not None:
            answered: Answered = yield Request(
                method="POST", path="/auth/token", body={"refresh_token": self._refresh_token}
            )
            if answered.status == 200:
                return self._keep(answered)
        body = {"username": self._username, "password": self._password}
        answered = yield from self._patiently(Request(method="POST", path="/auth/login", body=body))
        if answered.status != 200:
            self._refused = answered
            raise failure(answered)
        return self._keep(answered)

    def _patiently(self, request: Request) -> Steps:
        """The answer to the request, which is sent again while the gateway asks for patience, `max_retries` times."""
        tries = 0
        while True:
            answered: Answered = yield request
            wait_s = _patience(request, answered)
            if wait_s is None or tries >= self._max_retries:
                return answered
            tries += 1
            yield Wait(wait_s)

    def _keep(self, answered: Answered) -> Answered:
        tokens = read(answered.body, lambda told: (told["access_token"], told["refresh_token"]))
        self._token, self._refresh_token = tokens
        return answered


def _with(request: Request, token: str | None) -> Request:
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


def _patience(request: Request, answered: Answered) -> float | None:
    """Seconds after which it is worth trying again; None: it is not."""
    passing = (429,) if request.changes else (429, 503)
    if answered.status not in passing or answered.headers.get("x-should-retry") == "false":
        return None
    wait_s = _wait_s(answered.headers.get("retry-after", "1"))
    return max(0.0, wait_s) if wait_s <= LONGEST_WAIT_S else None


def _wait_s(retry_after: str) -> float:
    """Seconds from now, negative ones too, of a number or a date (RFC 9110 section 10.2.3); infinite for neither."""
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a zone
        return inf


def read(text: bytes | str, into: Callable[[Any], T]) -> T:
    """What `into` makes of the JSON of a good answer. Raises UpstreamFailed when that is something else."""
    try:
        return into(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise foreign() from None


def foreign() -> UpstreamFailed:
    """Whoever has answered is no Parallama that this client understands."""
    return UpstreamFailed("the answer is none of a Parallama, or of another version than this client")


def failure(answered: Answered) -> ApiError:
    """The error that the gateway has answered, in whatever dialect; `code`, `status` and `retry_after_s` as there."""
    error = _error_of(answered.body)
    kind = _FAILURES.get(answered.status, UpstreamFailed)
    made = kind(message_of(error) or f"the gateway answered {answered.status}")
    made.status = answered.status
    if isinstance(error, Mapping):
        made.code = str(error.get("code") or error.get("type") or made.code)
        if isinstance(made, Invalid):
            made.detail = error.get("detail") or ()
    if (seconds := answered.headers.get("retry-after", "")).isdecimal():
        made.retry_after_s = int(seconds)
    return made


def unreachable(base_url: object, error: Exception) -> ApiError:
    """The gateway does not answer at all."""
    return Unavailable(f"the gateway at {base_url} does not answer ({type(error).__name__})")


def cut_short() -> UpstreamFailed:
    """A stream is over and its answer is not."""
    return UpstreamFailed("the stream ended before the answer did")


def message_of(error: Any) -> str:
    """The message of an error in whatever dialect: a text, or `{message}`."""
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)


def _error_of(body: bytes) -> Any:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text[:500]  # a page in HTML says less than the status
    return document.get("error", "") if isinstance(document, dict) else ""
