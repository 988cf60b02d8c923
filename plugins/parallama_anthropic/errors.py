"""Errors as Anthropic's clients expect them: one shape, as a whole answer or as the last event of a stream.

| status | `type` |
|---|---|
| 400, 401, 402 | `invalid_request_error`, `authentication_error`, `billing_error` |
| 403, 404 | `permission_error`, `not_found_error` |
| 413, 429, 504 | `request_too_large`, `rate_limit_error`, `timeout_error` |
| 529, in place of the 503 of a full queue | `overloaded_error` |
| any other | `api_error` |
"""

from __future__ import annotations

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Reply
from parallama.gateway.sse import event

_OVERLOADED = 529
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    _OVERLOADED: "overloaded_error",
}
_FULL = ("upstream_failed", "queue_full")
"""Codes with which a 503 says that a queue is full, the node's or ours, and not that something is missing."""


def error_status(error: ApiError) -> int:
    """The status under which Anthropic's clients know the error."""
    return _OVERLOADED if error.status == 503 and error.code in _FULL else error.status


def error_body(error: ApiError) -> dict[str, object]:
    """`{"type": "error", "error": {type, message}}`."""
    told = {"type": _TYPES.get(error_status(error), "api_error"), "message": str(error)}
    return {"type": "error", "error": told}


def error_reply(error: ApiError) -> Reply:
    """The whole answer that tells `error`."""
    return Reply(error_status(error), {"Content-Type": "application/json"}, orjson.dumps(error_body(error)))


def error_event(error: ApiError) -> bytes:
    """The last event of a stream that broke; SDKs raise it. No `message_stop` may follow."""
    return event(error_body(error), "error")
