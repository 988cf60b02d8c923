"""Whatever is done to roles and assignments while time passes, users hold what a simple model says, at every moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from e2e.databases import fresh_database
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from running import PATIENT

from parallama.db.pool import Database
from parallama.errors import ApiError
from parallama.identity.assignments import Assignments
from parallama.identity.grants import held, parse
from parallama.identity.roles import Roles
from parallama.identity.users import Users

TICK = timedelta(microseconds=1)
USERS = st.sampled_from(["ann", "bob"])
ROLES = st.sampled_from(["r0", "r1", "r2"])
PARENTS = st.none() | ROLES
PERMISSIONS = st.sets(st.sampled_from(["use_ollama", "use_openai", "view_metrics"]))
SECONDS = st.integers(1, 3)
TURN = st.integers(0, 5)


@dataclass
class Assignment:
    """One that the model knows of."""

    id: UUID
    user: str
    role: str
    main: bool = False
    expires_at: datetime | None = None
    ended: bool = False

    def live(self, now: datetime) -> bool:
        return not self.ended and (self.expires_at is None or now < self.expires_at)


@dataclass
class Model:
    """What is so, without a database."""

    now: datetime = datetime(2031, 1, 1, tzinfo=UTC)
    parents: dict[str, str | None] = field(default_factory=dict)
    permissions: dict[str, set[str]] = field(default_factory=dict)
    assignments: list[Assignment] = field(default_factory=list)
    inactive: set[str] = field(default_factory=set)

    def above(self, role: str | None) -> Iterator[str]:
        """The role itself, then those above it."""
        while role is not None:
            yield role
            role = self.parents[role]

    def has(self, user: str, role: str) -> Assignment | None:
        return next((one for one in self.live(self.now) if (one.user, one.role) == (user, role)), None)

    def live(self, now: datetime) -> list[Assignment]:
        return [one for one in self.assignments if one.live(now)]

    def held(self, user: str, now: datetime) -> tuple[set[str], set[str]]:
        """The roles and the permissions of a user at a moment."""
        if user in self.inactive:
            return set(), set()
        roles = {role for one in self.live(now) if one.user == user for role in self.above(one.role)}
        return roles, {permission for role in roles for permission in self.permissions[role]}

    def held_roles(self) -> set[str]:
        return {one.role for one in self.live(self.now)} | {parent for parent in self.parents.values() if parent}


class Histories(RuleBasedStateMachine):
    """Each rule does the same to the database and to the model, and both must refuse the same."""

    runner: ClassVar[asyncio.Runner]
    database: ClassVar[Database]

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.assignments = Assignments(self.database, now=lambda: self.model.now)
        self.roles = Roles(self.database, now=lambda: self.model.now)
        self.users = Users(self.database, now=lambda: self.model.now)
        self.runner.run(self._clean())
        for name in ("r0", "r1", "r2"):
            self.make_role(name, {f"use_{'ollama' if name == 'r0' else 'openai'}"}, None)
        for user in ("ann", "bob"):
            self.runner.run(self.users.create(user, role="r0"))
            self.know_main(user, "r0")

    async def _clean(self) -> None:
        async with self.database.connection() as one:
            await one.execute("DELETE FROM users; DELETE FROM roles WHERE NOT seeded")

    def outcome(self, change: Coroutine[Any, Any, Any]) -> Any:
        """What the change gives, or the name of the error that refuses it."""
        try:
            return self.runner.run(change)
        except ApiError as error:
            return type(error).__name__

    def know_main(self, user: str, role: str) -> None:
        [main] = [one for one in self.runner.run(self.assignments.list(user)) if one.main]
        self.model.assignments.append(Assignment(main.id, user, role, main=True))

    def know(self, turn: int) -> Assignment:
        return self.model.assignments[turn % len(self.model.assignments)]

    def moment(self, seconds: int | None) -> datetime | None:
        return None if seconds is None else self.model.now + timedelta(seconds=seconds)

    @rule(role=ROLES, permissions=PERMISSIONS, parent=PARENTS)
    def make_role(self, role: str, permissions: set[str], parent: str | None) -> None:
        made = self.outcome(self.roles.create(role, permissions=permissions, parent=parent))
        if parent is not None and parent not in self.model.parents:
            assert made == "Invalid"
        elif role in self.model.parents:
            assert made == "Conflict"
        else:
            assert made.permissions == sorted(permissions)
            self.model.parents[role], self.model.permissions[role] = parent, permissions

    @rule(role=ROLES, parent=PARENTS)
    def put_below(self, role: str, parent: str | None) -> None:
        put = self.outcome(self.roles.update(role, changes={"parent": parent}))
        if role not in self.model.parents:
            assert put == "NotFound"
        elif parent is not None and parent not in self.model.parents:
            assert put == "Invalid"
        elif role in self.model.above(parent):
            assert put == "Conflict"
        else:
            assert put.parent == parent
            self.model.parents[role] = parent

    @rule(role=ROLES, permissions=PERMISSIONS)
    def permit(self, role: str, permissions: set[str]) -> None:
        if self.outcome(self.roles.update(role, changes={"permissions": sorted(permissions)})) != "NotFound":
            self.model.permissions[role] = permissions
        else:
            assert role not in self.model.parents

    @rule(role=ROLES, cascade=st.booleans())
    def delete_role(self, role: str, cascade: bool) -> None:
        deleted = self.outcome(self.roles.delete(role, cascade=cascade))
        if role not in self.model.parents:
            assert deleted == "NotFound"
        elif not cascade and role in self.model.held_roles():
            assert deleted == "Conflict"
        else:
            assert deleted is None
            for one in self.model.live(self.model.now):
                one.ended |= one.role == role
            del self.model.parents[role], self.model.permissions[role]
            self.model.parents = {low: None if up == role else up for low, up in self.model.parents.items()}

    @rule(user=USERS, role=ROLES, seconds=st.none() | SECONDS)
    def assign(self, user: str, role: str, seconds: int | None) -> None:
        expires_at = self.moment(seconds)
        made = self.outcome(self.assignments.assign(user, role, expires_at=expires_at))
        if role not in self.model.parents:
            assert made == "Invalid"
        elif self.model.has(user, role):
            assert made == "Conflict"
        else:
            assert made.state(self.model.now) == "active"
            self.model.assignments.append(Assignment(made.id, user, role, expires_at=expires_at))

    @rule(user=USERS, role=ROLES)
    def make_main(self, user: str, role: str) -> None:
        made = self.outcome(self.users.update(user, role=role))
        if role not in self.model.parents:
            assert made == "Invalid"
            return
        mine = [one for one in self.model.live(self.model.now) if one.user == user]
        if not any(one.main and one.role == role for one in mine):
            for one in mine:
                one.ended |= one.main or one.role == role
            self.know_main(user, role)

    @rule(turn=TURN, seconds=st.none() | SECONDS)
    def change_expiry(self, turn: int, seconds: int | None) -> None:
        one, expires_at = self.know(turn), self.moment(seconds)
        changed = self.outcome(self.assignments.change(one.user, one.id, expires_at=expires_at))
        if one.main or not one.live(self.model.now):
            assert changed == "Conflict"
        else:
            one.expires_at = changed.expires_at
            assert changed.expires_at == expires_at

    @rule(turn=TURN)
    def end(self, turn: int) -> None:
        one = self.know(turn)
        ended = self.outcome(self.assignments.end(one.user, one.id))
        assert (ended == "Conflict") is not one.live(self.model.now)
        one.ended |= ended != "Conflict"

    @rule(user=USERS, role=ROLES)
    def remove(self, user: str, role: str) -> None:
        one = self.model.has(user, role)
        removed = self.outcome(self.assignments.remove(user, role))
        if one is None:
            assert removed == "NotFound"
        else:
            assert removed.id == one.id
            one.ended = True

    @rule(user=USERS, active=st.booleans())
    def activate(self, user: str, active: bool) -> None:
        assert self.outcome(self.users.update(user, active=active)).active is active
        (self.model.inactive.discard if active else self.model.inactive.add)(user)

    @precondition(lambda self: self.model.live(self.model.now))
    @rule(seconds=SECONDS)
    def time_passes(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)

    @invariant()
    def users_hold_what_the_model_says(self) -> None:
        for row in self.runner.run(self._grants()) if hasattr(self, "model") else ():
            grants = parse(row["grants"]) if row["active"] else ()
            until = held(grants, self.model.now).until
            for moment in (self.model.now, *((until - TICK, until) if until else ())):
                now = held(grants, moment)
                assert (set(now.roles), set(now.permissions)) == self.model.held(row["username"], moment)

    async def _grants(self) -> Any:
        async with self.database.connection() as one:
            return await one.fetch("SELECT username, active, grants(id) FROM users")

    @invariant()
    def roles_count_their_users(self) -> None:
        for role in self.runner.run(self.roles.list()) if hasattr(self, "model") else ():
            assert role.users == len({one.user for one in self.model.live(self.model.now) if one.role == role.name})


@pytest.fixture
def histories(postgres: str) -> Iterator[type[Histories]]:
    """The machine with a database and a loop to run in."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        opened = AsyncExitStack()

        async def start() -> Database:
            url = await opened.enter_async_context(fresh_database(postgres))
            return await opened.enter_async_context(Database(url, PATIENT).running())

        Histories.runner, Histories.database = runner, runner.run(start())
        yield Histories
        runner.run(opened.aclose())


def test_no_history_gives_a_user_what_they_should_not_hold(histories: type[Histories]) -> None:
    limits = settings(max_examples=60, stateful_step_count=20)
    run_state_machine_as_test(histories, settings=limits)
