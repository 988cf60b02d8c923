"""Commands with --server: whose key they take, from where, and what they say when it is not enough."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from admin_api import Api, api, in_one_loop
from commands import Commands, at_server

__all__ = ["api"]

pytestmark = in_one_loop

PASSWORD = "correct horse battery staple"
UNKNOWN = "0b92d34f-f64e-4067-af1e-0f565d5a3e72"


async def test_a_key_file_comes_before_the_environment(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{api.root}\n")
    wrong = Commands(at_server(api.gateway.url, "plm_wrong", tmp_path / "state"))
    assert "alice" in await wrong.said("user", "list", "--key-file", str(file))


async def test_an_access_token_is_as_good_as_a_key(api: Api, tmp_path: Path) -> None:
    await api.done("POST", "users", {"username": "fay", "admin": True, "password": PASSWORD})
    login = {"username": "fay", "password": PASSWORD}
    token = (await api.done("POST", "/auth/login", login, key=""))["access_token"]
    fay = Commands(at_server(api.gateway.url, token, tmp_path / "state"))
    assert await fay.said("user", "create", "gus") == "created user gus (role basic, active)\n"
    change, *_ = await fay.told("audit", "list", "--user", "gus")
    assert change["actor"] == "fay"


async def test_a_permission_that_the_key_lacks_is_named(api: Api, tmp_path: Path) -> None:
    alice = Commands(at_server(api.gateway.url, api.gateway.key, tmp_path / "state"))
    for args, permission in {
        ("user", "list"): "manage_users",
        ("key", "info", UNKNOWN): "manage_users",
        ("role", "list"): "manage_roles",
        ("gateway", "status"): "manage_models",
        ("gateway", "metrics", "--gateway", "ollama"): "view_metrics",
    }.items():
        assert await alice.refused(*args) == f"Error: you need the permission {permission}\n"


async def test_a_wrong_key_is_said_and_not_shown(api: Api, tmp_path: Path) -> None:
    mistyped = api.root[:-1] + ("y" if api.root.endswith("x") else "x")
    for key in (mistyped, "plm_wrong", "no key at all"):
        message = await Commands(at_server(api.gateway.url, key, tmp_path / "state")).refused("user", "list")
        assert "key" in message
        assert key not in message


@pytest.mark.parametrize("key", [None, "", " ", "two\nlines", "clé"])
async def test_without_a_key_it_is_said_where_to_put_it(api: Api, tmp_path: Path, key: str | None) -> None:
    done = await Commands(at_server(api.gateway.url, key, tmp_path)).done("user", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "PARALLAMA_API_KEY must hold the API key, or an access token" in " ".join(done.stderr.split())


@pytest.mark.parametrize("held", [b"", b"\n", b"\xff\xfe\x00", b"two\nlines"])
async def test_a_file_without_a_key_is_named(api: Api, tmp_path: Path, held: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(held)
    done = await Commands(at_server(api.gateway.url, api.root, tmp_path)).done("user", "list", "--key-file", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(file) in done.stderr.replace("\n", "")


async def test_processes_print_no_key_and_leave_no_state_directory(api: Api, tmp_path: Path) -> None:
    file, state = tmp_path / "key", tmp_path / "state"
    file.write_text(api.root)
    env = {"PATH": os.defpath, "HOME": str(tmp_path / "home"), "PARALLAMA_DATA_DIR": str(state)}
    command = [sys.executable, "-m", "parallama", "user", "list", "--server", api.gateway.url]

    def run(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env={**env, **variables}, capture_output=True, text=True, timeout=60, check=False
        )

    by_variable, by_file = await asyncio.gather(
        asyncio.to_thread(run, PARALLAMA_API_KEY=api.root), asyncio.to_thread(run, "--key-file", str(file))
    )
    for done in (by_variable, by_file):
        assert (done.returncode, done.stderr) == (0, "")
        assert "alice" in done.stdout
        assert api.root not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key"]
