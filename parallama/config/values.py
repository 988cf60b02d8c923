"""The kinds of values that settings are made of: bounded numbers, node URLs, header names, time zones.

Each check raises ValueError with the words "must ..." that end the operator's message.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_LABEL = re.compile(r"[a-z0-9._-]{1,63}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110 section 5.6.2."""

_SIGNING_BYTES, _SIGNING_SIGNS = 32, 10

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""RFC 9110 section 7.6.1. What begins with `proxy-` is never forwarded either."""

_NEVER = _HOP_BY_HOP | {
    *("accept-encoding", "content-length", "expect", "forwarded", "host"),
    *("authorization", "cookie", "origin", "referer", "x-api-key"),
}
_NEVER_PREFIXES = ("proxy-", "x-forwarded-", "access-control-request-")
_ANYWAY = (_NEVER - {"authorization", "x-api-key"}) | {
    *("cache-control", "date", "dnt", "idempotency-key", "pragma", "priority", "range", "upgrade-insecure-requests"),
    *("user-agent", "via", "x-client-request-id", "x-real-ip", "x-request-id"),
}
_ANYWAY_PREFIXES = (*_NEVER_PREFIXES, "accept", "anthropic-", "content-", "if-", "openai-", "sec-", "x-stainless-")


def _number(value: object) -> object:
    """Pydantic takes true for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _absent(value: object) -> object:
    """`${VAR:-}` and an empty variable of a compose file mean that there is none."""
    return None if value == "" else value


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("must be 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    return value


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as http://127.0.0.1:11434") from None
    return parts


def _is_host(host: str | None) -> bool:
    try:
        return bool(re.fullmatch(r"[\w.-]+", host or "")) or bool(ipaddress.IPv6Address(host or ""))
    except ValueError:
        return False


def node_url(value: str) -> str:
    """The base URL of a node, without a trailing slash. Raises ValueError."""
    if not value.lower().startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    parts = _split(value)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password")
    if "?" in value or "#" in value:
        raise ValueError("must end with its path: no '?' and no '#'")
    is_host = _is_host(parts.hostname) and _has_labels(parts.hostname)
    if not is_host or re.search(r"[\s\\\x00-\x1f\x7f]", value):
        raise ValueError("must be a URL such as http://127.0.0.1:11434")
    return parts._replace(path=parts.path.rstrip("/")).geturl()


def _has_labels(host: str | None) -> bool:
    """Whether the name has labels that DNS can hold (RFC 1035 section 2.3.4): for others the resolver raises."""
    try:
        (host or "").encode("idna")
    except UnicodeError:
        return False
    return True


def header_name(value: str) -> str:
    """A header's name in lower case. Raises ValueError."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("must be the name of a header (RFC 9110 section 5.1)")
    return value.lower()


def key_header(value: str) -> str:
    """The name of a header that may carry a key. Raises ValueError, also for one that clients or proxies send anyway:
    what it says would be taken for a key that contradicts the right one, and nobody could come in."""
    name = header_name(value)
    if name in _ANYWAY or name.startswith(_ANYWAY_PREFIXES):
        raise ValueError("must be a header for keys alone: clients or proxies send this one with something else")
    return name


def forwarded_header(value: str) -> str:
    """The name of a client's header that may reach a node. Raises ValueError."""
    name = header_name(value)
    if name in _NEVER or name.startswith(_NEVER_PREFIXES):
        raise ValueError(
            "must not be forwarded: it concerns this connection, this gateway's keys or the client's place"
        )
    return name


def _time_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(value, zoneinfo.available_timezones(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be a time zone of the IANA database, such as Europe/Berlin{hint}") from None
    return value


def network(value: str) -> str:
    """An address or a CIDR range in its usual form. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(value.strip()))
    except ValueError:
        raise ValueError("must be an address or a range of them, such as 192.0.2.7, 10.0.0.0/8 or fd00::/8") from None


def _web_origin(value: str) -> str:
    parts = _split(value)
    origin = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not _is_host(parts.hostname) or value.rstrip("/").lower() != origin:
        raise ValueError("must be an origin such as https://chat.example.org or http://localhost:3000: no path, no '*'")
    return origin


def _signing_secret(value: SecretStr | None) -> SecretStr | None:
    """Strong enough for HS256 (RFC 7518 section 3.2: a key of at least 256 bits)."""
    if value is None:
        return None
    text = value.get_secret_value()
    if len(text.encode()) < _SIGNING_BYTES or len(set(text)) < _SIGNING_SIGNS:
        raise ValueError(
            f"must be at least {_SIGNING_BYTES} random bytes; make one: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    return value


def _scheme(*schemes: str) -> AfterValidator:
    def check(value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError("must begin with " + " or ".join(f"{scheme}://" for scheme in schemes))
        return value

    return AfterValidator(check)


_Optional = BeforeValidator(_absent)
Count = Annotated[int, Field(ge=1), BeforeValidator(_number)]
CountOrNone = Annotated[int, Field(ge=0), BeforeValidator(_number)]
"""0 is a number like any other here, or means none: the field says which."""
Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_number)]
Seconds = Annotated[float, Field(ge=0.01, allow_inf_nan=False), BeforeValidator(_number)]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[str, AfterValidator(_label)]
NodeUrl = Annotated[str, AfterValidator(node_url)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
OptionalPath = Annotated[Path | None, _Optional]
OptionalHeader = Annotated[str | None, AfterValidator(lambda value: value and key_header(value)), _Optional]
ForwardedHeader = Annotated[str, AfterValidator(forwarded_header)]
SigningSecret = Annotated[SecretStr | None, AfterValidator(_signing_secret), _Optional]
Network = Annotated[str, AfterValidator(network)]
WebOrigin = Annotated[str, AfterValidator(_web_origin)]
PostgresUrl = Annotated[SecretStr | None, _scheme("postgresql", "postgres"), _Optional]
RedisUrl = Annotated[SecretStr | None, _scheme("redis", "rediss", "unix"), _Optional]
Options = dict[str, dict[str, Any]]
Weight = Annotated[float, Field(gt=0, le=1_000_000), BeforeValidator(_number)]
Weights = dict[Text, Weight]
"""By pattern of names of models."""
