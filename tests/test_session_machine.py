"""Sessions under any order of events: no token that should be dead is alive, and none that should live is dead.

A state machine over a real database with a moving clock. Its model is the promise: which refresh token of a session is
the newest, since when the others are used, and what ends a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from e2e.databases import fresh_database
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from running import PATIENT

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.errors import NotAuthenticated
from parallama.identity import keys
from parallama.identity.actor import SERVER
from parallama.identity.sessions import Sessions
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import Users

AUTH = AuthSettings(refresh_token_s=300, access_token_s=60, token_keep_s=100)
_STATE = """
SELECT s.generation, s.revoked_at IS NULL AND s.expires_at > $2 AND u.active AS alive
FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1
"""
_LIVE = """
SELECT t.digest FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
WHERE t.rotated_at IS NULL AND s.revoked_at IS NULL AND s.expires_at > $2 AND u.active AND u.id = $1
"""

T = TypeVar("T")


@dataclass
class Session:
    """What should be true of one."""

    id: UUID
    expires_at: datetime
    newest: str
    generation: int = 0
    ended: bool = False
    used: dict[str, datetime] = field(default_factory=dict)
    access: list[tuple[str, int, datetime]] = field(default_factory=list)
    """Tokens, their generation, and when they expire."""


class Machine(RuleBasedStateMachine):
    """One user, logged in any number of times."""

    runner: asyncio.Runner
    database: Database
    tokens = Bundle("tokens")
    """Refresh tokens, alive or not, with their sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.time = datetime(2030, 1, 1, tzinfo=UTC)
        self.users = Users(self.database, now=self.now)
        self.sessions = Sessions(self.database, SERVER, AUTH, self.now)
        self.access = AccessTokens("k" * 20 + "0123456789ab", None, AUTH.access_token_s, self.now)
        self.known: list[Session] = []
        self.user = self.run(self.users.create(f"u{uuid4().hex}"))

    def now(self) -> datetime:
        return self.time

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def alive(self, session: Session) -> bool:
        return not session.ended and session.expires_at > self.time

    def rotated(self, session: Session, token: str) -> str | None:
        """The next token, or None with what the refusal must have said."""
        good = self.alive(session) and token == session.newest
        recent = token in session.used and self.time - session.used[token] <= timedelta(seconds=10)
        expected = "already_rotated" if self.alive(session) and recent else "not_authenticated"
        try:
            rotated = self.run(self.sessions.rotate(token))
        except NotAuthenticated as refusal:
            assert not good
            assert refusal.code == expected  # noqa: PT017 - both ways are right
            session.ended |= token in session.used and not recent
            return None
        assert good
        assert rotated.generation == session.generation
        return self.moved_on(session, token, rotated.refresh_token)

    def moved_on(self, session: Session, token: str, newest: str) -> str:
        session.used[token], session.newest = self.time, newest
        self.issue(session)
        return newest

    def issue(self, session: Session) -> None:
        token = self.access.issue(self.user.id, session.id, session.generation)
        ends_at = self.time.replace(microsecond=0) + timedelta(seconds=AUTH.access_token_s)
        session.access.append((token, session.generation, ends_at))

    def end_all(self) -> int:
        ended = [session for session in self.known if self.alive(session)]
        for session in self.known:
            session.ended = True
        return len(ended)

    @rule(target=tokens)
    def log_in(self) -> Any:
        opened = self.run(self.sessions.open(self.user.id, None))
        session = Session(opened.session_id, self.time + timedelta(seconds=300), opened.refresh_token)
        self.known.append(session)
        self.issue(session)
        return session, opened.refresh_token

    @rule(target=tokens, which=tokens)
    def use(self, which: Any) -> Any:
        session, token = which
        return session, self.rotated(session, token) or token

    @rule(target=tokens, which=tokens)
    def use_twice_at_once(self, which: Any) -> Any:
        session, token = which
        if not (self.alive(session) and token == session.newest):
            return which

        async def both() -> list[Any]:
            uses = (self.sessions.rotate(token) for _ in range(2))
            return await asyncio.gather(*uses, return_exceptions=True)

        won, lost = sorted(self.run(both()), key=lambda use: isinstance(use, BaseException))
        assert lost.code == "already_rotated"
        return session, self.moved_on(session, token, won.refresh_token)

    @rule(which=consumes(tokens))
    def log_out(self, which: Any) -> None:
        session, token = which
        self.run(self.sessions.revoke_by_token(token))
        session.ended |= token == session.newest or token in session.used

    @rule()
    def rotate_tokens(self) -> None:
        self.run(self.sessions.rotate_tokens(self.user.username))
        for session in filter(self.alive, self.known):
            session.generation += 1

    @rule(how=st.sampled_from(["revoke", "deactivate", "password"]))
    def end_everything(self, how: str) -> None:
        name = self.user.username
        if how == "revoke":
            assert self.run(self.sessions.revoke_all(name)) == self.end_all()
        elif how == "password":
            self.run(self.users.set_password(name, "$another"))
        else:
            self.run(self.users.update(name, active=False))
            with pytest.raises(NotAuthenticated):
                self.run(self.sessions.open(self.user.id, None))
            self.run(self.users.update(name, active=True))
        self.end_all()

    @rule(which=tokens, seconds=st.sampled_from([9.999, 10, 10.001, 60]))
    def replay(self, which: Any, seconds: float) -> None:
        """Use the newest, and the same again a while later."""
        session, token = which[0], which[0].newest
        self.rotated(session, token)
        self.time_passes(seconds)
        self.rotated(session, token)

    @rule(seconds=st.sampled_from([1, 10, 10.001, 60, 300]))
    def time_passes(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    @rule()
    def clean_up(self) -> None:
        self.run(self.sessions.cleanup())

    @invariant()
    def only_the_newest_tokens_of_live_sessions_are_alive(self) -> None:
        live, states = self.run(self.read())
        assert live == {keys.digest(session.newest) for session in self.known if self.alive(session)}
        for session in self.known:
            for token, generation, ends_at in session.access:
                good = self.alive(session) and generation == session.generation and ends_at > self.time
                assert self.admitted(token, states[session.id]) == good

    async def read(self) -> tuple[set[bytes], dict[UUID, Any]]:
        async with self.database.connection() as one:
            live = {row["digest"] for row in await one.fetch(_LIVE, self.user.id, self.time)}
            return live, {s.id: await one.fetchrow(_STATE, s.id, self.time) for s in self.known}

    def admitted(self, token: str, state: Any) -> bool:
        """As whoever reads an access token must judge it."""
        try:
            claims = self.access.read(token)
        except NotAuthenticated:
            return False
        return state is not None and state["alive"] and claims.generation == state["generation"]

    def teardown(self) -> None:
        """Whatever has happened, the tokens that should be dead are refused for good."""
        for session in self.known:
            for token in [*session.used, session.newest]:
                self.rotated(session, token)


@pytest.fixture
def machine(postgres: str) -> Iterator[type[Machine]]:
    async def enter(stack: AsyncExitStack) -> Database:
        url = await stack.enter_async_context(fresh_database(postgres))
        return await stack.enter_async_context(Database(url, PATIENT).running())

    # a loop of its own: Runner would otherwise take away the one that pytest-asyncio has set
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        stack = AsyncExitStack()
        Machine.runner, Machine.database = runner, runner.run(enter(stack))
        yield Machine
        runner.run(stack.aclose())


def test_no_order_of_events_leaves_a_dead_token_alive(machine: type[Machine]) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=slow),
    )
