"""All Operations there are: the source of the routes, and of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from parallama.admin.access import access_operations
from parallama.admin.api import Operation
from parallama.admin.assignments import assignment_operations
from parallama.admin.audit import audit_operations
from parallama.admin.auth import auth_operations
from parallama.admin.keys import key_operations
from parallama.admin.limits import limit_operations
from parallama.admin.me import me_operations
from parallama.admin.roles import role_operations
from parallama.admin.sessions import session_operations
from parallama.admin.users import user_operations
from parallama.config.settings import AuthSettings
from parallama.db.pool import Database
from parallama.identity.logins import Logins
from parallama.identity.passwords import Passwords


def operations(
    database: Database,
    auth: AuthSettings,
    forwarded: Collection[str],
    passwords: Passwords,
    logins: Logins,
    more: Iterable[Operation] = (),
) -> list[Operation]:
    """In the order of their paths. `forwarded`: the headers that nodes get to see; `more`: what there is to do with
    gateways and usage."""
    every = [
        *auth_operations(logins),
        *me_operations(database, passwords, auth),
        *administration(database, auth, forwarded, passwords),
        *more,
    ]
    return sorted(every, key=lambda operation: operation.path)


def administration(
    database: Database, auth: AuthSettings, forwarded: Collection[str], passwords: Passwords
) -> list[Operation]:
    """What an administrator does with the records."""
    return [
        *user_operations(database, passwords, auth),
        *key_operations(database),
        *session_operations(database, auth),
        *assignment_operations(database),
        *role_operations(database),
        *limit_operations(database),
        *access_operations(database, auth, forwarded),
        *audit_operations(database),
    ]
