"""Registering, logging in, refreshing and logging out over HTTP: `/auth/*`, open to everybody.

Clients of all kinds ask here: what they leave out or send as something else than text is a 400 that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, WithJsonSchema

from parallama.admin.api import Call, Operation, Shape
from parallama.admin.guards import PUBLIC
from parallama.errors import BadRequest, Conflict, Invalid, NotAllowed, NotAuthenticated, OverLimit, Unavailable
from parallama.identity.logins import Logins, Registered, Tokens

_TEXT = {"type": "string", "minLength": 1}
Said = Annotated[Any, WithJsonSchema(_TEXT)]
"""Text, judged by `_said`."""
SaidOtherwise = Annotated[Any, WithJsonSchema({**_TEXT, "deprecated": True})]
"""The same under another name."""


def _needs(*names: str, either: Sequence[tuple[str, ...]] = ()) -> Callable[[dict[str, Any]], None]:
    """What makes a schema say what `_said` asks for: these names, and one of each of `either`."""

    def say(schema: dict[str, Any]) -> None:
        for field in schema["properties"].values():
            del field["default"]
        if names:
            schema["required"] = list(names)
        if either:
            schema["allOf"] = [{"oneOf": [{"required": [name]} for name in some]} for some in either]

    return say


class Registration(Shape):
    """A user to be."""

    model_config = ConfigDict(json_schema_extra=_needs("username", "password"))

    username: Said = None
    """A letter or digit, then at most 62 letters, digits or . _ @ -."""
    password: Said = None
    """At least as long as the settings say."""


class Login(Shape):
    """Who logs in."""

    model_config = ConfigDict(json_schema_extra=_needs(either=[("username", "account"), ("password", "passwd")]))

    username: Said = None
    """The user's name, in whatever case."""
    account: SaidOtherwise = None
    """In place of `username`, for clients that call it so."""
    password: Said = None
    """The user's password."""
    passwd: SaidOtherwise = None
    """In place of `password`, for clients that call it so."""


class Refresh(Shape):
    """A session, by its token."""

    model_config = ConfigDict(json_schema_extra=_needs("refresh_token"))

    refresh_token: Said = None
    """Of the login, or of the refresh after it."""


def auth_operations(logins: Logins) -> list[Operation]:
    """Register, log in, refresh, log out."""

    async def register(call: Call) -> Registered:
        asked: Registration = call.body
        name, password = _said(username=asked.username), _said(password=asked.password)
        return await logins.register(name, password, *_whence(call))

    async def login(call: Call) -> Tokens:
        asked: Login = call.body
        name = _said(username=asked.username, account=asked.account)
        return await logins.login(name, _said(password=asked.password, passwd=asked.passwd), *_whence(call))

    async def refresh(call: Call) -> Tokens:
        return await logins.refresh(_said(refresh_token=call.body.refresh_token), *_whence(call))

    async def logout(call: Call) -> None:
        await logins.logout(_said(refresh_token=call.body.refresh_token), *_whence(call))

    on, fails = partial(Operation, method="POST", tag="auth", guard=PUBLIC), (BadRequest, Unavailable)
    return [
        on(name="register", path="/auth/register", summary="Make an account of one's own, where that is open.",
           run=register, body=Registration, answer=Registered, status=201,
           errors=(*fails, NotAllowed, Conflict, Invalid, OverLimit)),
        on(name="login", path="/auth/login", summary="Tokens for a name and a password.",
           run=login, body=Login, answer=Tokens, errors=(*fails, NotAuthenticated, OverLimit)),
        on(name="refresh", path="/auth/token", summary="New tokens for a refresh token, which is good once.",
           run=refresh, body=Refresh, answer=Tokens, errors=(*fails, NotAuthenticated, OverLimit)),
        on(name="logout", path="/auth/logout", summary="End the session of a refresh token.",
           run=logout, body=Refresh, errors=fails),
    ]  # fmt: skip


def _said(**given: Any) -> str:
    """The one that was given of a parameter's names. Raises BadRequest, naming the first of them."""
    said = [value for value in given.values() if value is not None]
    if len(said) != 1 or not isinstance(said[0], str) or not said[0]:
        name = next(iter(given))
        raise BadRequest(f"{' or '.join(given)} must be given, as text", code="missing_parameter", param=name)
    return said[0]


def _whence(call: Call) -> tuple[str | None, UUID | None]:
    return call.actor.address, call.actor.request_id
