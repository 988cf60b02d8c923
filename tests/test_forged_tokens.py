"""Access tokens that nobody was given, before the real gateway: each is answered 401, none breaks it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio
from calling import session_of
from e2e.databases import fresh_database
from running import RunningGateway, running_gateway

from parallama.identity.tokens import AccessTokens
from parallama.testing import fake_ollama

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "the gateway's own secret of 48 characters, random"
PATH = "/api/tags"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(postgres: str) -> AsyncIterator[RunningGateway]:
    settings = {"auth": {"jwt_secret": SECRET}}
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url, settings) as gateway,
    ):
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def valid(gateway: RunningGateway) -> str:
    """A token that alice was given."""
    session_id, user_id = await session_of(gateway.database, "alice")
    return AccessTokens(SECRET, None, 1800).issue(user_id, session_id, 0)


async def asked(gateway: RunningGateway, token: str, header: str = "Authorization") -> tuple[int, str]:
    value = f"Bearer {token}" if header == "Authorization" else token
    async with gateway.http.get(gateway.url + PATH, headers={header: value}) as answer:
        return answer.status, await answer.text()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    payload = jwt.decode(token, options={"verify_signature": False})
    return jwt.get_unverified_header(token), payload


def signed(token: str, secret: str = SECRET, head: dict[str, Any] | None = None, **claims: Any) -> str:
    """The token with other claims and head, signed all the same; a claim of None is left out."""
    header, payload = parts(token)
    payload = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(payload, secret, "HS256", headers=header | (head or {}))


def bare(token: str, **head: Any) -> str:
    """The token with another head, and the signature that it had."""
    header, payload = parts(token)
    return ".".join([part(header | head), part(payload), token.rpartition(".")[2]])


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


FORGED: dict[str, Callable[[str], str]] = {
    "alg none": lambda token: bare(token, alg="none").rpartition(".")[0] + ".",
    "alg None with the old signature": lambda token: bare(token, alg="None"),
    "another algorithm": lambda token: jwt.encode(
        parts(token)[1], SECRET, "HS384", headers={"kid": parts(token)[0]["kid"], "typ": "at+jwt"}
    ),
    "signed with a public key": lambda token: signed(token, "-----BEGIN KEY of everybody-----" * 2),
    "signed with nothing": lambda token: bare(token).rpartition(".")[0] + "." + "A" * 43,
    "a kid that is a path": lambda token: signed(token, head={"kid": "../../dev/null"}),
    "a kid of somebody else": lambda token: signed(token, head={"kid": "0123456789abcdef"}),
    "a key of its own": lambda token: signed(token, head={"jwk": {"kty": "oct", "k": "AA"}}),
    "a key elsewhere": lambda token: signed(token, head={"jku": "http://127.0.0.1:1/keys"}),
    "a certificate elsewhere": lambda token: signed(token, head={"x5u": "http://127.0.0.1:1/cert"}),
    "another type in the head": lambda token: signed(token, head={"typ": "JWT"}),
    "a refresh token's type": lambda token: signed(token, typ="refresh"),
    "another audience": lambda token: signed(token, aud="somebody else"),
    "another issuer": lambda token: signed(token, iss="somebody else"),
    "expired": lambda token: signed(token, exp=int(time.time()) - 60),
    "of the future": lambda token: signed(token, nbf=int(time.time()) + 600),
    "without an end": lambda token: signed(token, exp=None),
    "without a session": lambda token: signed(token, sid=None),
    "an end that is no number": lambda token: signed(token, exp=[2**70]),
    "an end past all calendars": lambda token: signed(token, exp=2**70),
    "an id that is none": lambda token: signed(token, sid="' OR 1=1 --"),
    "a session of nobody": lambda token: signed(token, sid=str(uuid4())),
    "another user": lambda token: signed(token, sub=str(uuid4())),
    "a later generation": lambda token: signed(token, gen=1),
    "a generation past all integers": lambda token: signed(token, gen=2**70),
    "other claims under the old signature": lambda token: ".".join(
        [token.split(".")[0], part(parts(token)[1] | {"sub": str(uuid4())}), token.split(".")[2]]
    ),
    "one character changed": lambda token: token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:],
    "very long": lambda token: signed(token, more="x" * 5000),
    "no base64": lambda token: "a b.c d.é",
    "nothing between the dots": lambda token: "..",
    "a list": lambda token: f"{part([])}.{part([])}.{part('')}",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_answered_401(gateway: RunningGateway, valid: str, forge: Callable[[str], str]) -> None:
    token = forge(valid)
    assert token != valid
    for header in ("Authorization", "x-api-key"):
        status, body = await asked(gateway, token, header)
        assert status == 401, body
        assert token not in body
    assert (await asked(gateway, valid))[0] == 200


async def test_a_token_of_a_megabyte_is_refused_and_breaks_nothing(gateway: RunningGateway, valid: str) -> None:
    status, _ = await asked(gateway, signed(valid, more="x" * 1_000_000))
    assert status in (400, 401, 431)
    assert (await asked(gateway, valid))[0] == 200


async def test_a_token_of_another_gateway_is_refused(gateway: RunningGateway, valid: str) -> None:
    session_id, user_id = await session_of(gateway.database, "alice")
    other = AccessTokens("a secret that this gateway never had, 48 characters", None, 1800)
    assert (await asked(gateway, other.issue(user_id, session_id, 0)))[0] == 401
    assert (await asked(gateway, AccessTokens(SECRET, None, 1800).issue(user_id, session_id, 0)))[0] == 200


@pytest.mark.parametrize("token", ["rt_" + "a" * 43 + "_" + "b" * 6, "rt_", "rt_a.b.c"])
async def test_a_refresh_token_is_no_access_token(gateway: RunningGateway, token: str) -> None:
    status, body = await asked(gateway, token)
    assert status == 401
    assert "no access token" in body
