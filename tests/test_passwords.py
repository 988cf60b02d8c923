"""Passwords: the parameters, the verdicts, the threads, and what a new one must be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from argon2 import PasswordHasher, extract_parameters

from parallama.errors import Invalid, Unavailable
from parallama.identity.passwords import MAX_PASSWORD, Passwords, Verdict, require_password

RIGHT = "four llamas in a row"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    async with Passwords(passes=1, memory_kib=8).running() as running:
        yield running


async def test_the_stored_parameters_are_the_promised_ones() -> None:
    async with Passwords().running() as passwords:
        encoded = await passwords.hash(RIGHT)
        assert await passwords.verify(encoded, RIGHT) == Verdict(ok=True, rehash=False)
    found = extract_parameters(encoded)
    assert (found.type.name, found.time_cost, found.memory_cost, found.parallelism) == ("ID", 2, 19456, 1)


async def test_only_the_right_password_fits(passwords: Passwords) -> None:
    encoded = await passwords.hash(RIGHT)
    assert RIGHT not in encoded
    assert await passwords.verify(encoded, RIGHT) == Verdict(ok=True, rehash=False)
    for wrong in ("", RIGHT[:-1], RIGHT + " ", RIGHT.upper(), RIGHT + "\0"):
        assert await passwords.verify(encoded, wrong) == Verdict(ok=False, rehash=False)


async def test_the_same_password_is_stored_differently_each_time(passwords: Passwords) -> None:
    assert await passwords.hash(RIGHT) != await passwords.hash(RIGHT)


@pytest.mark.parametrize("password", ["nul\0inside", "null\0", "pässwörd✓", "\ud800 half a pair", " " * MAX_PASSWORD])
async def test_every_character_counts(passwords: Passwords, password: str) -> None:
    encoded = await passwords.hash(password)
    assert (await passwords.verify(encoded, password)).ok
    assert not (await passwords.verify(encoded, password[:-1])).ok


async def test_nobodys_password_is_verified_at_our_cost_and_never_right(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    real = PasswordHasher.verify

    def watched(self: PasswordHasher, encoded: str, password: bytes) -> bool:
        verified.append(encoded)
        return real(self, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    async with Passwords().running() as passwords:
        assert await passwords.verify(None, RIGHT) == Verdict(ok=False, rehash=False)
    assert extract_parameters(verified[0]) == extract_parameters(PasswordHasher(2, 19456, 1).hash(""))


async def test_a_password_that_is_too_long_is_wrong(passwords: Passwords) -> None:
    encoded = await passwords.hash("x" * (MAX_PASSWORD + 1))
    assert await passwords.verify(encoded, "x" * (MAX_PASSWORD + 1)) == Verdict(ok=False, rehash=False)


@pytest.mark.parametrize("encoded", ["", "secret", "$argon2id$", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=8"])
async def test_what_is_no_hash_fits_nothing(passwords: Passwords, encoded: str) -> None:
    assert await passwords.verify(encoded, RIGHT) == Verdict(ok=False, rehash=False)


async def test_other_parameters_ask_for_a_new_hash(passwords: Passwords) -> None:
    async with Passwords(passes=2, memory_kib=8).running() as newer:
        encoded = await passwords.hash(RIGHT)
        assert await newer.verify(encoded, RIGHT) == Verdict(ok=True, rehash=True)
        assert await newer.verify(encoded, "wrong") == Verdict(ok=False, rehash=False)


async def test_two_are_verified_at_once_a_few_wait_and_the_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def slow(_self: PasswordHasher, _password: bytes) -> str:
        begun.release()
        gate.wait()
        return "hashed"

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    async with Passwords(most_waiting=3).running() as passwords, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(passwords.hash(RIGHT)) for _ in range(5)]
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)
        with pytest.raises(Unavailable, match="too many passwords") as refusal:
            await passwords.hash(RIGHT)
        assert refusal.value.retry_after_s
        assert not begun.acquire(blocking=False)
        gate.set()
    assert [task.result() for task in asked] == ["hashed"] * 5


async def test_a_caller_who_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(PasswordHasher, "hash", lambda _self, _password: str(gate.wait()))
    async with Passwords(most_waiting=0).running() as passwords, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(passwords.hash(RIGHT)) for _ in range(2)]
        await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.wait([asked[0]])
        tasks.create_task(passwords.hash(RIGHT))
        gate.set()
    assert asked[1].result() == "True"


async def test_nothing_is_verified_outside_running(passwords: Passwords) -> None:
    with pytest.raises(RuntimeError, match="not running"):
        await Passwords().hash(RIGHT)


@pytest.mark.parametrize("password", [RIGHT, "8 chars!", "Tr0ub4dor&3", "x" * 250 + "abcdef", "alice and her 8 llamas"])
def test_a_good_password_is_taken(password: str) -> None:
    require_password(password, "alice", 8)


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "8 to 256 characters"),
        ("7 chars", "8 to 256 characters"),
        ("long ones too" * 20, "8 to 256 characters"),
        ("PassWord123", "guessed"),
        ("qwertyuiop", "guessed"),
        ("aaaaaaaaaaaa", "guessed"),
        ("abcabcabcabc", "guessed"),
        ("alicealice", "user name"),
        ("ALICE-2026", "user name"),
    ],
)
def test_a_weak_password_is_refused_without_being_quoted(password: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refusal:
        require_password(password, "alice", 8)
    assert (refusal.value.status, refusal.value.param) == (422, "password")
    assert not password or password not in str(refusal.value)


def test_the_fewest_characters_are_the_settings() -> None:
    require_password("exactly-14-chr", "alice", 14)
    with pytest.raises(Invalid, match="15 to 256"):
        require_password("exactly-14-chr", "alice", 15)
