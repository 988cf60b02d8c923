"""Counts that were reset: what had been used by then, which a limit counts no more. Pure.

The records say for which limits; seeds take from their sums what the last reset that concerns a count has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from parallama.db.pool import Row as Record
from parallama.limits import Counter

Row = Record | Mapping[str, Any]
"""`at`, `key_id`, `gateway`, `model`, `requests`, `prompt_tokens`, `output_tokens`; a single one has an `id` too."""
_AMOUNTS = ("requests", "prompt_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Reset:
    """Of the counts of a user or key."""

    subject: UUID
    gateway: str | None
    """Of the limits that are concerned; None: any."""
    model: str | None
    """As `gateway`."""
    used: Mapping[object, Row]
    """By place."""
    rows: frozenset[UUID]
    """Of single rows."""

    def concerns(self, counter: Counter) -> bool:
        """Whether it counts from then on."""
        scope = counter.scope
        same = self.gateway in (None, scope.gateway) and self.model in (None, scope.model)
        return same and self.subject == counter.subject

    def left(self, rows: Iterable[Row]) -> Iterator[Row]:
        """What of the rows has been used since."""
        for row in rows:
            if (id := row.get("id")) is None:
                yield _without(row, self.used.get(_place(row["at"].timestamp(), row)))
            elif id not in self.rows:
                yield row


def parse(rows: Iterable[Row]) -> Sequence[Reset]:
    """From records, in their order."""
    return [
        Reset(
            subject=row["subject"],
            gateway=row["gateway"],
            model=row["model"],
            used={_place(one["at"], one): one for one in orjson.loads(row["used"])},
            rows=frozenset(row["rows"]),
        )
        for row in rows
    ]


def since(resets: Sequence[Reset], counter: Counter, rows: Sequence[Row]) -> Iterable[Row]:
    """What of the rows the counter counts, if the resets are in the order in which they were made."""
    last = next((one for one in reversed(resets) if one.concerns(counter)), None)
    return rows if last is None else last.left(rows)


def _place(second: float, row: Row) -> object:
    return second, str(row["key_id"]), row["gateway"], row["model"]


def _without(row: Row, seen: Row | None) -> Row:
    return row if seen is None else {**row, **{name: max(0, row[name] - seen[name]) for name in _AMOUNTS}}
