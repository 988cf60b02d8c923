"""What the canary run does with passwords, tokens and keys, and which of them are secret."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import jwt
from processes import Place, ask

from parallama.db.cluster import Cluster

SPECIAL, TOO_LONG = "canary-special-4f1b", "canary-too-long-19aa"
PASSWORDS = {
    "registered": "canary-registered-20c7-correct-horse",
    "changed": "canary-changed-88d1-battery-staple",
    "special": f'"{SPECIAL}"\\ pä%s ${{x}} \U0001f408 \'; DROP TABLE users; --',
    "by admin": "canary-by-admin-c3a9-purple-monkey",
    "by command": 'canary-by-command-60fe-dish "washer"',
    "wrong": "canary-wrong-e0d2-what-a-user-mistypes",
    "typed as the name": "canary-typed-as-the-name-7b3e",
    "too long": TOO_LONG * 20,
}
ELSEWHERE = "canary-where-nothing-is-asked-51aa"
GIVEN = ("access_token", "refresh_token", "key")
"""In which fields of its answers the gateway hands out secrets."""


@dataclass
class Visitor:
    """Asks as different users. What is handed out to them is a secret from then on; nothing else may hold one."""

    here: Place
    url: str
    key: str
    """Of an admin."""
    given: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """All that was answered, but for what was handed out."""

    def post(self, path: str, body: object, status: int = 200, key: str | None = None, **headers: str) -> Any:
        return self.ask("POST", path, status, body, key, **headers)

    def ask(
        self, method: str, path: str, status: int, body: object = None, key: str | None = None, **headers: str
    ) -> Any:
        """The JSON document of the answer, which must have that status; None: there is none."""
        answer = ask(self.url + path, body, key, method, **{"Content-Type": "application/json", **headers})
        assert answer.status == status, answer.body
        document = answer.json() if answer.body else None
        rest = dict(document) if isinstance(document, dict) else {}
        self.given += [rest.pop(name) for name in GIVEN if name in rest]
        self.told.append(f"{answer.headers}{json.dumps(rest or None, ensure_ascii=False)}")
        return document

    def command(self, *arguments: str, stdin: str = "") -> str:
        """What the command says on stdout; its stderr must hold no secret."""
        done = self.here.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        self.told.append(done.stderr)
        return done.stdout


def register(visitor: Visitor) -> str:
    """An account of one's own, `canary-self`, and what is refused as one; its access token."""
    new = {"username": "canary-self", "password": PASSWORDS["registered"]}
    refresh = visitor.post("/auth/register", new, 201)["refresh_token"]
    visitor.post("/auth/register", new, 409)
    visitor.post("/auth/register", {**new, "username": "canary-long", "password": PASSWORDS["too long"]}, 422)
    token: str = visitor.post("/auth/token", {"refresh_token": refresh})["access_token"]
    return token


def log_in(visitor: Visitor, name: str, password: str) -> tuple[str, str]:
    tokens = visitor.post("/auth/login", {"account": name, "passwd": password})
    return tokens["access_token"], tokens["refresh_token"]


def fail_to_log_in(visitor: Visitor) -> None:
    """Passwords that are wrong, or typed into another field, until it is too often."""
    wrong = {"username": "canary-locked", "password": PASSWORDS["wrong"]}
    visitor.post("/auth/login", {**wrong, "username": PASSWORDS["typed as the name"]}, 401)
    visitor.post("/auth/login", {**wrong, "username": "canary-self"}, 401)
    for status in (401,) * 5 + (429,):
        visitor.post("/auth/login", wrong, status)
    basic = base64.b64encode(f"canary-self:{PASSWORDS['registered']}".encode()).decode()
    visitor.ask("GET", "/me", 401, Authorization=f"Basic {basic}")
    visitor.ask("GET", "/me", 401, key=PASSWORDS["registered"])


def refresh(visitor: Visitor) -> None:
    """From one token to the next, used twice at once and long after; and a logout."""
    _, first = log_in(visitor, "canary-self", PASSWORDS["registered"])
    second = visitor.post("/auth/token", {"refresh_token": first})["refresh_token"]
    visitor.post("/auth/token", {"refresh_token": first}, 401)
    asyncio.run(execute(visitor.here.data, "UPDATE refresh_tokens SET rotated_at = rotated_at - interval '1 minute'"))
    visitor.post("/auth/token", {"refresh_token": first}, 401)
    visitor.post("/auth/token", {"refresh_token": second}, 401)
    token, last = log_in(visitor, "canary-self", PASSWORDS["registered"])
    visitor.post("/auth/logout", {"refresh_token": last}, 204)
    visitor.post("/auth/token", {"refresh_token": last}, 401)
    visitor.ask("GET", f"/me?access_token={token}", 401)


def change_passwords(visitor: Visitor, token: str) -> None:
    """One's own, somebody else's by the API, and by a command."""
    wrong = {"current": PASSWORDS["wrong"], "new": PASSWORDS["changed"]}
    visitor.post("/me/password", wrong, 403, token)
    visitor.post("/me/password", {**wrong, "current": PASSWORDS["registered"]}, 204, token)
    log_in(visitor, "canary-self", PASSWORDS["changed"])
    made = {"username": "canary-made", "password": PASSWORDS["special"]}
    visitor.post("/admin/v1/users", made, 201, visitor.key)
    visitor.post("/admin/v1/users", made, 409, visitor.key)
    log_in(visitor, "canary-made", PASSWORDS["special"])
    change = {"password": PASSWORDS["by admin"]}
    visitor.ask("PATCH", "/admin/v1/users/canary-made", 200, change, visitor.key)
    visitor.told.append(visitor.command("user", "passwd", "canary-made", stdin=f"{PASSWORDS['by command']}\n"))


def rotate_keys(visitor: Visitor) -> None:
    """By the API and by a command."""
    keys = "/admin/v1/users/canary-made/keys"
    made = visitor.post(keys, {"description": "canary"}, 201, visitor.key)
    visitor.post(f"{keys}/{made['id']}/rotate", {}, 200, visitor.key)
    visitor.given.append(visitor.command("key", "rotate", made["id"], "--grace", "0").strip())
    visitor.ask("GET", "/me", 401, key=made["key"])
    visitor.ask("GET", "/me", 200, key=visitor.given[-1])
    token, _ = log_in(visitor, "canary-made", PASSWORDS["by command"])
    visitor.post("/me/keys", {}, 201, token)
    visitor.told.append(json.dumps(visitor.ask("GET", keys, 200, key=visitor.key)))


def forge(visitor: Visitor, token: str) -> None:
    """Tokens that nobody was given: as good as real ones for whoever finds the flaw that they try."""
    head, payload, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    unsigned = jwt.encode(claims, None, "none")
    forged = [f"{head}.{payload}.{signature[::-1]}", unsigned, jwt.encode(claims, ELSEWHERE * 2, "HS256")]
    for one in forged:
        visitor.ask("GET", "/me", 401, key=one)
        visitor.ask("GET", "/api/tags", 401, **{"x-api-key": one})
        visitor.post("/auth/token", {"refresh_token": one}, 401)
    visitor.given += forged


def misplace(visitor: Visitor) -> None:
    """A secret where none is asked for, or as something else than text."""
    users, name = "/admin/v1/users", {"username": "canary-odd"}
    misplaced = ({**name, "secret": ELSEWHERE}, {**name, "password": [ELSEWHERE]}, {"username": f"{ELSEWHERE} !"})
    for body in misplaced:
        visitor.post(users, body, 422, visitor.key)
    visitor.post(users, f'{{"password": "{ELSEWHERE}'.encode(), 400, visitor.key)
    visitor.post(users, ELSEWHERE.encode(), 415, visitor.key, **{"Content-Type": "text/plain"})
    visitor.ask("GET", f"{users}?cursor={ELSEWHERE}", 422, key=visitor.key)
    visitor.ask("GET", f"{users}?password={ELSEWHERE}", 422, key=visitor.key)
    visitor.ask("PATCH", f"{users}/admin", 400, {}, visitor.key, **{"If-Match": ELSEWHERE})
    for field_name in ("password", "passwd", "refresh_token"):
        for path in ("/auth/login", "/auth/register", "/auth/token", "/auth/logout"):
            visitor.ask("POST", path, 400 if field_name in _FIELDS[path] else 422, {field_name: {"x": ELSEWHERE}})


_FIELDS = {
    "/auth/login": ("password", "passwd"),
    "/auth/register": ("password",),
    "/auth/token": ("refresh_token",),
    "/auth/logout": ("refresh_token",),
}


def identify(visitor: Visitor) -> None:
    """All that is done with passwords, tokens and keys."""
    token = register(visitor)
    fail_to_log_in(visitor)
    forge(visitor, token)
    refresh(visitor)
    change_passwords(visitor, log_in(visitor, "canary-self", PASSWORDS["registered"])[0])
    rotate_keys(visitor)
    misplace(visitor)


def audit(visitor: Visitor) -> str:
    """The audit trail by API and command; it must tell of what was done."""
    pages = json.dumps(visitor.ask("GET", "/admin/v1/audit?limit=1000", 200, key=visitor.key), ensure_ascii=False)
    listed = visitor.command("audit", "list", "--json")
    actions = {row["action"] for row in json.loads(listed)}
    assert {"user.create", "user.change", "key.create", "key.change", "session.create"} <= actions
    return pages + listed


def secrets_of(visitor: Visitor) -> list[str]:
    """All that must not be found: what was typed, what was handed out, and the part of it that is as good."""
    return [SPECIAL, TOO_LONG, ELSEWHERE, *PASSWORDS.values(), *visitor.given, *map(_part, visitor.given)]


def _part(given: str) -> str:
    """The signature of an access token, the random digits of a key or a refresh token."""
    return given.rpartition(".")[2] or given if "." in given else given.split("_")[1]


async def execute(state: Path, sql: str) -> None:
    connection = await asyncpg.connect(Cluster.of(state).dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
