"""Throttling: the arithmetic of waiting, and that it is no weapon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parallama.errors import OverLimit
from parallama.identity.throttle import UNKNOWN, Backoff, Limit, LoginThrottle, place_of, require_room


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> LoginThrottle:
    return LoginThrottle(clock)


def waits(begin: Callable[[], None]) -> int:
    """Seconds that a refused try is told to wait; 0: it was let in."""
    try:
        begin()
    except OverLimit as refusal:
        return refusal.retry_after_s
    return 0


def fail(throttle: LoginThrottle, account: str, address: str) -> None:
    throttle.begin(account, address)
    throttle.ended(address)


def test_a_limit_slides(clock: Clock) -> None:
    limit = Limit(2, 60, clock)
    for _ in range(2):
        assert limit.wait_s("a") == 0
        limit.count("a")
        clock.time += 10
    assert limit.wait_s("a") == 40
    assert limit.wait_s("b") == 0
    clock.time += 40
    assert limit.wait_s("a") == 0
    limit.count("a")
    assert limit.wait_s("a") == 10


def test_what_is_taken_back_does_not_count(clock: Clock) -> None:
    limit = Limit(1, 60, clock)
    limit.count("a")
    limit.take_back("a")
    limit.take_back("never counted")
    assert limit.wait_s("a") == 0


def test_a_limit_remembers_the_keys_used_last(clock: Clock) -> None:
    limit = Limit(1, 60, clock, keys=2)
    for key in ("a", "b", "a", "c"):
        limit.count(key)
    assert len(limit) == 2
    assert [limit.wait_s(key) for key in ("a", "b", "c")] == [60, 0, 60]


def test_waits_double_up_to_the_longest(clock: Clock) -> None:
    backoff = Backoff(2, 10_000, 20, clock)
    backoff.count("a")
    waited = []
    for _ in range(8):
        backoff.count("a")
        waited.append(backoff.wait_s("a"))
        clock.time += backoff.wait_s("a")
        assert backoff.wait_s("a") == 0
    assert waited == [1, 2, 4, 8, 16, 20, 20, 20]


def test_five_failures_are_free_and_then_the_waits_double(throttle: LoginThrottle, clock: Clock) -> None:
    def begin() -> None:
        throttle.begin("alice", "10.0.0.1")

    assert [waits(begin) for _ in range(5)] == [0] * 5
    for wait in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        assert waits(begin) == wait
        clock.time += wait - 0.5
        assert waits(begin) == 1
        clock.time += 0.5
        assert waits(begin) == 0


def test_case_makes_no_second_account(throttle: LoginThrottle) -> None:
    names = ("alice", "ALICE", "Alice", "aLICE", "alicE", "ALicE")
    assert [waits(lambda name=name: throttle.begin(name, "10.0.0.1")) for name in names] == [0] * 5 + [1]  # type: ignore[misc]


def test_many_tries_at_once_gain_nothing(throttle: LoginThrottle) -> None:
    begun = [waits(lambda: throttle.begin("alice", "10.0.0.1")) for _ in range(20)]
    assert begun.count(0) == 5


def test_a_success_clears_the_pair(throttle: LoginThrottle) -> None:
    for _ in range(5):
        throttle.begin("alice", "10.0.0.1")
    throttle.succeeded("ALICE", "10.0.0.1")
    assert [waits(lambda: throttle.begin("alice", "10.0.0.1")) for _ in range(6)] == [0] * 5 + [1]


def test_a_try_that_came_to_nothing_does_not_count(throttle: LoginThrottle) -> None:
    for _ in range(40):
        throttle.begin("alice", "10.0.0.1")
        throttle.undo("alice", "10.0.0.1")
    assert waits(lambda: throttle.begin("alice", "10.0.0.1")) == 0


def test_a_place_has_thirty_failures_a_minute(throttle: LoginThrottle, clock: Clock) -> None:
    for number in range(30):
        fail(throttle, f"user{number}", "10.0.0.1")
        clock.time += 1
    assert waits(lambda: throttle.begin("another", "10.0.0.1")) == 30
    assert waits(lambda: throttle.begin("another", "10.0.0.2")) == 0
    clock.time += 30
    assert waits(lambda: throttle.begin("another", "10.0.0.1")) == 0


def test_who_comes_behind_thirty_others_at_once_waits_for_those_and_no_minute(throttle: LoginThrottle) -> None:
    for number in range(30):
        throttle.begin(f"user{number}", "10.0.0.1")
    assert waits(lambda: throttle.begin("another", "10.0.0.1")) == 1
    for number in range(30):
        throttle.succeeded(f"user{number}", "10.0.0.1")
        throttle.ended("10.0.0.1")
    assert waits(lambda: throttle.begin("another", "10.0.0.1")) == 0
    assert dict(throttle._under_way) == {"10.0.0.1": 1}
    throttle.ended("10.0.0.1")
    assert dict(throttle._under_way) == {}


def test_successes_of_one_account_do_not_free_the_place_of_other_failures(throttle: LoginThrottle) -> None:
    for number in range(29):
        fail(throttle, f"user{number}", "10.0.0.1")
        fail(throttle, "mallory", "10.0.0.1")
        throttle.succeeded("mallory", "10.0.0.1")
    fail(throttle, "user29", "10.0.0.1")
    assert waits(lambda: throttle.begin("mallory", "10.0.0.1")) == 60


def attack(throttle: LoginThrottle, clock: Clock, seconds: int) -> None:
    """On alice, from a new place each second."""
    for number in range(seconds):
        waits(lambda number=number: throttle.begin("alice", f"10.1.{number // 256}.{number % 256}"))  # type: ignore[misc]
        clock.time += 1


def test_failures_from_everywhere_make_strangers_wait_a_minute_at_most(throttle: LoginThrottle, clock: Clock) -> None:
    attack(throttle, clock, 99)
    assert waits(lambda: throttle.begin("alice", "10.0.0.9")) == 0
    assert waits(lambda: throttle.begin("alice", "10.0.0.8")) == 1
    attack(throttle, clock, 300)
    assert 0 < waits(lambda: throttle.begin("alice", "10.0.0.8")) <= 60


def test_nobody_locks_the_owner_out_of_where_they_have_logged_in(throttle: LoginThrottle, clock: Clock) -> None:
    throttle.begin("alice", "10.0.0.1")
    throttle.succeeded("alice", "10.0.0.1")
    attack(throttle, clock, 400)
    assert waits(lambda: throttle.begin("alice", "10.0.0.2")) > 0
    assert waits(lambda: throttle.begin("alice", "10.0.0.1")) == 0


def test_memory_is_bounded_by_keys_and_by_their_length(clock: Clock) -> None:
    throttle = LoginThrottle(clock, keys=10)
    for number in range(100):
        throttle.begin(f"{number}" + "x" * 1000, f"10.0.0.{number}")
        throttle.succeeded(f"{number}", f"10.0.0.{number}")
    kept = (throttle._pairs, throttle._places, throttle._accounts, throttle._owners)
    assert [len(one) for one in kept] == [10, 10, 10, 10]
    assert all(len(account) <= 64 for account, _ in throttle._pairs._counted)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", UNKNOWN),
        (None, UNKNOWN),
        ("@", UNKNOWN),
    ],
)
def test_a_place_is_what_one_client_can_be(address: str | None, place: str) -> None:
    assert place_of(address) == place


def test_waits_are_told_in_whole_seconds() -> None:
    require_room(0, "tries")
    with pytest.raises(OverLimit, match="too many tries: try again in 2 s") as refusal:
        require_room(1.2, "tries")
    assert (refusal.value.status, refusal.value.code, refusal.value.retry_after_s) == (429, "over_limit", 2)
