"""What can go wrong, and who is told.

Exception
 ├── ConfigError              the operator's: settings, plugins, the state directory
 ├── ClientLeft               nobody's: there is no one left to answer
 └── ApiError                 a client's: rendered by its gateway, in its dialect
      ├── BadRequest          400
      ├── NotAuthenticated    401
      ├── NotAllowed          403
      ├── ModelUnknown        404
      ├── NotFound            404
      ├── NotAllowedMethod    405
      ├── Conflict            409
      ├── Outdated            412
      ├── BodyTooLarge        413
      ├── UnsupportedMedia    415
      ├── Invalid             422
      ├── OverLimit           429
      ├── UpstreamFailed      502, or the node's own status
      ├── NoNode              503
      ├── Unavailable         503
      ├── Stopped             503
      └── TimedOut            504

No message holds a key, a token, a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from parallama.limits import Limit

BUSY_RETRY_S = 2
"""Seconds after which to try again what cannot be done now."""


class ConfigError(Exception):
    """A setting or an installation that cannot work; says where, what is wrong and what would be right."""


class ClientLeft(Exception):
    """The client closed its connection in the middle of the exchange."""


class ApiError(Exception):
    """An answer that a client may see. `str(error)` is the message for it."""

    status: int = 500
    code: str = "internal_error"
    """For rows, metrics and dialects that tell one."""
    param: str | None = None
    """The field of the request that is wrong, such as `messages[0].role`; None: it is not about one."""
    retry_after_s: int | None = None
    """Whole seconds; sent as Retry-After (RFC 9110 section 10.2.3)."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class BadRequest(ApiError):
    """The request cannot be understood; the message names what is wrong.

    `code` is one of `bad_request`, `invalid_json` (no JSON), `invalid_json_shape` (no object), `missing_parameter`,
    `invalid_parameter`; the last two with `param`.
    """

    status = 400
    code = "bad_request"

    def __init__(self, message: str, *, code: str = "bad_request", param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.code = code


class NotAuthenticated(ApiError):
    """No key and no token, or one that is not valid.

    `code` is `not_authenticated`, or says why: `disabled_api_key`, and of refresh tokens `already_rotated`.
    """

    status = 401
    code = "not_authenticated"

    def __init__(self, message: str, *, code: str = "not_authenticated") -> None:
        super().__init__(message)
        self.code = code


class NotAllowed(ApiError):
    """The caller is known but lacks a permission, which the message names, or has a key that is limited.

    `code` is `not_allowed`; for what the key is limited to: `model_access_denied`, `gateway_access_denied`,
    `address_access_denied`; and `registration_closed`.
    """

    status = 403
    code = "not_allowed"

    def __init__(self, message: str, *, code: str = "not_allowed") -> None:
        super().__init__(message)
        self.code = code


class ModelUnknown(ApiError):
    """No node has the model."""

    status = 404
    code = "model_not_found"


class NotFound(ApiError):
    """No such path."""

    status = 404
    code = "not_found"


class NotAllowedMethod(ApiError):
    """The path exists, the method does not; `allowed` goes into the Allow header (RFC 9110 section 10.2.1)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(sorted(allowed))


class Conflict(ApiError):
    """It is there already, or something else stands in the way; the message says what."""

    status = 409
    code = "conflict"


class Outdated(ApiError):
    """Somebody else has changed it since the version that `If-Match` names (RFC 9110 section 13.1.1)."""

    status = 412
    code = "outdated"


class BodyTooLarge(ApiError):
    """The request body is longer than this path takes."""

    status = 413
    code = "body_too_large"


class UnsupportedMedia(ApiError):
    """The body is said to be something else than JSON. Gateways read JSON whatever its type is said to be."""

    status = 415
    code = "unsupported_media_type"


class Invalid(ApiError):
    """A value that no record may have; `param` names it where it is one field of the request.

    `detail` is what is wrong, `[{"field": "a.b", "message": "..."}]`: all of it, or that `param`.
    """

    status = 422
    code = "invalid"

    def __init__(self, message: str, *, param: str | None = None, detail: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message, param=param)
        self.detail = detail or ([{"field": param, "message": message}] if param else ())


class OverLimit(ApiError):
    """Too many, or too much; `retry_after_s` seconds later there may be room again."""

    status = 429
    code = "over_limit"
    retry_after_s = 1

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int | None = None,
        lasting: bool = False,
        limit: Limit | None = None,
        used: int = 0,
        until: datetime | None = None,
    ) -> None:
        """`lasting`: there will be no room within `retry_after_s`, so that a client had better not wait; sent as
        `x-should-retry: false`. `limit`: the one in the way; None: it is none that somebody set. `used`: how much of it
        is. `until`: when time makes room; None: that depends on requests under way, or never comes when `lasting`."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.lasting = lasting
        self.limit = limit
        self.used = used
        self.until = until


class UpstreamFailed(ApiError):
    """The node broke the exchange, or answered an error of its own, whose `status` is then kept."""

    status = 502
    code = "upstream_failed"

    def __init__(self, message: str, *, status: int = 502) -> None:
        super().__init__(message)
        self.status = status
        if status in (429, 503):
            self.retry_after_s = BUSY_RETRY_S


class NoNode(ApiError):
    """No node can take the request now."""

    status = 503
    code = "no_node"
    retry_after_s = BUSY_RETRY_S


class Unavailable(ApiError):
    """Something that the gateway itself needs (the database) does not answer."""

    status = 503
    code = "unavailable"
    retry_after_s = BUSY_RETRY_S


class Stopped(ApiError):
    """This process stops, and the time to end what was under way is over."""

    status = 503
    code = "stopped"
    retry_after_s = BUSY_RETRY_S


class TimedOut(ApiError):
    """The node did not answer in time."""

    status = 504
    code = "timed_out"
