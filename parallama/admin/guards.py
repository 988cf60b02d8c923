"""What a route asks of its caller. Every route that no gateway owns declares one.

Whoever asks with less than a full credential, a key that is limited or that expires, makes nobody a wider one: what may
give a credential or a permission is refused to them here, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallama.errors import NotAllowed
from parallama.exchange import Caller

_READS = frozenset({"GET", "HEAD"})
_GIVING_NOTHING = frozenset({"manage_models", "view_metrics"})
"""Permissions for what gives nobody a credential or a permission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Who is let in."""

    permissions: tuple[str, ...] = ()
    """Those that are needed; (): any caller who is known."""
    any: bool = False
    """True: one of them is enough."""
    public: bool = False
    """True: nobody is asked who they are."""
    limited: bool = False
    """Whether a key that is limited to gateways or models is enough."""
    gives: bool = True
    """Whether what it lets change may give somebody a credential or a permission; a full credential is needed then."""

    def needs_full(self, method: str) -> bool:
        """Whether a request by this HTTP method needs a full credential."""
        return self.gives and not self.public and method not in _READS

    def check(self, caller: Caller, method: str) -> None:
        """Raise NotAllowed, naming what is missing."""
        missing = [permission for permission in self.permissions if not caller.may(permission)]
        if missing and not (self.any and len(missing) < len(self.permissions)):
            raise NotAllowed(f"you need the permission {(' or ' if self.any else ' and ').join(missing)}")
        policy = caller.policy
        if not self.limited and policy and (policy.gateways is not None or policy.models is not None):
            raise NotAllowed("this key is limited to gateways or models, and good for nothing else")
        if self.needs_full(method) and not caller.full:
            raise NotAllowed(f"{_shortfall(caller)}: log in, or use a key that is not limited and does not expire")


def _shortfall(caller: Caller) -> str:
    if caller.key_id is None:
        return "this is for nobody without a credential"
    what = "expires" if caller.expires_at is not None and caller.policy is None else "is limited"
    return f"this key {what}, and gives nobody credentials or permissions"


PUBLIC = Guard(public=True)
KNOWN = Guard(limited=True)
"""Any caller who is known, however limited the key is."""


def needs(*permissions: str) -> Guard:
    """All of these permissions."""
    return Guard(permissions=permissions, gives=not _GIVING_NOTHING.issuperset(permissions))


def needs_any(*permissions: str) -> Guard:
    """One of these permissions."""
    return Guard(permissions=permissions, any=True, gives=not _GIVING_NOTHING.issuperset(permissions))
