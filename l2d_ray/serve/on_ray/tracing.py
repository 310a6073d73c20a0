"""OpenTelemetry traces through ingress, encoder and shards: Serve's own spans, and a span for each stage of a request. Off by default.

A Serve configuration switches them on, and ``OTEL_EXPORTER_OTLP_ENDPOINT`` says where the collector is (extra ``tracing``):

    tracing_config: {enabled: true, exporter_import_path: "l2d_ray.serve.on_ray.tracing:otlp", sampling_ratio: 0.01}

A call that several requests share belongs to the trace of the first of them, but to no request: Serve cancels what a request has called
when its caller leaves, and the others still wait for it.
"""

from __future__ import annotations

import time
from contextvars import Context, copy_context
from typing import Any, Final

from opentelemetry import context, trace

from l2d_ray.serve.messages import RecommendationAnswer

STAGES: Final = ("tokenize", "encode", "search", "merge")
"""In order of time."""


def otlp() -> list[Any]:
    """Span processors that send to an OTLP collector over HTTP; Serve calls this once in every process."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


class SharedCalls:
    """Contexts for calls that several requests share: that of this object's making, with the trace of who asks for one."""

    def __init__(self) -> None:
        self._base = copy_context()

    def __call__(self) -> Context:
        made = self._base.copy()
        if trace.get_current_span().is_recording():
            made.run(context.attach, context.get_current())
        return made


def note_stages(answer: RecommendationAnswer) -> None:
    """A span for each stage of an answer that has just been made, below the span of its request where that is recorded."""
    if not trace.get_current_span().is_recording():
        return
    tracer, end_ns = trace.get_tracer("l2d_ray"), time.time_ns()
    for stage in reversed(STAGES):
        start_ns = end_ns - int(getattr(answer.timings_ms, stage) * 1_000_000)
        span = tracer.start_span(stage, start_time=start_ns, attributes={"decoder": answer.decoder, "version": answer.memory_version})
        span.end(end_ns)
        end_ns = start_ns
