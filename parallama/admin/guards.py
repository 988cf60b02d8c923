"""What a route asks of its caller. Every route that no gateway owns declares one."""

from __future__ import annotations

from dataclasses import dataclass

from parallama.errors import NotAllowed
from parallama.exchange import Caller


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

    def check(self, caller: Caller) -> None:
        """Raise NotAllowed, naming what is missing."""
        missing = [permission for permission in self.permissions if not caller.may(permission)]
        if missing and not (self.any and len(missing) < len(self.permissions)):
            raise NotAllowed(f"you need the permission {(' or ' if self.any else ' and ').join(missing)}")
        policy = caller.policy
        if not self.limited and policy and (policy.gateways is not None or policy.models is not None):
            raise NotAllowed("this key is limited to gateways or models, and good for nothing else")


PUBLIC = Guard(public=True)
KNOWN = Guard(limited=True)
"""Any caller who is known, however limited the key is."""


def needs(*permissions: str) -> Guard:
    """All of these permissions."""
    return Guard(permissions=permissions)


def needs_any(*permissions: str) -> Guard:
    """One of these permissions."""
    return Guard(permissions=permissions, any=True)
