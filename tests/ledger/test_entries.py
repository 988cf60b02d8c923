"""What a journal says is understood as it was meant, by this version and by others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest
from journals import admitted, dispatched, reached, read
from usage_rows import make_row

from parallama.exchange import UsageRecord
from parallama.ledger import entries
from parallama.ledger.entries import Reader

EVERY = make_row(
    datetime(2026, 10, 25, 0, 30, 0, 123000, UTC),
    key_id=uuid4(),
    model_asked='né "\\\n\0',
    ttft_ms=1 / 3,
    error="node_error",
    context_full=False,
    estimated=True,
    output_tokens=2**62,
    client_request_id="mine",
    end_user="somebody",
    charged_at=datetime(2026, 10, 25, 1, 0, 0, 7, UTC),
)
NONE = dict.fromkeys(
    (
        "key_id", "model_asked", "model", "node", "prompt_tokens", "output_tokens", "ttft_ms", "error", "context_full",
        "client_request_id", "end_user", "charged_at",
    )
)  # fmt: skip


def test_every_value_of_a_row_is_read_as_it_was_written() -> None:
    for row in (EVERY, EVERY._replace(**NONE)):
        (found,) = read([entries.final(row)])
        assert found == row
        assert list(map(type, found)) == list(map(type, row))


def test_half_of_a_surrogate_pair_costs_no_row() -> None:
    (found,) = read([entries.final(make_row(model_asked="a\ud800c", model="ok"))])
    assert (found.model_asked, found.model) == ("a?c", "ok")


def as_another_version(row: UsageRecord, columns: dict[str, Any]) -> list[bytes]:
    values = {**row._asdict(), **columns}
    kept = {name: value for name, value in values.items() if value is not ...}
    return [entries.COLUMNS + orjson.dumps(list(kept)), entries.FINAL + orjson.dumps(list(kept.values()))]


def test_columns_that_an_older_version_did_not_have_are_empty() -> None:
    (found,) = read(as_another_version(EVERY, {"end_user": ..., "context_full": ...}))
    assert found == EVERY._replace(end_user=None, context_full=None)


OF_AN_EARLIER_VERSION = (
    b'C["id","created_at","user_id","username","key_id","gateway","operation","model_asked","model","node",'
    b'"prompt_tokens","output_tokens","estimated","ttft_ms","duration_ms","status","outcome","error","streamed",'
    b'"request_bytes","response_bytes","context_full","client_request_id","end_user"]',
    b'A["019f8b2e-7c11-7d00-8000-000000000001","2026-07-22T18:00:00.145000+00:00",'
    b'"00000000-0000-0000-0000-000000000001","alice",null,"ollama","chat","llama3.2",null,null,null,null,false,null,'
    b'0.5,500,"failed",null,true,512,0,null,null,null]',
    b'D["019f8b2e-7c11-7d00-8000-000000000001","node-1","llama3.2"]',
    b'P[["019f8b2e-7c11-7d00-8000-000000000001",7,100,20.5,1000.5]]',
    b'F["019f8b2e-7c11-7d00-8000-000000000002","2026-07-22T18:00:00.145000+00:00",'
    b'"00000000-0000-0000-0000-000000000001","alice",null,"ollama","chat","llama3.2","llama3.2","node-1",26,298,false,'
    b'120.25,1500.5,200,"ok",null,true,512,4096,null,"mine","somebody"]',
)


def test_a_journal_of_the_version_before_limits_told_when_they_charged_is_read() -> None:
    ended, open_ = read(OF_AN_EARLIER_VERSION)
    assert (ended.output_tokens, ended.outcome, ended.end_user, ended.charged_at) == (298, "ok", "somebody", None)
    assert (open_.node, open_.output_tokens, open_.error, open_.charged_at) == ("node-1", 7, "aborted", None)


def test_moments_are_read_as_an_earlier_version_wrote_them() -> None:
    moments = {"created_at": "2026-10-25T00:30:00.123000+00:00", "charged_at": "2026-10-25T01:00:00.000007+00:00"}
    assert read(as_another_version(EVERY, moments)) == [EVERY]
    waiting = admitted(EVERY)._replace(charged_at=None)
    sent = entries.DISPATCH + orjson.dumps((waiting.id, "node-1", "llama3.2", moments["charged_at"], 7))
    (found,) = read([entries.admit(waiting), sent])
    assert (found.created_at, found.charged_at) == (EVERY.created_at, EVERY.charged_at)


def test_who_asked_a_node_was_charged_when_its_dispatch_says_so() -> None:
    asked, waiting = admitted(EVERY)._replace(charged_at=None), admitted(make_row())
    told = [entries.admit(asked), entries.admit(waiting)]
    told += [dispatched(asked.id, "node-1", "llama3.2", EVERY.charged_at)]
    assert [row.charged_at for row in read(told)] == [EVERY.charged_at, None]


def test_columns_that_only_a_newer_version_has_are_left_out() -> None:
    newer = as_another_version(EVERY, {"weight": 2.5})
    assert read(newer) == [EVERY]
    mixed = [entries.final(EVERY), *newer, entries.columns(), entries.final(EVERY)]
    assert read(mixed) == [EVERY] * 3


def test_more_facts_of_a_newer_version_are_left_out() -> None:
    row = admitted(EVERY)
    told = [
        entries.admit(row),
        entries.DISPATCH + orjson.dumps((row.id, "node-1", "llama3.2", None, "more")),
        entries.PROGRESS + orjson.dumps([(*reached(row, 7), "more")]),
    ]
    (found,) = read(told)
    assert (found.node, found.output_tokens) == ("node-1", 7)


@pytest.mark.parametrize(
    "entry",
    [b"X[]", b"", b"F", b"F{", b"F[1]", b"F3", b"Dnull", b"D[1]", b"P[3]", b"A" + orjson.dumps(list(range(25)))],
)
def test_an_entry_that_is_none_is_said_to_be_none(entry: bytes) -> None:
    with pytest.raises(ValueError):
        Reader().read(entry)


def test_an_exchange_that_no_node_was_asked_for_has_used_nothing() -> None:
    row = admitted(EVERY)._replace(prompt_tokens=30)
    (found,) = read([entries.admit(row), entries.progress([reached(row, 9)])])
    assert (found.status, found.outcome, found.error) == (500, "failed", "aborted")
    assert (found.prompt_tokens, found.output_tokens, found.estimated, found.node) == (None, None, False, None)
    assert (found.id, found.username, found.model_asked) == (row.id, row.username, row.model_asked)


def test_an_exchange_that_a_node_was_asked_for_has_used_what_it_had_reached() -> None:
    row, other = admitted(EVERY)._replace(prompt_tokens=30), admitted(make_row())
    told = [entries.admit(row), entries.admit(other), dispatched(row.id, "node-1", "llama3.2")]
    told += [entries.progress([reached(row, 9), reached(other)]), entries.progress([reached(row, 12)])]
    mine, others = read([*told, dispatched(other.id, "node-2", None)])
    assert (mine.prompt_tokens, mine.output_tokens, mine.estimated) == (30, 12, True)
    assert (mine.node, mine.model, mine.response_bytes) == ("node-1", "llama3.2", 100)
    assert (mine.ttft_ms, mine.duration_ms) == (20.5, 1000.5)
    assert (others.output_tokens, others.estimated, others.node) == (None, False, "node-2")


def test_what_has_ended_is_not_aborted() -> None:
    row = admitted(EVERY)
    told = [entries.admit(row), entries.admit(row), dispatched(row.id, "node-1", None), entries.final(EVERY)]
    assert read([*told, entries.progress([reached(row, 9)])]) == [EVERY]


def test_what_a_later_segment_repeats_takes_nothing_from_what_is_known() -> None:
    row = admitted(EVERY)
    known = [entries.admit(row), dispatched(row.id, "node-1", None)]
    (found,) = read([*known, entries.progress([reached(row, 9)]), *known])
    assert found.output_tokens == 9
