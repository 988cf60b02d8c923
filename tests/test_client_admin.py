"""`client.admin` has the operations of the API, each as the table of them says. Without a server."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest

from parallama.admin.access import AccessChange
from parallama.admin.api import PREFIX, Operation, Page, Shape, validated
from parallama.admin.gateway_operations import gateway_operations
from parallama.admin.keys import KeyChange
from parallama.admin.keys import NewKeyOf as NewKeyShape
from parallama.admin.limits import LimitChange
from parallama.admin.resets import reset_operations
from parallama.admin.roles import RoleChange
from parallama.admin.table import operations
from parallama.admin.usage import usage_operations
from parallama.admin.users import UserChange
from parallama.client import gateways, limits, own, usage
from parallama.client import operations as client_operations
from parallama.client.admin import Admin, AsyncAdmin
from parallama.client.limits import LimitChanges
from parallama.client.operations import AccessChanges, KeyChanges, NewKeyOf, RoleChanges, UserChanges
from parallama.client.session import Answered, Request, Steps
from parallama.client.uses import Use
from parallama.config.settings import AuthSettings, DatabaseSettings
from parallama.db.pool import Database
from parallama.errors import Invalid
from parallama.gateway.families import Families
from parallama.identity.logins import Logins
from parallama.identity.passwords import Passwords
from parallama.identity.tokens import AccessTokens

PAGE = Path(__file__).parent.parent / "docs" / "client.md"
ID = UUID("0194d6f0-0000-7000-8000-000000000001")
WHEN = datetime(2027, 1, 31, 12, tzinfo=UTC)
ODD = "a/b%2F?c#d é"
ONE_OF = {"expires_in_days"}
"""What cannot be given beside something else."""

NOT_JSON = {"format"}
"""What asks for another answer than one that is read into records."""

SAMPLES: dict[str, Any] = {
    **dict.fromkeys(["name", "role", "gateway", "username", "description", "header_name", "parent"], ODD),
    **dict.fromkeys(["actor", "action", "target", "password", "current", "new", "user", "model", "node"], ODD),
    **dict.fromkeys(["key_id", "session_id", "assignment_id", "limit_id", "key"], ID),
    **dict.fromkeys(["expires_at", "since", "until"], WHEN),
    **dict.fromkeys(["admin", "active", "enabled", "ended", "cascade", "allow_unauthenticated"], True),
    **dict.fromkeys(["models", "gateways", "networks"], ("10.0.0.0/8",)),
    **dict.fromkeys(["permissions", "add_permissions", "remove_permissions"], ("view_metrics",)),
    **{"meter": "requests", "period": "day", "amount": 3, "admission": "estimate", "outage": "open"},
    **{"limits": [{"meter": "requests", "period": "day", "amount": None}], "max_output_tokens": 9},
    "group_by": ("user", "day"),
    "priority_ceiling": "low",
    "expires_in_days": 3,
    "grace_s": 60,
    "version": 7,
    "limit": 5,
    "changes": {"enabled": False, "default_model": None, "endpoints": {"x": True}, "model_mappings": {}},
}
"""An argument for every parameter, by its name."""


def table() -> dict[str, Operation]:
    """The operations of the administration and of oneself, by name."""
    database, auth, passwords = Database("postgresql://nowhere", DatabaseSettings()), AuthSettings(), Passwords()
    logins = Logins(database, auth, passwords, AccessTokens("s" * 64, None, 60))
    more = [
        *gateway_operations(database, Families([], {}), lambda _: {}),
        *usage_operations(database, "UTC", {}),
        *reset_operations(database, lambda: asyncio.sleep(0)),
    ]
    every = operations(database, auth, (), passwords, logins, more)
    return {one.name: one for one in every if re.match(rf"({PREFIX}|/me)(/|$)", one.path)}


TABLE = table()
USES: dict[str, Callable[..., Use[Any]]] = {
    name: function
    for module in (client_operations, gateways, limits, own, usage)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}


def methods(admin: type) -> set[str]:
    return {name for name in vars(admin) if not name.startswith("_")}


@pytest.mark.parametrize("admin", [Admin, AsyncAdmin])
def test_every_operation_is_a_method_and_nothing_else(admin: type) -> None:
    assert methods(admin) == TABLE.keys() == USES.keys()
    for name in TABLE:
        assert inspect.unwrap(getattr(admin, name)) is USES[name]


def takes(use: Callable[..., Any]) -> set[str]:
    """The names of its parameters and keywords."""
    parameters = inspect.signature(use).parameters.values()
    keywords = keywords_of(use)
    return {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} | (
        set() if keywords is None else get_type_hints(keywords).keys()
    )


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_page_names_every_operation_with_what_it_takes(name: str) -> None:
    rows = "\n".join(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|"))
    found = re.search(rf"`{name}\(([^`]*)\)`", rows)
    assert found is not None
    named = {one.strip(" =") for one in found[1].split(",") if one}
    assert named - {"..."} <= takes(USES[name])
    assert "..." in named or takes(USES[name]) - {"version", "limit"} == named


def arguments(use: Callable[..., Any], *, required: bool = False) -> dict[str, Any]:
    """A sample for every parameter and keyword, or only for those that must be given."""
    parameters = inspect.signature(use).parameters.values()
    names = [
        one.name for one in parameters if one.kind is not one.VAR_KEYWORD and (one.default is one.empty or not required)
    ]
    if not required and (keywords := keywords_of(use)) is not None:
        names += get_type_hints(keywords).keys() - ONE_OF
    return {name: SAMPLES[name] for name in names}


def keywords_of(use: Callable[..., Any]) -> Any:
    """The TypedDict of the `**keywords`; None: there are none."""
    hints = get_type_hints(use)
    found = [get_args(hint)[0] for name, hint in hints.items() if name != "return" and get_args(hint)]
    return next(filter(is_typeddict, found), None)


class Recorder:
    """Answers requests as a server that has nothing."""

    def __init__(self, operation: Operation) -> None:
        self.requests: list[Request] = []
        self._operation = operation

    def ask(self, request: Request) -> Steps:
        self.requests.append(request)
        if not is_list(self._operation.answer):
            raise EOFError
        cursor = "more" if len(self.requests) == 1 else None
        return Answered(200, {}, json.dumps({"items": [], "next_cursor": cursor}).encode(), None)
        yield request


def is_list(answer: Any) -> bool:
    return get_origin(answer) is Page


def sent(name: str, *, required: bool = False) -> list[Request]:
    """What the operation sends."""
    recorder = Recorder(TABLE[name])
    steps: Generator[Any, Any, Any] = USES[name](**arguments(USES[name], required=required))(recorder.ask)
    with pytest.raises((EOFError, StopIteration)):
        next(steps)
    return recorder.requests


@pytest.mark.parametrize("required", [False, True], ids=["all", "required"])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_what_is_sent_is_what_the_operation_takes(name: str, required: bool) -> None:
    operation, requests = TABLE[name], sent(name, required=required)
    assert len(requests) == (2 if is_list(operation.answer) else 1)
    for request in requests:
        url = urlsplit(request.path)
        assert (request.method, url.fragment) == (operation.method, "")
        assert request.changes == (operation.method != "GET")
        check_path(operation, url.path)
        query = {key: value for key, [value] in parse_qs(url.query, strict_parsing=bool(url.query)).items()}
        check_shape(operation.query, query)
        check_shape(operation.body, json.loads(json.dumps(request.body or {})))
        assert ("If-Match" in request.headers) == (operation.versioned and not required)


def check_path(operation: Operation, path: str) -> None:
    found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", operation.path), path)
    assert found is not None
    for variable, text in found.groupdict().items():
        assert unquote(text) == (str(ID) if variable == "id" else ODD)


def check_shape(shape: type[Shape] | None, given: dict[str, Any]) -> None:
    if shape is None:
        assert given == {}
    else:
        validated(shape, given)


@pytest.mark.parametrize("name", sorted(name for name, one in TABLE.items() if one.query or one.body))
def test_everything_that_an_operation_takes_can_be_sent(name: str) -> None:
    operation, requests = TABLE[name], sent(name)
    queries = set().union(*(parse_qs(urlsplit(one.path).query) for one in requests))
    bodies = set().union(*(one.body or {} for one in requests))
    if operation.body and (keywords := keywords_of(USES[name])):
        bodies |= get_type_hints(keywords).keys()
    known = operation.query.model_fields if operation.query else {}
    assert queries == {field.alias or name for name, field in known.items()} - NOT_JSON
    assert bodies == (operation.body.model_fields.keys() if operation.body else set())


@pytest.mark.parametrize("name", sorted(TABLE))
def test_answers_are_read_into_what_the_server_wrote_them_from(name: str) -> None:
    """`Use[T]` is `Callable[[Ask], Generator[Step, Any, T]]`."""
    answer = TABLE[name].answer
    given = get_args(get_args(get_type_hints(USES[name])["return"])[1])[2]
    if is_list(answer):
        assert (get_origin(given), get_args(given)) == (list, get_args(answer))
    else:
        assert given == (type(None) if answer is None else answer)


@pytest.mark.parametrize("name", sorted(name for name, one in TABLE.items() if one.versioned))
def test_a_version_is_sent_as_the_server_gives_it(name: str) -> None:
    assert sent(name)[0].headers["If-Match"] == '"7"'


@pytest.mark.parametrize(
    ("keywords", "shape"),
    [
        (UserChanges, UserChange),
        (NewKeyOf, NewKeyShape),
        (KeyChanges, KeyChange),
        (RoleChanges, RoleChange),
        (AccessChanges, AccessChange),
        (LimitChanges, LimitChange),
    ],
)
def test_none_can_be_given_exactly_where_the_server_takes_it(keywords: type, shape: type[Shape]) -> None:
    def takes_none(field: str) -> bool:
        try:
            validated(shape, {field: None})
        except Invalid:
            return False
        return True

    hints = get_type_hints(keywords)
    found = {field: type(None) in get_args(hint) for field, hint in hints.items()} | {"expires_in_days": True}
    assert found == {field: takes_none(field) for field in shape.model_fields} | {"expires_in_days": True}
