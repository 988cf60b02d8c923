"""What a journal says: the entries of an exchange's life, as bytes and back. Pure.

ADMIT: it begins, and is a row if nothing more is heard of it; the node that this names was asked. DISPATCH: one was
asked later. PROGRESS: how far several have come. FINAL: its row. COLUMNS stands first in a file and names the columns
of the rows in it, so that a later version of the program can read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson

from parallama.exchange import Outcome, UsageRecord

COLUMNS, ADMIT, DISPATCH, PROGRESS, FINAL = b"C", b"A", b"D", b"P", b"F"
"""The first byte of an entry; JSON follows."""

_FIELDS = UsageRecord._fields
_IDS = tuple(map(_FIELDS.index, ("id", "user_id", "key_id")))
_CREATED_AT, _CHARGED_AT = map(_FIELDS.index, ("created_at", "charged_at"))
ABORTED = "aborted"
"""The error of an exchange whose process was killed."""


class Reached(NamedTuple):
    """How far an exchange has come."""

    id: UUID
    output_tokens: int | None
    response_bytes: int
    ttft_ms: float | None
    duration_ms: float
    prompt_tokens: int | None = None


class Sent(NamedTuple):
    """To which node an exchange is sent."""

    id: UUID
    node: str | None
    model: str | None
    charged_at: float | None
    """When its limits were charged, in Unix seconds, if it has some."""
    prompt_tokens: int | None
    """That its prompt probably has, if it has limits."""


class Begun(Protocol):
    """An exchange that has not ended."""

    def row(self) -> UsageRecord:
        """As it stands by now, with the prompt that it probably has."""

    def sent(self) -> Sent:
        """To which node it goes now."""

    def reached(self) -> Reached:
        """How far it has come by now."""


def columns() -> bytes:
    """The entry that names the columns of UsageRecord."""
    return COLUMNS + orjson.dumps(UsageRecord._fields)


def progress(reached: Iterable[Reached]) -> bytes:
    """How far these exchanges have come."""
    return PROGRESS + orjson.dumps([tuple(one) for one in reached])


def line(row: UsageRecord | Sent, kind: bytes = b"") -> bytes:
    """As JSON: its values in an array, without line breaks; `kind` stands before it."""
    try:
        return kind + orjson.dumps(tuple(row))
    except orjson.JSONEncodeError:  # half of a pair, which a model's name may bring
        return kind + orjson.dumps([_text(value) if isinstance(value, str) else value for value in row])


admit: Callable[[UsageRecord], bytes] = partial(line, kind=ADMIT)
"""The row as it stands when the exchange begins, or when it is sent to its node."""
dispatch: Callable[[Sent], bytes] = partial(line, kind=DISPATCH)
"""The exchange is sent to a node."""
final: Callable[[UsageRecord], bytes] = partial(line, kind=FINAL)
"""The exchange has ended so."""
row_of = itemgetter(slice(1, None))
"""The row of a FINAL, as `line` has it."""


class Reader:
    """Reads the entries of one journal in their order. Raises ValueError for an entry that is none."""

    def __init__(self) -> None:
        self._columns: Sequence[str] = _FIELDS
        self._open: dict[UUID, UsageRecord] = {}

    def read(self, entry: bytes) -> UsageRecord | None:
        """The row of an exchange that has ended; None for any other entry."""
        try:
            return self._read(entry[:1], orjson.loads(entry[1:]))
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError("an entry that is none") from error

    def _read(self, kind: bytes, document: Any) -> UsageRecord | None:
        if kind == FINAL:
            row = self._row(document)
            self._open.pop(row.id, None)
            return row
        if kind == ADMIT:
            row = self._row(document)
            self._open.setdefault(row.id, row)
        elif kind == DISPATCH:
            # an older version says less, a newer one may say more
            id, node, model, at, tokens = [*document, None, None][:5]
            self._change(UUID(id), node=node, model=model, charged_at=_charged(at), prompt_tokens=tokens)
        elif kind == PROGRESS:
            for id, *reached in document:
                self._change(UUID(id), **dict(zip(Reached._fields[1:], reached, strict=False)))
        elif kind == COLUMNS:
            self._columns = _FIELDS if tuple(document) == _FIELDS else document
        else:
            raise ValueError("an entry of an unknown kind")
        return None

    def aborted(self) -> Iterator[UsageRecord]:
        """The rows of the exchanges that never ended: the process did."""
        for row in self._open.values():
            yield _aborted(row)

    def _change(self, id: UUID, prompt_tokens: int | None = None, **facts: Any) -> None:
        if (row := self._open.get(id)) is not None:
            known = row.prompt_tokens if prompt_tokens is None else prompt_tokens
            self._open[id] = row._replace(prompt_tokens=known, **facts)

    def _row(self, values: list[Any]) -> UsageRecord:
        """The row with these values, as JSON has them; columns that this version does not know are left out."""
        if self._columns is not _FIELDS:
            found = dict(zip(self._columns, values, strict=True))
            values = [found.get(name) for name in _FIELDS]
        for at in _IDS:
            values[at] = values[at] and UUID(values[at])
        values[_CREATED_AT] = _moment(values[_CREATED_AT])
        values[_CHARGED_AT] = _charged(values[_CHARGED_AT])
        return UsageRecord._make(values)


def _charged(value: Any) -> float | None:
    return None if value is None else _moment(value)


def _moment(value: Any) -> float:
    """Earlier versions wrote ISO 8601."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _aborted(row: UsageRecord) -> UsageRecord:
    """Nothing was used when no node was asked; else the prompt as it was estimated, and what had come of the answer."""
    counts: dict[str, Any] = {"prompt_tokens": None, "output_tokens": None} if row.node is None else {}
    row = row._replace(status=500, outcome=Outcome.FAILED.value, error=ABORTED, **counts)
    return row._replace(estimated=row.prompt_tokens is not None or row.output_tokens is not None)
