"""The pages on which the server tells its state: where they are, who may see them, and what they answer.

Their handlers are made in `state.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from parallama.admin import state
from parallama.admin.guards import PUBLIC, needs
from parallama.admin.state import Handler
from parallama.admin.views import Content, View, page

_JSON, _TEXT = "application/json", "text/plain"
_OVERVIEW = {200: Content("JSON; Ollama's liveness text for HEAD and where `Accept` begins with `text/plain`.",
                          {_JSON: state.Overview, _TEXT: str})}  # fmt: skip
_ALIVE = page(_TEXT, description="`Ollama is running`.")
_READY: Mapping[int, Content] = {
    200: Content("It takes work.", {_JSON: state.Ready}),
    503: Content("It is stopping, or the database does not answer.", {_JSON: state.NotReady}),
}
_SAMPLES = {200: Content("Prometheus' text, or OpenMetrics for those who ask for it.",
                         {_TEXT: str, "application/openmetrics-text": str})}  # fmt: skip


def state_views(root: Handler, readyz: Handler, status: Handler, metrics: Handler) -> list[View]:
    """Every page but discovery. The handlers: as `state` makes them."""
    on, watch = partial(View, tag="state", guard=PUBLIC), needs("view_metrics")
    alive = partial(on, handler=state.liveness, answers=_ALIVE, summary="What Ollama's clients look for.")
    return [
        on(name="get_overview", path="/", summary="The gateways that are on.", handler=root, answers=_OVERVIEW),
        alive(name="get_liveness", path="/ollama"),
        alive(name="get_liveness_below", path="/ollama/"),
        on(name="get_health", path="/healthz", summary="Whether the process runs.", handler=state.healthz,
           answers=page(_JSON, state.Health, "It does.")),
        on(name="get_readiness", path="/readyz", summary="Whether it takes work.", handler=readyz, answers=_READY),
        on(name="get_status", path="/status", summary="How every gateway fares.", guard=watch, handler=status,
           answers=page(_JSON, state.Status, "As of the last minute.")),
        on(name="get_metrics", path="/metrics", summary="Counts and gauges for Prometheus.", guard=watch,
           handler=metrics, answers=_SAMPLES),
    ]  # fmt: skip
