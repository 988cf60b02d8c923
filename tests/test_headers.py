"""Which headers pass."""

from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from parallama.config import RelaySettings
from parallama.proxy.headers import HOP_BY_HOP, client_request_id, for_client, for_node

ALLOWED = RelaySettings().forward_headers
SECRET = ("Host", "Origin", "Referer", "Authorization", "X-Api-Key", "Cookie", "Proxy-Authorization", "Accept-Encoding")

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)


def _sent(*headers: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(headers))


def test_only_allowed_headers_reach_a_node() -> None:
    sent = _sent(("Content-Type", "application/json"), *((name, "x") for name in (*SECRET, *HOP_BY_HOP)))
    assert for_node(sent, ALLOWED) == {"content-type": "application/json"}


@given(st.lists(names, max_size=5))
def test_what_connection_names_never_reaches_a_node(named: list[str]) -> None:
    headers = [(name, "x") for name in ALLOWED] + [("Connection", f" {name.upper()} ") for name in named]
    assert not set(named) & for_node(_sent(*headers), ALLOWED).keys()


@given(st.dictionaries(names, st.just("x")))
def test_any_set_of_headers_yields_a_subset_of_the_allow_list(headers: dict[str, str]) -> None:
    assert for_node(_sent(*headers.items()), ALLOWED).keys() <= set(ALLOWED)


def test_a_nodes_headers_pass_in_order_and_spelling_without_those_of_its_connection() -> None:
    node = (("Content-Type", "a"), ("Connection", "close, X-Hop"), ("X-Hop", "b"), ("x-Custom", "c"), ("Date", "d"))
    node = (*node, ("Transfer-Encoding", "chunked"), ("Access-Control-Allow-Origin", "*"), ("x-custom", "e"))
    passed = [("Content-Type", "a"), ("x-Custom", "c"), ("Date", "d"), ("x-custom", "e")]
    assert list(for_client(node).items()) == passed


def test_only_a_printable_short_request_id_is_kept() -> None:
    assert client_request_id(_sent(("X-Request-ID", "abc-1"))) == "abc-1"
    for bad in ("", "é", "a\tb", "x" * 129):
        assert client_request_id(_sent(("X-Request-ID", bad))) is None
