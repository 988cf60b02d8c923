"""What the operator is told about wrong settings: all of it at once, with the place and what would be right."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parallama.config import NodeSettings, load_settings, resolve
from parallama.config.schema import leaves
from parallama.errors import ConfigError


def refused(text: str, directory: Path, **environ: str) -> list[str]:
    """The lines of the ConfigError, with `FILE` for the file's path."""
    path = directory / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ=environ)
    return str(caught.value).replace(str(path), "FILE").splitlines()


def test_all_errors_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
server:
  port: abc
  hst: x
  host: 8
databse: {}
database:
  pool_size: 0
  connect_s: .nan
logs: {level: loud, max_mb: 1.5}
usage: [1]
timezone: Europe/Berln
"""
    environ = {"PARALLAMA__AUTH__ALLOW_ANONYMOUS": "maybe", "PARALLAMA__SERVER__PROT": "1"}
    assert refused(text, tmp_path, **environ) == [
        "FILE:2: server.port is 'abc', but must be a whole number",
        "FILE:3: unknown key server.hst; did you mean server.host?",
        "FILE:4: server.host is 8, but must be text; put it in quotes",
        "FILE:5: unknown key databse; did you mean database?",
        "FILE:7: database.pool_size is 0, but must be at least 1",
        "FILE:8: database.connect_s is nan, but must be a finite number",
        "FILE:9: logs.level is 'loud', but must be one of 'debug', 'info', 'warning' or 'error'",
        "FILE:9: logs.max_mb is 1.5, but must be a whole number",
        "FILE:10: usage must be a mapping: indented lines `key: value`",
        "FILE:11: timezone is 'Europe/Berln', but must be a time zone of the IANA database, such as Europe/Berlin; "
        "did you mean Europe/Berlin?",
        "PARALLAMA__SERVER__PROT: there is no such setting; did you mean PARALLAMA__SERVER__PORT?",
        "PARALLAMA__AUTH__ALLOW_ANONYMOUS: auth.allow_anonymous is 'maybe', but must be true or false",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("port: 1", ["FILE:1: unknown key port; did you mean server.port?"]),
        ("server: {port: 1, port: 2}", ["FILE:1: server.port is given twice, in line 1 and line 1"]),
        ("server:\n  port: 1\nserver:\n  host: x", ["FILE:3: server is given twice, in line 1 and line 3"]),
        ("server: {port: 65536}", ["FILE:1: server.port is 65536, but must be at most 65535"]),
        ("server: {port: true}", ["FILE:1: server.port is true, but must be a number"]),
        ("server: {port: }", ["FILE:1: server.port is empty, but must be a whole number"]),
        ("server: {? [a] : 1}", ["FILE:1: server: a key must be a plain word"]),
        ("server: {<<: {port: 1}}", ["FILE:1: unknown key server...."]),
        ("server:\n  host: !x y", ["FILE:2: server.host has a tag ('!...'), which means nothing here; "
                                   "put text that begins with '!' in quotes"]),
        ("\nserver: {port: '${P}'}", ["FILE:2: server.port needs the environment variable P, which is not set; "
                                      "${P:-...} gives a default"]),
        ("server: {host: 'a${b'}", ["FILE:1: server.host has a malformed placeholder: write ${NAME} or "
                                    "${NAME:-default}, or $${ for a plain ${"]),
        ("- a", ["FILE:1: the settings must be a mapping: lines `section:`, `key: value`"]),
        ("text", ["FILE:1: the settings must be a mapping: lines `section:`, `key: value`"]),
        ("nodes: []", ["FILE:1: nodes must have exactly one node in this version, not 0"]),
        ("nodes: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}]",
         ["FILE:1: nodes must have exactly one node in this version, not 2"]),
        ("nodes: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]",
         ["FILE:1: nodes must have a name of its own for each node; more than one is called a"]),
        ("nodes:\n- url: http://a", ["FILE:2: nodes.0.name is missing"]),
        ("auth: {key_header: traceparent}",
         ["FILE: auth.key_header and relay.forward_headers both name traceparent: keys must not reach a node"]),
        ("auth: {key_header: user-agent}",
         ["FILE:1: auth.key_header is 'user-agent', but must be a header for keys alone: clients or proxies send this "
          "one with something else"]),
        ("server: {port: 1}\n---\n{}", ["FILE:2: this is not YAML: but found another document"]),
        ("server: {port: 1\n", ["FILE:2: this is not YAML: did not find expected ',' or '}'"]),
        ("a: 1\nserver: \x01", ["FILE:2: this is not YAML: a control character stands here"]),
        ("a: 1\nb: \udcff", ["FILE:2: the settings file must be UTF-8 text"]),
        ("a: *b", ["FILE:1: this is not YAML: found undefined alias"]),
    ],
)  # fmt: skip
def test_each_error_names_the_line_and_what_would_be_right(text: str, lines: list[str], tmp_path: Path) -> None:
    assert refused(text, tmp_path) == lines


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: &a [*a]",
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
    ],
    ids=["deep", "endless", "bomb"],
)
def test_yaml_that_unfolds_without_end_is_refused(text: str, tmp_path: Path) -> None:
    (line,) = refused(text, tmp_path)
    assert line.startswith("FILE: ")


def test_a_modest_anchor_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {drain_s: &t 7}\nrelay: {body_s: *t}\n")
    assert load_settings(path, environ={}).relay.body_s == 7


def test_a_value_from_a_placeholder_is_not_shown(tmp_path: Path) -> None:
    (line,) = refused("server: {port: '${DB_PASSWORD}'}", tmp_path, DB_PASSWORD="hunter2hunter2")
    assert line == "FILE:1: server.port is ${DB_PASSWORD}, but must be a whole number"


@pytest.mark.parametrize("index", ["1", "7"])
def test_a_variable_for_a_node_that_is_not_there_is_refused(index: str) -> None:
    with pytest.raises(ConfigError, match=rf"PARALLAMA__NODES__{index}__URL: nodes\.{index}"):
        load_settings(environ={f"PARALLAMA__NODES__{index}__URL": "http://x"})


@pytest.mark.parametrize("name", ["PARALLAMA__", "PARALLAMA__X", "PARALLAMA__SERVER__PORT__X", "PARALLAMA__NODES__A"])
def test_unknown_variables_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: there is no such setting"):
        load_settings(environ={name: "1"})


@pytest.mark.parametrize("value", ["[{", "[\udcff]", "[\x01]"])
def test_broken_yaml_in_a_variable_names_the_variable(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^PARALLAMA__NODES: this is not YAML"):
        load_settings(environ={"PARALLAMA__NODES": value})


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"command line: unknown key server\.prot; did you mean server\.port\?"):
        load_settings(environ={}, flags={"server.prot": 1})


keys = st.sampled_from([*{str(step) for leaf in leaves() for step in leaf}, "x", "<<", ""])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=9)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
documents = values | st.dictionaries(keys, st.dictionaries(keys, values, max_size=4), max_size=4)


@given(text=documents.map(yaml.safe_dump) | st.text(max_size=40) | st.text("[]{}:-*&!|>'\"#%@$a \n", max_size=40))
def test_whatever_the_file_holds_the_error_is_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        list(resolve(path, environ={"PARALLAMA__NODES": text.replace("\0", "")}).rows())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:11434", "must begin with http:// or https://"),
        ("ftp://x", "must begin with http:// or https://"),
        ("http://", "must be a URL"),
        ("http://:80", "must be a URL"),
        ("http://x:99999", "must be a URL"),
        ("http://x y", "must be a URL"),
        ("http://[::zz]", "must be a URL"),
        ("http://x\n", "must be a URL"),
        ("http://user@x", "must not hold a user name"),
        ("http://x?a=b", "no '\\?'"),
        ("http://x/#", "no '#'"),
    ],
)
def test_a_node_url_is_only_scheme_host_port_and_path(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        NodeSettings(name="n", url=url)


@pytest.mark.parametrize(
    "name",
    ["Host", "authorization", "X-Api-Key", "cookie", "connection", "te", "transfer-encoding", "content-length",
     "expect", "accept-encoding", "forwarded", "X-Forwarded-For", "access-control-request-method", "origin",
     "referer", "upgrade", "keep-alive", "proxy-authorization"],
)  # fmt: skip
def test_headers_that_must_stay_here_are_refused(name: str, tmp_path: Path) -> None:
    (line,) = refused(f"relay:\n  forward_headers:\n  - accept\n  - {name}", tmp_path)
    assert line.startswith(f"FILE:4: relay.forward_headers.1 is '{name}', but must not be forwarded")


@pytest.mark.parametrize("zone", ["Europe", "../../etc/passwd", "/etc/localtime", "", "Nowhere/At_All"])
def test_only_names_of_time_zones_are_time_zones(zone: str, tmp_path: Path) -> None:
    (line,) = refused(f"timezone: '{zone}'", tmp_path)
    assert "must be a time zone of the IANA database" in line
