"""Commands with --server: which have it, what is no server, and what they say of one that is no Parallama."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

import pytest
from commands import at_server, command_line, refused

GROUPS = ("audit", "auth", "gateway", "key", "role", "user")


def test_every_command_on_records_can_be_sent_to_a_server() -> None:
    for group in GROUPS:
        commands = getattr(import_module(f"parallama.cli.{group}"), group).commands
        for name, command in commands.items():
            assert {"server", "key_file"} <= {option.name for option in command.params}, f"{group} {name}"


def test_what_is_for_this_machine_does_not_go_with_a_server(tmp_path: Path) -> None:
    done = at_server("http://127.0.0.1:1", "plm_x", tmp_path)("user", "list", "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--data is a directory of this machine" in done.stderr
    file = tmp_path / "key"
    file.write_text("plm_x")
    here = command_line("postgresql://127.0.0.1:1/none", tmp_path)
    done = here("user", "list", "--key-file", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--key-file is for --server URL" in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://localhost", "http://", "http:///x", "http://[::1", "http://me:secret@localhost"),
        *(
            "http://localhost:port",
            "http://localhost:99999",
            "http://localhost?x=1",
            "http://localhost/#x",
            "http://a\nb",
        ),
        *("http://[xyz]", "http://localhost/\udc80"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused(tmp_path: Path, url: str) -> None:
    done = at_server(url, "plm_x", tmp_path)("user", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--server must be such as" in done.stderr
    assert "secret" not in done.stderr


def test_a_server_that_does_not_run_is_named(tmp_path: Path) -> None:
    message = refused(at_server("http://127.0.0.1:1", "plm_x", tmp_path), "user", "list")
    assert message == "Error: the gateway at http://127.0.0.1:1 does not answer (ConnectError)\n"


class Elsewhere(BaseHTTPRequestHandler):
    """Something else than Parallama. What it answers is the first part of the path."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        status, headers, body = _ANSWERS[kind]
        self.server.seen.append(self.headers["Host"])  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_DELETE = do_PATCH = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


_PAGE = b"<!DOCTYPE html>\n<html>\n<title>Hello</title>\n</html>\n"
_ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "page": (200, {"Content-Type": "text/html"}, _PAGE),
    "missing": (404, {"Content-Type": "text/html"}, _PAGE),
    "lines": (404, {"Content-Type": "text/plain"}, b"404\nnot found\n"),
    "json": (200, {"Content-Type": "application/json"}, b'{"hello": "world"}'),
    "list": (200, {"Content-Type": "application/json"}, b"[]"),
    "moved": (302, {"Location": "http://127.0.0.1:1/"}, b""),
    "broken": (200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"no gzip"),
    "failing": (500, {"Content-Type": "text/html"}, _PAGE),
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", _ANSWERS)
@pytest.mark.parametrize(
    "args", [["user", "list"], ["user", "delete", "bob", "--yes"], ["key", "generate", "bob"], ["gateway", "status"]]
)
def test_something_else_than_a_parallama_is_said_on_one_line(
    elsewhere: HTTPServer, tmp_path: Path, kind: str, args: list[str]
) -> None:
    run = at_server(f"http://127.0.0.1:{elsewhere.server_port}/{kind}", "plm_secret", tmp_path / "state")
    message = refused(run, *args)
    assert "<" not in message
    assert "plm_secret" not in message
    assert not (tmp_path / "state").exists()


def test_a_redirect_is_not_followed(elsewhere: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = f"http://localhost:{elsewhere.server_port}/json"
    monkeypatch.setitem(_ANSWERS, "moved", (307, {"Location": other}, b""))
    elsewhere.seen.clear()  # type: ignore[attr-defined]
    here = f"127.0.0.1:{elsewhere.server_port}"
    refused(at_server(f"http://{here}/moved", "plm_secret", tmp_path), "user", "list")
    assert elsewhere.seen == [here]  # type: ignore[attr-defined]
