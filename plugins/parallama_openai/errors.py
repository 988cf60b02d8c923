"""Errors as OpenAI's clients expect them: one shape, as a whole answer or as an event inside a stream.

| status | `type` | `code` |
|---|---|---|
| 401 | `invalid_request_error` | `invalid_api_key`; `disabled_api_key` |
| 403 | `permission_error` | the error's own |
| 404 for a model | `invalid_request_error` | `model_not_found` |
| 429 | `requests` | `rate_limit_exceeded` |
| other 4xx | `invalid_request_error` | the error's own, such as `missing_parameter` |
| 5xx | `api_error` | the error's own, such as `no_node` |
"""

from __future__ import annotations

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Reply
from parallama.gateway.sse import event

_TYPES = {403: "permission_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_AS_IT_IS = "disabled_api_key"
"""Not to be mistaken for a key that is wrong: it may be good again."""


def error_type(status: int) -> str:
    """The class of errors that `status` stands for."""
    return _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def error_code(error: ApiError) -> str:
    """What a program can tell errors of one type apart by."""
    return error.code if error.code == _AS_IT_IS else _CODES.get(error.status, error.code)


def error_body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """`{"error": {message, type, param, code}}`."""
    told = {"message": str(error), "type": error_type(error.status), "param": error.param, "code": error_code(error)}
    return {"error": told}


def error_reply(error: ApiError) -> Reply:
    """The whole answer that tells `error`."""
    return Reply(error.status, {"Content-Type": "application/json"}, orjson.dumps(error_body(error)))


def error_event(error: ApiError) -> bytes:
    """The last event of a stream that broke; SDKs raise it. No `[DONE]` may follow."""
    return event(error_body(error))
