"""What a store of counts does, whatever it keeps them in: reserve before, settle after.

A request reserves in one step all that it may cost of every limit, and settles what it has cost. Between the two it
counts with what it has reserved, so that however many come at once no limit is passed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from parallama.immutable import maker
from parallama.limits import Counter, Limit
from parallama.quotas import Quotas


class Share(NamedTuple):
    """Of one outbound in the output of a request."""

    runs: int
    """Answers that the node generates for it, each within `num_predict`; 0: it has no output."""
    output: int
    """Tokens that one run may have at most."""
    asked: int | None
    """Tokens to which the client itself holds a run; None: it does not."""
    written: bytes
    """All of the body as JSON, but its options."""


make_share = maker(Share)


class Cost(NamedTuple):
    """What a request may cost at most."""

    prompt: int
    """Tokens of all its prompts, at most."""
    prompt_estimate: int
    """Tokens that they probably have; reserved of limits that are not `strict`."""
    output: int
    """Tokens that it asks for, of all its answers; at least 1, or 0 for what has no output."""
    least_output: int = 1
    """With fewer it is not worth sending: 1 for each answer."""
    weight: float = 1.0
    """So many tokens count for one of this model's; over 0. What a limit counts of a request is rounded up once."""
    shares: Sequence[Share] = ()
    """In the order of its outbounds; nothing that a store looks at."""


make_cost = maker(Cost)


class Spent(NamedTuple):
    """What it has cost."""

    prompt: int
    output: int


class Grant(NamedTuple):
    """It may go ahead."""

    output: int
    """Most tokens that its answers may have together; at most what was asked for."""
    quotas: Quotas | None
    """Of every limit, in their order, with this request's part reserved; None: there are none."""
    scarce: Sequence[Standing]
    """How those limits stand of which a fifth or less is left."""
    at: float
    """When it was reserved: Unix seconds, by the clock of whoever counts."""


make_grant = maker(Grant)


class Standing(NamedTuple):
    """How a limit stands."""

    limit: Limit
    used: int
    """Settled."""
    reserved: int
    """By requests under way."""
    reset_at: float | None
    """Unix seconds when the count begins anew, or, of the last minute, is over; None: time changes nothing."""


class Refusal(NamedTuple):
    """It may not."""

    standing: Standing
    """Of the limit that is in the way longest; one that only requests under way have filled counts least."""
    retry_after_s: float | None
    """Seconds until time alone makes room in that limit; None: it never does. Then either the request is more than
    the whole limit (or was settled or cancelled before), or the limit is of concurrency and `under_way` is true."""
    under_way: bool
    """Whether only requests under way are in the way, of any limit: they may end at any moment."""
    standings: Sequence[Standing]
    """Of every limit."""


class Unknown(NamedTuple):
    """Some counts are not known yet: `seed` them, and ask again. Never of concurrency."""

    counters: Mapping[Counter, str]
    """With each a word that says as of when it is not known, for `seed`."""


class Uncountable(Exception):
    """The store does not answer now."""


class Store(Protocol):
    """Counts. Amounts are of requests or weighted tokens, whole numbers; times are Unix seconds."""

    async def reserve(self, id: UUID, limits: tuple[Limit, ...], cost: Cost) -> Grant | Refusal | Unknown:
        """Reserve what the request `id` may cost of all `limits`, or nothing of any. Raises Uncountable.

        No two `limits` have one counter; each is judged by the amount that it has here. The very same tuple for the
        same limits is found again sooner. A limit of 0 refuses whatever
        the cost. Asked again for an id that has a grant, gives that again; refuses an id that was settled or cancelled,
        even before it came. With no limits there is a grant of all and nothing is held.
        """

    def settle(self, id: UUID, spent: Spent) -> None:
        """Count what it has cost, all of it even if it is more than was granted, in the windows in which it was
        reserved, and release the rest. Of an id that was settled or never reserved: nothing. Never waits, never
        raises."""

    def cancel(self, id: UUID) -> None:
        """It never reached a node: release all, count nothing. Never waits, never raises."""

    def seed(
        self, used: Mapping[Counter, Sequence[tuple[float, int]]], asked: Mapping[Counter, str] | None = None
    ) -> None:
        """What was used by requests that this store has never heard of, for counters that `reserve` did not know:
        amounts with the second in which each falls, in any order. A counter that was used for nothing is named too, or
        it stays unknown. One that is known by now, since somebody else seeded it, stays as it is.

        `asked` is what Unknown said before the amounts were read: a counter that was to be forgotten since then stays
        unknown. None: they were read just now. Never waits, never raises."""

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """How they stand; counters that are not known are left out. Raises Uncountable."""

    def forget(self, subjects: Collection[UUID] | None) -> None:
        """The limits of these users and keys have changed, None: of all, so that some of what they used may not have
        been counted. Their counters become unknown; one that requests have reserved in goes on, and does so once the
        last of them has ended. Concurrency stays as it is. Never waits, never raises."""

    async def counts(self) -> Mapping[Counter, int]:
        """What was used of every counter of an hour, a day or a month that is known. Raises Uncountable."""

    def correct(self, counter: Counter, amount: int, least: int = 0) -> None:
        """Add to what was used in the current window, or take from it, as far as `least` is left. Nothing for a counter
        that is not known. What does not arrive is not said again. Never waits, never raises."""

    async def held(self) -> Collection[UUID]:
        """The requests that this process has reserved for, and not settled or cancelled."""
