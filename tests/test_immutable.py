"""Values that are made often are values all the same."""

from __future__ import annotations

from parallama import Outbound
from parallama.gateway.api import ReplyFacts


def test_what_a_plugin_is_given_and_gives_can_be_a_key() -> None:
    asked = {Outbound(method="GET", path="/api/tags"): "models"}
    assert asked[Outbound(method="GET", path="/api/tags")] == "models"
    told = [ReplyFacts(request_id="1", node=None, model=None, quotas=(), at=0.0) for _ in range(2)]
    assert len(set(told)) == 1
