"""Errors as OpenAI's clients expect them: one shape, as a whole answer or as an event inside a stream.

| status | `type` | `code` |
|---|---|---|
| 401 | `invalid_request_error` | `invalid_api_key`; `disabled_api_key` |
| 403 | `permission_error` | the error's own |
| 404 for a model | `invalid_request_error` | `model_not_found` |
| 429 | `requests`, or `tokens` for a limit of tokens | `rate_limit_exceeded` |
| 429 for what time does not change | `insufficient_quota` | `insufficient_quota` |
| other 4xx | `invalid_request_error` | the error's own, such as `missing_parameter` |
| 5xx | `api_error` | the error's own, such as `no_node` |
"""

from __future__ import annotations

import orjson

from parallama.errors import ApiError, OverLimit
from parallama.gateway.api import Reply
from parallama.gateway.sse import event
from parallama.quotas import TOKENS

_TYPES = {403: "permission_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_NEVER = "insufficient_quota"
_AS_IT_IS = "disabled_api_key"
"""Not to be mistaken for a key that is wrong: it may be good again."""


def error_type(error: ApiError) -> str:
    """The class of errors that it is of."""
    if _lasts_for_ever(error):
        return _NEVER
    if isinstance(error, OverLimit) and error.limit and error.limit.scope.meter in TOKENS:
        return "tokens"
    return _TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")


def error_code(error: ApiError) -> str:
    """What a program can tell errors of one type apart by."""
    if _lasts_for_ever(error):
        return _NEVER
    return error.code if error.code == _AS_IT_IS else _CODES.get(error.status, error.code)


def _lasts_for_ever(error: ApiError) -> bool:
    return isinstance(error, OverLimit) and error.lasting and error.until is None


def error_body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """`{"error": {message, type, param, code}}`."""
    told = {"message": str(error), "type": error_type(error), "param": error.param, "code": error_code(error)}
    return {"error": told}


def error_reply(error: ApiError) -> Reply:
    """The whole answer that tells `error`."""
    return Reply(error.status, {"Content-Type": "application/json"}, orjson.dumps(error_body(error)))


def error_event(error: ApiError) -> bytes:
    """The last event of a stream that broke; SDKs raise it. No `[DONE]` may follow."""
    return event(error_body(error))
