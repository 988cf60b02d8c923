"""Access tokens: what is issued is read, and nothing else is."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallama.errors import NotAuthenticated
from parallama.identity.tokens import AccessTokens, Claims, looks_like

SECRET = "k1" + "0123456789abcdef" * 3
OLDER = "k0" + "fedcba9876543210" * 3
USER, SESSION = UUID(int=1), UUID(int=2)
START = datetime(2030, 1, 1, tzinfo=UTC)
NOT_VALID, EXPIRED = "the access token is not valid", "the access token has expired"


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


def tokens(
    secret: str = SECRET, previous: str | None = None, now: Callable[[], datetime] | None = None
) -> AccessTokens:
    return AccessTokens(secret, previous, 1800, now or Clock())


def refused(token: str, reader: AccessTokens | None = None) -> str:
    with pytest.raises(NotAuthenticated) as caught:
        (reader or tokens()).read(token)
    assert (caught.value.status, caught.value.code) == (401, "not_authenticated")
    return str(caught.value)


def opened(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, body = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return head, body


HEADER, CLAIMS = opened(tokens().issue(USER, SESSION, 3))


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def signed(header: Any, claims: Any, secret: str = SECRET) -> str:
    """A token whose signature is right, whatever it says."""
    body = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{body}.{encoded(hmac.digest(secret.encode(), body.encode(), sha256))}"


def claiming(**changes: Any) -> str:
    return signed(HEADER, {**CLAIMS, **changes})


def headed(**changes: Any) -> str:
    return signed({**HEADER, **changes}, CLAIMS)


def without(name: str) -> str:
    return signed(HEADER, {key: value for key, value in CLAIMS.items() if key != name})


def test_a_token_says_whose_login_it_came_of() -> None:
    claims = tokens().read(tokens().issue(USER, SESSION, 3))
    expected = {"user_id": USER, "session_id": SESSION, "generation": 3}
    assert claims == Claims(**expected, expires_at=START + timedelta(seconds=1800), jti=claims.jti)


def test_a_token_is_a_jwt_as_promised() -> None:
    token = tokens().issue(USER, SESSION, 0)
    header = {"alg": "HS256", "typ": "at+jwt", "kid": HEADER["kid"]}
    assert jwt.get_unverified_header(token) == header
    keep = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(token, SECRET, ["HS256"], audience="parallama", issuer="parallama", options=keep)  # type: ignore[arg-type]
    assert set(claims) == {"iss", "aud", "sub", "sid", "gen", "jti", "iat", "nbf", "exp", "typ"}
    assert claims["exp"] - claims["iat"] == 1800


def test_two_tokens_have_different_ids() -> None:
    reader = tokens()
    one, two = (reader.read(reader.issue(USER, SESSION, 0)).jti for _ in range(2))
    assert one != two


def test_the_key_id_does_not_tell_the_secret() -> None:
    assert HEADER["kid"] not in {SECRET, sha256(SECRET.encode()).hexdigest()[:16]}


def test_a_token_dies_to_the_second() -> None:
    clock = Clock()
    reader = tokens(now=clock)
    token = reader.issue(USER, SESSION, 0)
    clock.time += timedelta(seconds=1800, microseconds=-1)
    assert reader.read(token).user_id == USER
    clock.time += timedelta(microseconds=1)
    assert refused(token, reader) == EXPIRED


def test_the_older_secret_reads_and_does_not_sign() -> None:
    old, both, new = tokens(OLDER), tokens(SECRET, OLDER), tokens(SECRET)
    token = old.issue(USER, SESSION, 0)
    assert both.read(token).session_id == SESSION
    assert refused(token, new) == NOT_VALID
    assert new.read(both.issue(USER, SESSION, 0)).session_id == SESSION


FORGED = {
    "alg none": signed({**HEADER, "alg": "none"}, CLAIMS),
    "alg None": signed({**HEADER, "alg": "None"}, CLAIMS),
    "alg nOnE without a signature": ".".join([*headed(alg="nOnE").split(".")[:2], ""]),
    "alg HS384": jwt.encode(CLAIMS, SECRET, "HS384", headers={"kid": HEADER["kid"], "typ": "at+jwt"}),
    "alg RS256": headed(alg="RS256"),
    "alg a number": headed(alg=1),
    "alg missing": signed({k: v for k, v in HEADER.items() if k != "alg"}, CLAIMS),
    "HS256 with a public key": signed(HEADER, CLAIMS, "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD"),
    "HS256 with the empty key": signed(HEADER, CLAIMS, ""),
    "kid missing": signed({k: v for k, v in HEADER.items() if k != "kid"}, CLAIMS),
    "kid unknown": headed(kid="0" * 16),
    "kid a path": headed(kid="../../../dev/null"),
    "kid a list": headed(kid=[HEADER["kid"]]),
    "kid null": headed(kid=None),
    "header typ JWT": headed(typ="JWT"),
    "header typ missing": signed({k: v for k, v in HEADER.items() if k != "typ"}, CLAIMS),
    "jku": headed(jku="https://evil.example/keys"),
    "x5u": headed(x5u="https://evil.example/chain"),
    "jwk": headed(jwk={"kty": "oct", "k": encoded(SECRET.encode())}),
    "crit": headed(crit=["exp"]),
    "b64 false": headed(b64=False, crit=["b64"]),
    "header a list": signed([HEADER], CLAIMS),
    "typ refresh": claiming(typ="refresh"),
    "aud another": claiming(aud="other"),
    "aud a list": claiming(aud=["parallama"]),
    "iss another": claiming(iss="https://evil.example"),
    "nbf in the future": claiming(nbf=CLAIMS["nbf"] + 1),
    "exp a text": claiming(exp=str(CLAIMS["exp"])),
    "exp a float": claiming(exp=float(CLAIMS["exp"])),
    "exp true": claiming(exp=True),
    "exp null": claiming(exp=None),
    "exp beyond all time": claiming(exp=2**62),
    "exp beyond all integers": claiming(exp=10**300),
    "iat a text": claiming(iat="now"),
    "gen a text": claiming(gen="0"),
    "sub no id": claiming(sub="alice"),
    "sub a number": claiming(sub=1),
    "sub another spelling": claiming(sub=f"{{{USER}}}"),
    "sid no id": claiming(sid="../.."),
    "sid null": claiming(sid=None),
    "jti no id": claiming(jti=""),
    "claims a list": signed(HEADER, [CLAIMS]),
    "claims a text": signed(HEADER, "claims"),
    "claims null": signed(HEADER, None),
    **{f"no {name}": without(name) for name in CLAIMS},
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_refused(token: str) -> None:
    assert refused(token) == NOT_VALID


def test_what_the_forgeries_are_made_of_is_good() -> None:
    assert tokens().read(signed(HEADER, CLAIMS)).user_id == USER


def test_an_expiry_that_is_past_is_told_only_of_a_token_of_ours() -> None:
    past = {**CLAIMS, "exp": CLAIMS["iat"]}
    assert refused(signed(HEADER, past)) == EXPIRED
    assert refused(signed(HEADER, past, OLDER)) == NOT_VALID


@pytest.mark.parametrize(
    "token",
    [
        "a" * 1_000_000,
        "a.b." + "c" * 1_000_000,
        "",
        "..",
        "a.b.c",
        "\ud800.b.c",
        f"{encoded(b'[' * 3000)}.e30.{'A' * 43}",
        f"{encoded(b'{' * 5)}.e30.{'A' * 43}",
    ],
    ids=["1 MB", "1 MB of signature", "empty", "dots", "short", "surrogate", "nests deep", "no JSON"],
)
def test_rubbish_is_refused(token: str) -> None:
    assert refused(token) == NOT_VALID


def test_payloads_that_nest_deep_are_refused() -> None:
    body = f"{encoded(json.dumps(HEADER).encode())}.{encoded(b'[' * 1400 + b']' * 1400)}"
    assert refused(f"{body}.{encoded(hmac.digest(SECRET.encode(), body.encode(), sha256))}") == NOT_VALID


def test_every_change_of_one_character_is_refused() -> None:
    token = tokens().issue(USER, SESSION, 0)
    for place in range(len(token)):
        for other in ("A", "B", "-", "=", ".", " "):
            if token[place] != other:
                assert refused(token[:place] + other + token[place + 1 :]) == NOT_VALID


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_refused(text: str) -> None:
    assert refused(text) == NOT_VALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(set(CLAIMS))), JSON)
def test_any_value_of_a_claim_is_read_or_refused(name: str, value: Any) -> None:
    try:
        assert tokens().read(claiming(**{name: value})).jti
    except NotAuthenticated as refusal:
        assert str(refusal) in (NOT_VALID, EXPIRED)  # noqa: PT017 - both are right


@given(JSON, JSON)
def test_any_signed_document_is_refused(header: Any, claims: Any) -> None:
    assert refused(signed(header, claims)) == NOT_VALID


def test_the_kind_of_a_credential_is_seen() -> None:
    assert looks_like(tokens().issue(uuid4(), uuid4(), 0))
    assert not looks_like("plm_" + "0" * 43 + "_000000")
    assert not looks_like("rt_" + "0" * 43 + "_000000")
