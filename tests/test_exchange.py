"""The id generator, the caller and the record."""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from parallama.exchange import (
    Caller,
    Exchange,
    IdGenerator,
    KeyPolicy,
    Outcome,
    Priority,
    Usage,
    created_at,
)


def test_ids_are_uuid7_and_rise_strictly() -> None:
    ids = IdGenerator()
    made = [ids() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert {(i.version, i.variant) for i in made} == {(7, "specified in RFC 4122")}


def test_ids_rise_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = IdGenerator()
    before = ids()
    back = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: back)
    assert before < ids() < ids()


def test_an_id_carries_its_moment() -> None:
    assert abs(created_at(IdGenerator()()) - time.time()) < 60


def test_a_caller_may_what_is_permitted_and_an_admin_everything() -> None:
    known: dict[str, Any] = {"user_id": uuid4(), "username": "alice", "key_id": None}
    assert Caller(**known, admin=True).may("manage_models")
    one = Caller(**known, admin=False, permissions=frozenset({"use_ollama"}))
    assert [one.may(name) for name in ("use_ollama", "use_openai", "manage_models")] == [True, False, False]
    every = Caller(**known, admin=False, permissions=frozenset({"use_*"}))
    assert [every.may(name) for name in ("use_ollama", "use_openai", "manage_models")] == [True, True, False]


def test_a_login_and_a_key_without_limits_and_end_are_all_that_their_user_is() -> None:
    known: dict[str, Any] = {"user_id": uuid4(), "username": "alice", "admin": True}
    assert Caller(**known, key_id=None, session_id=uuid4()).full
    assert Caller(**known, key_id=uuid4()).full
    assert not Caller(**known, key_id=None).full
    assert not Caller(**known, key_id=uuid4(), expires_at=datetime.now(UTC)).full
    assert not Caller(**known, key_id=uuid4(), policy=KeyPolicy(priority_ceiling=Priority.HIGH)).full


def _exchange(usage: Usage) -> Exchange:
    caller = Caller(user_id=uuid4(), username="alice", key_id=uuid4(), admin=False)
    return Exchange(
        id=IdGenerator()(), client_request_id=None, gateway="ollama", started=100.0, caller=caller, usage=usage
    )


def test_a_record_says_estimated_only_of_counts_that_are_not_the_nodes() -> None:
    assert not _exchange(Usage()).record(101.0).estimated
    assert _exchange(Usage(output_tokens=3)).record(101.0).estimated
    assert not _exchange(Usage(prompt_tokens=1, output_tokens=3, final=True)).record(101.0).estimated


def test_a_record_has_spans_in_milliseconds_and_every_column() -> None:
    exchange = _exchange(Usage())
    exchange.first_byte = 100.25
    record = exchange.record(101.5)
    assert (record.ttft_ms, record.duration_ms) == (250.0, 1500.0)
    assert isinstance(record.id, UUID)
    assert record.created_at == created_at(record.id)


def test_every_value_of_a_record_is_that_of_its_column() -> None:
    exchange = _exchange(Usage(prompt_tokens=26, output_tokens=298, final=True))
    columns = {
        **{"operation": "chat", "model_asked": "asked", "model": "served", "node": "node-1", "status": 499},
        **{"error": "code", "streamed": True, "request_bytes": 512, "response_bytes": 4096, "context_full": False},
        **{"client_request_id": "mine", "end_user": "bob", "charged_at": 1_795_323_031.259},
    }
    for name, value in columns.items():
        setattr(exchange, name, value)
    exchange.outcome = Outcome.CANCELLED
    caller = exchange.caller
    assert caller is not None
    assert exchange.record(100.5)._asdict() == {
        **{"id": exchange.id, "created_at": created_at(exchange.id), "gateway": "ollama", "outcome": "cancelled"},
        **{"user_id": caller.user_id, "username": "alice", "key_id": caller.key_id},
        **{"prompt_tokens": 26, "output_tokens": 298, "estimated": False, "ttft_ms": None, "duration_ms": 500.0},
        **columns,
    }


def test_a_prompt_that_nobody_has_counted_is_estimated() -> None:
    assert _exchange(Usage()).record(101.0, prompt_tokens=7)[10:13] == (7, None, True)
    counted = _exchange(Usage(prompt_tokens=1, output_tokens=3, final=True))
    assert counted.record(101.0, prompt_tokens=7)[10:13] == (1, 3, False)


def test_an_exchange_without_a_caller_has_no_row() -> None:
    exchange = _exchange(Usage())
    exchange.caller = None
    with pytest.raises(ValueError, match="caller"):
        exchange.record(101.0)
